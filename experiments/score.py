"""Scores a folder of images, of any size, with a run that experiments.run trained.

The same command again goes on where it stopped. With --coordinator_address, --num_processes and
--process_id several processes, one a machine or one a GPU, score a share each.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from cae_jax.runs import config, job
from cae_jax.runs.machine import multihost
from cae_jax.serving import detector, stream
from cae_jax.types import UsageError

_WHICH = ("category", "model", "seed", "loss")
_IMAGES = flags.DEFINE_string("images", "", "the folder of the images to score")
_OUTPUT = flags.DEFINE_string("output", "", "where scores.csv and left_out.csv go")
_PERCENT = flags.DEFINE_integer("percent", 90, "share of good images below the threshold", 1, 100)
_RECURSIVE = flags.DEFINE_bool("recursive", True, "also the folders in the folder")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "images per call, on all devices", 1)
_SAVE_MAPS = flags.DEFINE_bool("save_maps", False, "also write residual maps and predicted masks")


def run() -> None:
    """Scores the folder of the flags and says where the table lies."""
    for flag in ("workdir", "images", "output"):
        if not flags.FLAGS[flag].value:
            raise UsageError(f"--{flag} is needed")
    multihost.start_from_flags()
    job.use_compilation_cache()
    which = {name: flags.FLAGS[name].value for name in _WHICH if flags.FLAGS[name].present}
    workdir, images, output = (
        Path(flags.FLAGS[flag].value).expanduser() for flag in ("workdir", "images", "output")
    )
    found = stream.score_folder(
        detector.load(workdir, **which, percent=_PERCENT.value),
        images,
        output,
        recursive=_RECURSIVE.value,
        batch_size=_BATCH_SIZE.value,
        on_bad_image=flags.FLAGS.on_bad_image,
        save_maps=_SAVE_MAPS.value,
        overwrite=flags.FLAGS.overwrite,
    )
    if multihost.is_first():
        print(
            f"{found.n_images} images scored, {found.n_defective} of them defective, "
            f"{found.n_left_out} left out: {output / 'scores.csv'}"
        )


if __name__ == "__main__":
    config.define(["workdir", *_WHICH, "on_bad_image", "overwrite"])
    multihost.define_flags()
    config.main(run)
