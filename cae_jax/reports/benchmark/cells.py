"""The finished cells of a benchmark as one tidy table, and resamples of what they are judged on.

WORKDIR/FOLDER/CATEGORY/RUN/seed_N, where FOLDER is the entry's name, and ENTRY-train_N for N
training images.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cae_jax import files
from cae_jax.evaluation import resampling, verdict
from cae_jax.reports import rules
from cae_jax.reports.run_files import FINISHED, Run, cells_with, label, read_run, real
from cae_jax.types import DataError

FAILED = "failed.json"  # why cells are not finished, by ENTRY/CATEGORY/RUN/seed_N
TRIVIAL = "trivial_"  # how the columns of the trivial scores' AUROC begin
_COUNTS = ("n_train", "n_validation", "n_good", "n_defective")
_SAME = ("image_auroc", "pixel_auroc", "au_pro_30", "au_pro_5")
SATURATED = ("au_spro_30", "au_spro_5")  # columns where a cell's data have saturations
_COSTS = ("train_seconds", "ms_per_image", "model_megabytes")
COLUMNS = (
    *("entry", "train_images", "category", "seed", "method", "run", "distance"),
    *_COUNTS,
    *("image_size", "channels", *_SAME, "image_auroc_low", "image_auroc_high"),
    *("threshold", "good_accuracy", "defect_accuracy", "balanced_accuracy"),
    *("balanced_accuracy_low", "balanced_accuracy_high", "false_alarms"),
    *_COSTS,
    *("flag", "dataset", "device", "jax", "folder", "error"),
)


class Resamples(NamedTuple):
    """What a cell's numbers are on each resample of its test images, float64 [resamples]."""

    image_auroc: np.ndarray
    balanced_accuracy: np.ndarray  # NaN without a threshold from good images alone


class Judged(NamedTuple):
    """The test images of a cell, by their paths."""

    paths: tuple[str, ...]
    labels: np.ndarray  # int [n]
    distances: np.ndarray  # float64 [n]
    right: np.ndarray | None  # bool [n]; None without a threshold from good images alone


class Found(NamedTuple):
    """A benchmark's workdir, read."""

    table: pd.DataFrame  # of COLUMNS and the trivial scores', a row for each cell; failed ones last
    resamples: dict[str, Resamples]  # by the cell's folder
    flags: dict[str, dict[str, str]]  # of flags.txt, by the cell's folder
    judged: dict[str, Judged]  # by the cell's folder


def folder_name(entry: str, train_images: int) -> str:
    """Returns an entry's folder in the workdir; 0 training images are all."""
    return f"{entry}-train_{train_images}" if train_images else entry


def read(workdir: Path) -> Found:
    """Reads the finished cells of a benchmark, and which ones failed.

    Raises DataError for a file that cannot be read.
    """
    rows, resamples, flags, judged = [], {}, {}, {}
    for parent in sorted(path for path in workdir.iterdir() if path.is_dir()):
        for folder in cells_with(parent, FINISHED):
            run = read_run(folder, pictures=False)
            name = folder.relative_to(workdir).as_posix()
            given = dict(line.removeprefix("--").partition("=")[::2] for line in run.flags)
            judged[name] = images = _judged(run)
            drawn = _resampled(run, images)
            rows.append({"folder": name, **_row(run, parent.name, given), **_intervals(drawn)})
            resamples[name], flags[name] = drawn, given
    for name, cause in read_failed(workdir).items():
        rows.append({"folder": name, "error": cause} | _named(name))
    more = dict.fromkeys(key for row in rows for key in row if key not in COLUMNS)
    return Found(pd.DataFrame(rows, columns=[*COLUMNS, *more]), resamples, flags, judged)


def read_failed(workdir: Path) -> dict[str, str]:
    """Returns why cells of a workdir are not finished, by their folders; {} where nothing failed.

    Raises DataError for a file that cannot be read.
    """
    path = workdir / FAILED
    try:
        found = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        causes = {str(name): str(cause) for name, cause in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error
    return {
        name: cause for name, cause in causes.items() if not (workdir / name / FINISHED).exists()
    }


def write_failed(workdir: Path, causes: Mapping[str, str]) -> None:
    """Adds causes to those of the workdir; cells that were finished since are no longer among them.

    Raises DataError where the file cannot be written.
    """
    found = read_failed(workdir) | dict(causes)
    if found:
        workdir.mkdir(parents=True, exist_ok=True)
        files.write_json(workdir / FAILED, found)
    else:
        (workdir / FAILED).unlink(missing_ok=True)


def _row(run: Run, parent: str, flags: Mapping[str, str]) -> dict[str, Any]:
    """A cell's columns, but for its intervals."""
    m, count = run.metrics, int(flags.get("train_images", 0))
    point = _honest(m) or {}
    trivial = m.get("trivial_auroc") or {}
    good = real(point.get("good_accuracy"))
    return {
        "entry": parent.removesuffix(folder_name("", count)) if count else parent,
        "train_images": count,
        "run": label(m),
        **{name: m.get(name) for name in ("category", "seed", "method", "distance")},
        **({"image_size": _size(flags["image_size"])} if "image_size" in flags else {}),
        **({"channels": int(flags["channels"])} if "channels" in flags else {}),
        **{name: m.get(name) for name in (*_COUNTS, *_SAME, *_COSTS)},
        "threshold": rules.name(point) if point else "",
        "good_accuracy": good,
        "defect_accuracy": real(point.get("defect_accuracy")),
        "balanced_accuracy": real(point.get("mean_accuracy")),
        "false_alarms": 1 - good,
        **{name: m.get(name) for name in ("flag", "dataset", "device", "jax")},
        "error": "",
        **{name: m[name] for name in SATURATED if name in m},
        **{f"{TRIVIAL}{name}": real(value) for name, value in trivial.items()},
    }


def _honest(m: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The operating point that counts, where it comes from good images alone."""
    point = rules.shown(m)
    return None if point is None or point.get("leaks", True) else point


def _judged(run: Run) -> Judged:
    test = run.frame[run.frame["split"] == "test"].sort_values("path", kind="stable")
    labels, distances = test["label"].to_numpy(), test["distance"].to_numpy()
    point, right = _honest(run.metrics), None
    if point is not None:
        right = verdict.exceeds(distances, verdict.value(point)) == (labels == 1)
    return Judged(tuple(test["path"]), labels, distances, right)


def _resampled(run: Run, images: Judged) -> Resamples:
    """The same draws for all cells of a category: their test images are the same."""
    category = str(run.metrics.get("category")).encode("utf-8", "surrogateescape")
    counts = resampling.draws(images.labels, [0, zlib.crc32(category)])
    accuracies = np.full(len(counts), np.nan)
    if images.right is not None:
        accuracies = resampling.balanced_accuracies(images.labels, images.right, counts)
    return Resamples(resampling.aurocs(images.labels, images.distances, counts), accuracies)


def _intervals(drawn: Resamples) -> dict[str, float]:
    found = {}
    for name, values in drawn._asdict().items():
        found[f"{name}_low"], found[f"{name}_high"] = resampling.interval(values)
    return found


def _named(folder: str) -> dict[str, Any]:
    """What the path of a cell says of it."""
    parent, category, run, seed = folder.split("/")[-4:]
    entry, _, count = parent.rpartition("-train_")
    few = int(count) if entry and count.isdecimal() else 0
    named = {"entry": entry if few else parent, "train_images": few, "category": category}
    return named | {"run": run, "seed": int(seed.rpartition("_")[2])}


def _size(text: str) -> int | str:
    """A square's side, or what stands there: 256x512."""
    return int(text) if text.isdecimal() else text
