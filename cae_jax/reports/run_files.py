"""What a finished cell left behind, read back for its page: no model, no data set."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cae_jax import files
from cae_jax.evaluation.scores import read_scores
from cae_jax.types import DataError, UsageError

if TYPE_CHECKING:  # half a second to import, which loading a model need not wait
    import pandas as pd

# In a cell, WORKDIR/CATEGORY/RUN/seed_N: what it holds as a result, is of, and was begun with.
FINISHED, FLAGS, VERSIONS = "metrics.json", "flags.txt", "versions.json"
EXPORTED = SUMS, FACTS = "SHA256SUMS", "model.json"  # in a folder of experiments.export
FINGERPRINTS = "fingerprints.csv"  # of each of its images
_EXAMPLES = {  # dtype kind and number of axes of the arrays in examples.npz
    "row": ("iu", 1),
    "image": ("u", 4),
    "reconstruction": ("u", 4),
    "residual": ("f", 3),
    "mask": ("b", 3),
    "has_mask": ("b", 1),
    "predicted": ("b", 3),
    "scale": ("f", 0),
    "segmentation_threshold": ("f", 0),
}
_OPTIONAL = "reconstruction"  # the one array that a method may not have


class Examples(NamedTuple):
    """Pictures of k test images, as in examples.npz."""

    row: np.ndarray  # int [k]: which row of scores.csv
    image: np.ndarray  # uint8 [k, H, W, C], C is 1 or 3
    reconstruction: np.ndarray | None  # uint8 [k, H, W, C]; None where the method makes none
    residual: np.ndarray  # float32 [k, H, W]
    mask: np.ndarray  # bool [k, H, W]: the ground truth
    has_mask: np.ndarray  # bool [k]
    predicted: np.ndarray  # bool [k, H, W]
    scale: float  # the residual at the top of the color scale, one for all images
    segmentation_threshold: float  # of the residual; NaN where there is none


class Run(NamedTuple):
    """A finished cell, as its files tell it; what an older run has not written is None or empty."""

    folder: Path  # WORKDIR/CATEGORY/MODEL/seed_N
    metrics: dict[str, Any]  # any key may be missing or None
    frame: pd.DataFrame  # of `evaluation.scores.read_scores`
    flags: tuple[str, ...]  # the lines of flags.txt
    versions: dict[str, Any]
    history: pd.DataFrame | None  # a row for each epoch; columns of numbers, epoch among them
    left_out: pd.DataFrame | None  # text: path, cause
    curves: dict[str, Any]
    examples: Examples | None
    absent: tuple[str, ...]  # the files that are not there


def cells_with(workdir: Path, name: str) -> list[Path]:
    """Returns the folders of the cells of a workdir that hold a file of that name, sorted."""
    return sorted(path.parent for path in workdir.glob(f"*/*/seed_*/{name}"))


def cells_in(folder: Path, name: str) -> list[Path]:
    """Returns the same of a workdir, or of a folder in it down to a cell's own."""
    if found := cells_with(folder, name):
        return found
    whole = Path(os.path.abspath(folder))
    for pattern in ("*/seed_*", "seed_*", "."):
        found = sorted(path.parent for path in whole.glob(f"{pattern}/{name}"))
        if found and len(found[0].parents) > 2:
            return found
    return []


def none_in(folder: Path, what: str, name: str) -> UsageError:
    """Returns the error for a --workdir without `what`, of which a file has that name."""
    if any((folder / each).exists() for each in EXPORTED):
        return UsageError(
            f"--workdir={folder}: is an exported folder, which experiments.serve takes as --model "
            "and cae_jax.load; name the workdir of the run that it was made of"
        )
    if not folder.is_dir():
        return UsageError(f"--workdir={folder}: no such folder")
    return UsageError(f"--workdir={folder}: no {what} in it (no CATEGORY/RUN/seed_N/{name})")


def read_run(folder: Path, metrics: str = FINISHED, pictures: bool = True) -> Run:
    """Reads the files of a cell, finished but for the name of its metrics.json.

    `metrics` and scores.csv have to be there; any of the others may be missing, which `absent`
    then tells. Without `pictures`, which are most of a cell, its `examples` are None.

    Raises:
      DataError: one of these two is missing, or any file cannot be read or is not what its name
        says; the message names it.
    """
    absent = []

    def read(name: str, reader: Callable[[Path], Any], otherwise: Any) -> Any:
        if not (folder / name).exists():
            absent.append(name)
            return otherwise
        return _read(folder / name, reader)

    frame = read_scores(folder / "scores.csv")
    run = Run(
        folder=folder,
        metrics=_read(folder / metrics, _json),
        frame=frame,
        flags=read(FLAGS, _lines, ()),
        versions=read(VERSIONS, _json, {}),
        history=read("history.csv", _numbers, None),
        left_out=read("left_out.csv", _texts, None),
        curves=read("curves.json", _json, {}),
        examples=read("examples.npz", lambda path: _examples(path, len(frame)), None)
        if pictures
        else None,
        absent=(),
    )
    return run._replace(absent=tuple(absent))


def label(metrics: Mapping[str, Any]) -> str | None:
    """Returns what a run is called: its own name, else its model's, else its method's; None where
    metrics.json tells none of them."""
    named = (metrics.get(key) for key in ("run", "model", "method"))
    return next((str(name) for name in named if name), None)


def real(value: Any) -> float:
    """Returns a value of metrics.json as float; NaN where it is missing or no number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else math.nan


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: not a file of a run: {cause}") from error


def _json(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
    if not isinstance(value, dict):
        raise ValueError(f"expected a JSON object, got {type(value).__name__}")
    return value


def _lines(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8", errors="surrogateescape").splitlines())


def _numbers(path: Path) -> pd.DataFrame:
    """The columns that hold numbers, and epoch, which has to."""
    import pandas as pd

    frame = pd.read_csv(path)
    of_text = [name for name in frame.select_dtypes(["object", "string"]) if name != "epoch"]
    return frame.drop(columns=of_text).astype(np.float64)


def _texts(path: Path) -> pd.DataFrame:
    return files.read_csv(path)


def _examples(path: Path, n_rows: int) -> Examples:
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        names = [name for name in _EXAMPLES if name != _OPTIONAL or name in archive]
        arrays = {name: archive[name] for name in names}
    for name, array in arrays.items():
        kind, n_axes = _EXAMPLES[name]
        if array.dtype.kind not in kind or array.ndim != n_axes:
            found = f"{array.dtype} {list(array.shape)}"
            raise ValueError(f"{name} has the wrong type or number of axes: {found}")
    k, height, width, channels = arrays["image"].shape
    row = arrays["row"]
    made = arrays.setdefault(_OPTIONAL, None)
    if channels not in (1, 3) or (made is not None and made.shape != arrays["image"].shape):
        raise ValueError("image and reconstruction must have the same shape, and 1 or 3 channels")
    if any(arrays[name].shape != (k, height, width) for name in ("residual", "mask", "predicted")):
        raise ValueError(f"residual, mask and predicted must be {[k, height, width]} as image is")
    if row.shape != (k,) or arrays["has_mask"].shape != (k,):
        raise ValueError(f"row and has_mask must have {k} values as image has")
    if k and not (row.min() >= 0 and row.max() < n_rows):
        raise ValueError(f"row must be in 0..{n_rows - 1}, the rows of scores.csv")
    top, cut = (float(arrays.pop(name)) for name in ("scale", "segmentation_threshold"))
    return Examples(**arrays, scale=top, segmentation_threshold=cut)
