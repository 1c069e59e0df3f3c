"""The table of scores.csv: one row per image, with its distance and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from cae_jax import files
from cae_jax.evaluation.thresholds import OUT_OF_FOLD, VALIDATION_GOOD
from cae_jax.types import DataError

if TYPE_CHECKING:  # half a second to import, which loading a model need not wait
    import pandas as pd

SCORE_COLUMNS = ("path", "label", "defect_kind", "distance", "split")
_DTYPES = (object, np.int64, object, np.float64, object)
HELD_OUT, UNFOLDED, TEST = SPLITS = ("validation", "out-of-fold", "test")


def scores_frame(
    paths: Sequence[str],
    labels: ArrayLike,
    kinds: Sequence[str],
    splits: Sequence[str],
    distances: ArrayLike,
    extra: Mapping[str, ArrayLike] = MappingProxyType({}),
) -> pd.DataFrame:
    """Returns the table of scores.csv, one row per image, columns SCORE_COLUMNS and `extra`.

    All arguments have length n: labels are 0 or 1, kinds "good" or the defect's, splits one of
    SPLITS, distances sums of squared differences, 0..255 scale (float32 is widened, which is
    exact). `extra` columns are numbers, NaN where an image has none. Raises ValueError for lengths
    that differ and values outside these.
    """
    import pandas as pd

    columns: tuple[Sequence[str] | np.ndarray, ...] = (
        paths,
        np.asarray(labels, np.int64),
        kinds,
        np.asarray(distances, np.float64),
        splits,
    )
    more = {name: np.asarray(column, np.float64) for name, column in extra.items()}
    if len(lengths := {len(column) for column in (*columns, *more.values())}) > 1:
        raise ValueError(f"all columns must have the same length, got {sorted(lengths)}")
    frame = pd.DataFrame(
        {
            # object: pandas' own strings may refuse a file name that is no UTF-8
            name: pd.Series(list(column), dtype=dtype)
            for name, column, dtype in zip(SCORE_COLUMNS, columns, _DTYPES, strict=True)
        }
        | more
    )
    if not frame["label"].isin((0, 1)).all():
        raise ValueError(f"label must be 0 or 1, got {sorted(set(frame['label']))}")
    if not frame["split"].isin(SPLITS).all():
        strange = next(name for name in frame["split"] if name not in SPLITS)
        raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {strange!r}")
    if not np.isfinite(frame["distance"]).all():
        bad = frame["path"][~np.isfinite(frame["distance"])].iloc[0]
        raise ValueError(f"distance must be finite, got NaN or infinity for {bad}")
    return frame


def read_scores(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Returns the table that `files.write_csv` wrote from `scores_frame`, every bit of it.

    Raises DataError naming the file when it is missing, no such table, or holds wrong values.
    """

    try:
        text = files.read_csv(path)
        missing = [name for name in SCORE_COLUMNS if name not in text.columns]
        if missing:
            raise ValueError(f"no column {', '.join(missing)}")
        # Python's own numbers: how pandas rounds depends on its version
        label, distance = map(int, text["label"]), map(float, text["distance"])
        extra = {
            name: [float(cell or "nan") for cell in text[name]]
            for name in text.columns
            if name not in SCORE_COLUMNS
        }
        return scores_frame(
            text["path"], list(label), text["defect_kind"], text["split"], list(distance), extra
        )
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:  # pandas' own errors are ValueErrors
        cause = str(error).strip().splitlines()[0]
        raise DataError(f"{path}: not a table of scores: {cause}") from error


def distances_of(frame: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the distances of test good, test defective and unseen good images, float64 [n] each.

    `frame` is a table of `scores_frame`; unseen are those of `source`.
    """
    distance = frame["distance"].to_numpy()
    test, defective = frame["split"] == TEST, frame["label"] == 1
    return distance[test & ~defective], distance[test & defective], distance[~test]


def source(frame: pd.DataFrame) -> str:
    """Returns which good images thresholds can be picked on, one of thresholds.UNSEEN: training
    images out of fold where the table has them, else those held out, if any."""
    return OUT_OF_FOLD if (frame["split"] == UNFOLDED).any() else VALIDATION_GOOD
