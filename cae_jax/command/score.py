"""Scores a folder of images, of any size, with what a run has learned.

The same command again goes on where it stopped. With --coordinator_address, --num_processes and
--process_id several processes, one a machine or one a GPU, score a share each.
"""

from __future__ import annotations

from absl import flags

from cae_jax.runs import command_line
from cae_jax.runs.machine import multihost

_WHICH = ("category", "method", "model", "seed", "loss")  # of a workdir's runs
_AS_RUN = ("on_bad_image", "save_maps", "overwrite", "csv")
_PERCENT = flags.DEFINE_integer(
    "percent",
    None,
    "share of good images below the threshold; as in the report if not given",
    1,
    100,
)
_FALSE_ALARMS = flags.DEFINE_float(
    "false_alarms",
    None,
    "rate of them that the threshold is for; as in the report if not given",
    0,
    0.5,
)
_THRESHOLD = flags.DEFINE_string(
    "threshold", None, "the rule of the threshold, in place of both: percent:90, f1_best ..."
)
_CHECKPOINT = flags.DEFINE_enum("checkpoint", None, ["last", "best"], "whose weights judge")
_RECURSIVE = flags.DEFINE_bool("recursive", True, "also the folders in the folder")
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "images per call, on all devices", 1)
_PICTURES = flags.DEFINE_integer(
    "pictures", 60, "images of the report with pictures; 0: no report", 0, 1000
)
flags.DEFINE_string("images", "", "the folder of the images to score, or one image")
flags.DEFINE_string("output", "", "where scores.csv, left_out.csv and report.html go")


def run() -> None:
    """Scores the folder of the flags and says where the table lies."""
    from cae_jax.scoring import compilation  # a --help need not wait for them
    from cae_jax.serving import folder, score_page, trained

    workdir = command_line.needed("workdir", "the folder of a run")
    images = command_line.needed("images", "the folder of the images to score")
    output = command_line.needed("output", "where the tables go")
    multihost.start_from_flags()
    compilation.use_cache()
    found = folder.score_folder(
        trained.open_run(
            workdir,
            *(_PERCENT.value, _FALSE_ALARMS.value, _THRESHOLD.value, _CHECKPOINT.value),
            **command_line.present(_WHICH),
        ),
        images,
        output,
        recursive=_RECURSIVE.value,
        batch_size=_BATCH_SIZE.value,
        pictures_in_report=_PICTURES.value,
        **{name: command_line.value(name) for name in _AS_RUN},
    )
    if multihost.is_first():
        print(
            f"{found.n_images} images scored, {found.n_defective} of them defective, "
            f"{found.n_left_out} left out: {output / 'scores.csv'}"
        )
        if _PICTURES.value:
            print(f"the most unusual ones, with pictures: {output / score_page.NAME}")


if __name__ == "__main__":
    multihost.define_flags()
    names = ["workdir", *_WHICH, *_AS_RUN]
    command_line.main(run, names, again="the same command goes on where it stopped")
