"""Writes the built-in synthetic data set as a folder in MVTec AD's layout."""

from __future__ import annotations

from absl import flags

from cae_jax import data
from cae_jax.data import synthetic
from cae_jax.runs import command_line
from cae_jax.types import height_width

flags.DEFINE_string("output_dir", "", "where the categories' folders are written")


def run() -> None:
    """Draws the categories of the flags and writes them."""
    output = command_line.needed("output_dir", "where to write the categories' folders")
    c = command_line.given()
    names = data.resolve("synthetic", None, c.categories)
    side, _ = height_width(c.image_size)  # synthetic images are square
    synthetic.write(output, names, side, c.channels, c.seed)
    print(f"{', '.join(names)} written to {output.absolute()}")


if __name__ == "__main__":
    names = ["category", "image_size", "channels", "seed"]
    command_line.main(run, names, again="remove what was written before the same command")
