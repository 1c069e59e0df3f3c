"""Writes the built-in synthetic data set as a folder in MVTec AD's layout."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from cae_jax import data
from cae_jax.data import synthetic
from cae_jax.runs import config
from cae_jax.types import UsageError

_OUTPUT = flags.DEFINE_string("output_dir", "", "where the categories' folders are written")


def run() -> None:
    """Draws the categories of the flags and writes them."""
    if not _OUTPUT.value:
        raise UsageError("--output_dir is needed: where to write the categories' folders")
    asked = flags.FLAGS.category.split(",")
    names = data.resolve("synthetic", None, [name.strip() for name in asked])
    f = flags.FLAGS
    synthetic.write(Path(_OUTPUT.value).expanduser(), names, f.image_size, f.channels, f.seed)
    print(f"{', '.join(names)} written to {Path(_OUTPUT.value).absolute()}")


if __name__ == "__main__":
    config.define(["category", "image_size", "channels", "seed"])
    config.main(run)
