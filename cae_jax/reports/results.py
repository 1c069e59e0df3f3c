"""What a run leaves behind as text: scores and results as CSV, metrics as JSON, a table to read."""

from __future__ import annotations

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cae_jax.evaluation import metrics, thresholds
from cae_jax.files import write_whole
from cae_jax.types import DataError

SCORE_COLUMNS = ("path", "label", "defect_kind", "distance", "split")
_DTYPES = (object, np.int64, object, np.float64, object)
SPLITS = ("validation", "test")
LOCALIZATION = ("pixel_auroc", "pixel_ap", "au_pro_30", "au_pro_5", "au_pro_1")
_RULES = (
    *(f"{source}{percent}" for source in ("", "val_") for percent in sorted(thresholds.PERCENTS)),
    *(f"conformal_{100 - alpha}" for alpha in thresholds.ALPHAS),
    *("min_area", "f1_best"),
)
_ACCURACIES = tuple(
    f"{name}_accuracy_{rule}" for rule in _RULES for name in ("good", "defect", "mean")
)
RESULT_COLUMNS = (
    *("dataset", "category", "model", "seed", "epochs"),
    *("n_train", "n_validation", "n_good", "n_defective", "image_auroc"),
    *_ACCURACIES,
    *("ms_per_image", "train_seconds", "loss", "distance", "image_ap", "image_f1_max"),
    *LOCALIZATION,
)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes nested dicts, sequences, NumPy arrays and scalars as JSON.

    JSON knows no such numbers: NaN is null, infinity the text "inf" or "-inf", as `float` reads it.
    Raises DataError where the file cannot be written.
    """
    write_whole(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def write_csv(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Writes a table without its index; floats read back to the last bit, NaN is an empty field.

    Raises DataError where the file cannot be written.
    """
    text = frame.to_csv(index=False, lineterminator="\n")
    if "\r" in text:  # a bare one ends the line for a reader; Python below 3.13 does not quote it
        text = frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    write_whole(path, text)


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
    columns = (
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
    """Returns the table that `write_csv` wrote from `scores_frame`, every distance bit for bit.

    Raises DataError naming the file when it is missing, no such table, or holds wrong values.
    """
    try:
        text = pd.read_csv(
            path,
            dtype=object,
            keep_default_na=False,  # a defect kind may be called "none"
            encoding_errors="surrogateescape",
        )
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
    """Returns the distances of test good, test defective and validation images, float64 [n] each.

    `frame` is a table of `scores_frame`.
    """
    distance = frame["distance"].to_numpy()
    test, defective = frame["split"] == "test", frame["label"] == 1
    return distance[test & ~defective], distance[test & defective], distance[~test]


def write_thesis_csvs(folder: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Writes the thesis's good.csv and defective.csv (Sec. 4.1.5): path and distance, test images.

    Raises DataError where a file cannot be written.
    """
    test = frame[frame["split"] == "test"]
    for label, name in enumerate(("good.csv", "defective.csv")):
        write_csv(Path(folder) / name, test.loc[test["label"] == label, ["path", "distance"]])


def evaluate(frame: pd.DataFrame, more: Sequence[thresholds.OperatingPoint] = ()) -> dict[str, Any]:
    """Returns the content of metrics.json from a table of `scores_frame`.

    image_auroc with its 95 % interval, image_ap, image_f1_max; n_good, n_defective, n_validation;
    operating_points, a list of dicts, `more` ones after those of the distances; leak_points, of
    `thresholds.leak_points`; and the accuracies by name: good_accuracy_70, defect_accuracy_70,
    mean_accuracy_70 ... from the good test images (the thesis), good_accuracy_val_70 ... from the
    validation images, ..._conformal_90, ..._min_area, ..._f1_best. All accuracies are of the test
    images; one without images is NaN.
    """
    good, defective, validation = distances_of(frame)
    labels = np.repeat([0, 1], [good.size, defective.size])
    scores = np.concatenate([good, defective])
    result: dict[str, Any] = {
        **image_metrics(labels, scores),
        "image_auroc_interval": metrics.auroc_interval(labels, scores) if scores.size else None,
        "n_good": good.size,
        "n_defective": defective.size,
        "n_validation": validation.size,
        "median_distance_good": np.median(good) if good.size else math.nan,
        "median_distance_defective": np.median(defective) if defective.size else math.nan,
        **dict.fromkeys(_ACCURACIES, math.nan),
        "operating_points": [],
    }
    points = [*thresholds.operating_points(good, defective, validation), *more]
    result["leak_points"] = thresholds.leak_points(points)
    for point in points:
        at = point.threshold
        shares = {"good": point.good_accuracy, "defect": point.defect_accuracy}
        accuracies = {f"{name}_accuracy": share for name, share in shares.items()}
        accuracies["mean_accuracy"] = point.balanced_accuracy
        intervals = {
            f"{name}_accuracy_interval": _interval(share, n)
            for (name, share), n in zip(shares.items(), (good.size, defective.size), strict=True)
        }
        result["operating_points"].append(
            {
                "rule": at.rule,
                "source": at.source,
                "leaks": at.leaks,
                "percent": at.percent,
                "threshold": at.value,
                "n": at.n,
                **accuracies,
                **intervals,
            }
        )
        if at.rule != "exclusive":
            result |= {f"{name}_{_suffix(at)}": share for name, share in accuracies.items()}
    return result


def image_metrics(labels: ArrayLike, scores: ArrayLike) -> dict[str, float]:
    """Returns image_auroc, image_ap and image_f1_max of test images; NaN without both classes."""
    if len({*np.asarray(labels).tolist()}) < 2:
        return dict.fromkeys(("image_auroc", "image_ap", "image_f1_max"), math.nan)
    return {
        "image_auroc": metrics.image_auroc(labels, scores),
        "image_ap": metrics.average_precision(labels, scores),
        "image_f1_max": metrics.f1_max(labels, scores)[0],
    }


def _interval(share: float, n: int) -> tuple[float, float]:
    """The exact 95 % interval of a share of n images."""
    return metrics.binomial_interval(round(share * n), n) if n else (math.nan, math.nan)


def _suffix(at: thresholds.Threshold) -> str:
    """What tells a threshold's accuracies from the others', as in RESULT_COLUMNS."""
    if at.rule == "ceil":
        return f"{'' if at.leaks else 'val_'}{at.percent}"
    return f"{at.rule}_{at.percent}" if at.rule == "conformal" else at.rule


def results_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns the table of results.csv: one row per category, model and seed, in the order given.

    A row is `evaluate`'s dict and the rest of RESULT_COLUMNS; what a row lacks is NaN, what is no
    column of the table is left out.
    """
    return pd.DataFrame([{name: row.get(name) for name in RESULT_COLUMNS} for row in rows]).reindex(
        columns=list(RESULT_COLUMNS)
    )


def format_table(frame: pd.DataFrame) -> str:
    """Returns a table of `results_table` as text of at most 100 columns, with title and legend."""
    columns = {
        "category": ("category", ""),
        "model": ("model", ""),
        "seed": ("seed", "d"),
        "image_auroc": ("AUROC", ".3f"),
        "good_accuracy_70": ("good", ".2f"),
        "defect_accuracy_70": ("defect", ".2f"),
        "good_accuracy_val_90": ("good", ".2f"),
        "defect_accuracy_val_90": ("defect", ".2f"),
        "ms_per_image": ("ms/image", ".1f"),
        "train_seconds": ("train s", ".0f"),
    }
    groups = ["", "", "", "", "thesis 70 %", "", "leak-free 90 %", "", "", ""]
    lines = [[title for title, _ in columns.values()]]
    for row in frame.to_dict("records"):
        lines.append([_cell(row[name], style) for name, (_, style) in columns.items()])
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    widths[4:8] = [7] * 4  # two and the gap hold the name of a group
    body = ["  ".join(_pad(line, widths)).rstrip() for line in lines]
    head = "".join(
        f"{group:>{widths[i] + widths[i + 1] + 2}}  " if group else " " * (widths[i] + 2)
        for i, group in enumerate(groups)
        if i not in (5, 7)
    ).rstrip()
    rule = "-" * max(map(len, body))
    names = ["synthetic data" if name == "synthetic" else str(name) for name in frame["dataset"]]
    return "\n".join(
        [
            f"Results: {', '.join(dict.fromkeys(names)) or 'none'}",
            *("", head, body[0], rule, *body[1:], rule),
            "good, defect: share of the good and of the defective test images that are told right.",
            "thesis 70 %: threshold from the good test images themselves (it leaks);",
            "leak-free 90 %: threshold from validation images held out of training.",
        ]
    )


def _plain(value: Any) -> Any:
    """What json can write of `value`."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value


def _cell(value: Any, style: str) -> str:
    if style == "":
        text = str(value)
        return text if len(text) <= 15 else f"{text[:13]}.."
    if value is None or math.isnan(value):
        return "-"
    return format(int(value) if style == "d" else value, style)


def _pad(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, numbers to the right."""
    return [
        text.ljust(width) if i < 2 else text.rjust(width)
        for i, (text, width) in enumerate(zip(line, widths, strict=True))
    ]
