"""Scores a folder of images, of any size, with what a run has learned.

The same command again goes on where it stopped. With --coordinator_address, --num_processes and
--process_id several processes, one a machine or one a GPU, score a share each. With --engine=ray a
Ray cluster does, from a folder or a bucket; its table is scores.parquet.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from absl import flags

from cae_jax.runs import command_line
from cae_jax.runs.machine import multihost
from cae_jax.types import DataError, UsageError, not_installed

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


_ENGINE = flags.DEFINE_enum("engine", "plain", ["plain", "ray"], "what shares out the images")
_ADDRESS = flags.DEFINE_string(
    "address",
    "",
    "of --engine=ray: HOST:PORT of a cluster's head, or auto; RAY_ADDRESS if not given, and "
    "without either a cluster of this machine",
)
_ACTORS = flags.DEFINE_integer(
    "actors", None, "of --engine=ray: workers; as many as there are CPUs for if not given", 1
)
_CPUS = flags.DEFINE_integer("cpus_per_actor", 1, "of --engine=ray: CPUs, and threads, of each", 1)
_OF_RAY = ("address", "actors", "cpus_per_actor")
_OF_PLAIN = ("on_bad_image", "save_maps", "csv", "pictures", *multihost.FLAGS)


def run() -> None:
    """Scores the folder of the flags and says where the table lies."""
    from cae_jax.scoring import compilation  # a --help need not wait for them
    from cae_jax.serving import folder, score_page, trained

    workdir = command_line.needed("workdir", "the folder of a run")
    images = command_line.needed("images", "the folder of the images to score")
    output = command_line.needed("output", "where the tables go")
    others = _OF_PLAIN if _ENGINE.value == "ray" else _OF_RAY
    for name, word in command_line.words().items():
        if name in others:
            raise UsageError(f"{word}: not of --engine={_ENGINE.value}")
    asked = (_PERCENT.value, _FALSE_ALARMS.value, _THRESHOLD.value, _CHECKPOINT.value)
    if _ENGINE.value == "ray":
        _run_on_ray(workdir, asked)
        return
    multihost.start_from_flags()
    compilation.use_cache()
    found = folder.score_folder(
        trained.open_run(workdir, *asked, **command_line.present(_WHICH)),
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


def _run_on_ray(workdir: Path, asked: tuple[Any, ...]) -> None:
    """The same on a Ray cluster; also of an exported folder."""
    import cae_jax
    from cae_jax.serving import exported, folder, trained

    try:
        from cae_jax.serving.cluster import job, places, table
    except ImportError as error:
        raise not_installed("--engine=ray", error.name, "ray") from error
    which = command_line.present(_WHICH)
    images, output = command_line.value("images"), command_line.value("output")
    is_exported = exported.is_one(workdir)
    if not is_exported:
        trained.the_one(workdir, which)  # told before a cluster starts

    def opening() -> tuple[Any, dict[str, Any]]:
        if is_exported:
            detector = cae_jax.load(workdir, *asked, **which)
            return detector, exported.identity_of(detector)
        opened = trained.open_run(workdir, *asked, **which)
        return opened.detector, folder.identity_of(opened)

    options = job.Options(
        _ADDRESS.value,
        _ACTORS.value,
        _CPUS.value,
        _BATCH_SIZE.value,
        _RECURSIVE.value,
        command_line.value("overwrite"),
    )
    found = job.score(opening, images, output, options)
    print(
        f"{found.n_images} images scored, {found.n_defective} of them defective, "
        f"{found.n_left_out} left out: {places.shown(output, table.NAME)}"
    )
    if not found.n_images:
        raise DataError(f"--images={places.shown(images)}: none of them could be scored")


if __name__ == "__main__":
    multihost.define_flags()
    names = ["workdir", *_WHICH, *_AS_RUN]
    command_line.main(run, names, again="the same command goes on where it stopped")
