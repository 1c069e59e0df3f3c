"""Holds a method on features beside anomalib's, on a folder of images: what both find, how far
apart they are, and what a fit and a score take on the same cores, by turns.

The settings are those that both have: the network's weights, its stages, the image size, all
channels; PaDiM without averaging and with anomalib's shrinkage, PatchCore with a coreset of all
features. --help --method=NAME lists the flags.
"""

from __future__ import annotations

from absl import flags

from benchmarks import engines, options, sides, timing
from cae_jax.runs import build, command_line

_FLAGS = (
    *("method", "dataset", "data_dir", "category", "image_size", "channels", "intensity"),
    *("train_images", "on_bad_image", "seed", "stages", "coreset"),
)


def run() -> None:
    """Measures every category of the flags; nothing where there is nothing to compare with."""
    settings = sides.equal_settings(command_line.given())
    batches = options.whole_numbers("batch_size")
    repeats, fits = (command_line.value(name) for name in ("repeats", "fits"))
    against, records = options.against([sides.ANOMALIB]), []
    if against:
        from benchmarks.engines import anomalib_twin  # needs torch

        for category in settings.categories:
            s = settings.changed(category=category)
            record = sides.measure(s, build.read_split(s), anomalib_twin, batches, repeats, fits)
            records.append({**record, **timing.environment(engines.packages(against))})
    options.finish(records)


if __name__ == "__main__":
    flags.DEFINE_list("batch_size", ["1", "8"], "images per call, several with commas")
    flags.DEFINE_list("against", [sides.ANOMALIB], f"engines: {sides.ANOMALIB}")
    flags.DEFINE_integer("fits", 3, "timed fits of each side, after a first one", lower_bound=1)
    options.define(repeats=21)
    command_line.main(run, names=_FLAGS)
