"""What the charts of a run show, as plain data; `plots` draws it as PNG, `html.svg` as SVG.

Which images make a group, which thresholds are marked, where the bins end and whether an axis is
logarithmic is decided here and nowhere else, so that a run's pictures and its page agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cae_jax.evaluation.scores import TEST, distances_of, source
from cae_jax.reports import rules
from cae_jax.reports.rules import Mark
from cae_jax.types import GOOD

BINS = 24
CURVES = 6  # that a training chart shows at most: more cannot be told apart
_WIDE = 30  # a ratio of distances from which on an axis is logarithmic
# Anchors of the color map, dark to light: its lightness grows evenly, so it reads in gray too.
_ANCHORS = ((0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21),
            (250, 193, 39), (252, 255, 164))  # fmt: skip
RAMP = np.stack(
    [
        np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(_ANCHORS)), channel)
        for channel in np.transpose(_ANCHORS)
    ],
    axis=1,
).round().astype(np.uint8)  # [256, 3]  # fmt: skip


class Axis(NamedTuple):
    """A range of values and how it is spaced."""

    label: str
    low: float
    high: float
    log: bool = False


class Group(NamedTuple):
    """The distances of some images."""

    name: str
    distances: np.ndarray  # float64 [n]
    style: str  # "validation" (good images that were not seen), "good" or "defective"


class Histogram(NamedTuple):
    """How the distances of groups, none of them empty, are spread."""

    x: Axis
    edges: np.ndarray  # float64 [BINS + 1], rising
    groups: tuple[Group, ...]
    shares: np.ndarray  # float64 [groups, BINS]: of a group's images, each row sums to 1
    marks: tuple[Mark, ...]


class Box(NamedTuple):
    """A group by its quartiles; all NaN for a group without images."""

    group: Group
    low: float  # the last image within 1.5 times the box's width
    first: float
    median: float
    third: float
    high: float  # as `low`
    beyond: np.ndarray  # float64 [k]: the distances outside low..high


class Whiskers(NamedTuple):
    """The distances of groups beside each other."""

    x: Axis
    boxes: tuple[Box, ...]
    marks: tuple[Mark, ...]


class Curve(NamedTuple):
    """A column of history.csv, where it is known."""

    name: str
    epochs: np.ndarray  # float64 [k]
    values: np.ndarray  # float64 [k], finite
    hue: int  # 0..CURVES - 1; a validation curve has the hue of its training curve
    dashed: bool  # of validation images


class Training(NamedTuple):
    """How training went."""

    x: Axis  # epochs
    y: Axis
    curves: tuple[Curve, ...]


class Charts(NamedTuple):
    """The charts of a run; None where there is nothing to draw."""

    histogram: Histogram | None
    whiskers: Whiskers | None
    training: Training | None


def of_run(frame: pd.DataFrame, metrics: Mapping[str, Any], history: pd.DataFrame | None) -> Charts:
    """Returns the charts of a run.

    Args:
      frame: of scores.csv.
      metrics: the content of metrics.json; any key may be missing.
      history: of history.csv; None where there is none.
    """
    good, defective, unseen = distances_of(frame)
    test = frame[frame["split"] == TEST]
    # compared one by one: pandas' own grouping refuses a name that is no UTF-8
    by_kind = [
        Group(kind, test["distance"][test["defect_kind"] == kind].to_numpy(), "defective")
        for kind in sorted(set(test["defect_kind"]) - {GOOD})
    ]
    all_good = [
        Group(source(frame), unseen, "validation"),
        Group("test good", good, "good"),
    ]
    label = f"distance {metrics['distance']}" if metrics.get("distance") else "distance"
    marks = rules.marks(metrics)
    return Charts(
        histogram([*all_good, Group("defective", defective, "defective")], marks, label),
        whiskers([*all_good, *by_kind], marks, label),
        None if history is None else training(history, metrics.get("loss")),
    )


def histogram(groups: Sequence[Group], marks: Iterable[Mark], label: str) -> Histogram | None:
    """Returns the groups' histograms over shared bins; None without any image.

    The bins reach from the smallest to the largest distance, evenly spaced on the axis; marks
    outside are left out.
    """
    x = _axis(groups, label)
    if x is None:
        return None
    edges = (np.geomspace if x.log else np.linspace)(x.low, x.high, BINS + 1)
    edges[0], edges[-1] = x.low, x.high  # not rounded: the extremes belong to a bin
    there = tuple(group for group in groups if group.distances.size)
    shares = [np.histogram(each.distances, edges)[0] / each.distances.size for each in there]
    return Histogram(x, edges, there, np.array(shares), _inside(marks, x))


def whiskers(groups: Sequence[Group], marks: Iterable[Mark], label: str) -> Whiskers | None:
    """Returns a box for each group, also for an empty one; None without any image.

    Marks outside the range of the distances are left out.
    """
    x = _axis(groups, label)
    return None if x is None else Whiskers(x, tuple(map(_box, groups)), _inside(marks, x))


def training(history: pd.DataFrame, loss: str | None = None) -> Training | None:
    """Returns the first CURVES columns of history.csv that hold numbers; None without any.

    `history` has column epoch; columns validation_... are of validation images, all others of
    training; `loss` says which loss the column of that name is.
    """
    if "epoch" not in history:
        return None
    epochs = history["epoch"].to_numpy(np.float64)
    columns = {str(name): _numbers(history[name]) for name in history if name != "epoch"}
    known = {name: np.isfinite(values) & np.isfinite(epochs) for name, values in columns.items()}
    drawn = [name for name in columns if known[name].any()][:CURVES]
    if not drawn:
        return None
    hues = list(dict.fromkeys(name.removeprefix("validation_") for name in drawn))
    curves = tuple(
        Curve(
            *(name, epochs[known[name]], columns[name][known[name]]),
            hues.index(name.removeprefix("validation_")),
            name.startswith("validation_"),
        )
        for name in drawn
    )
    values = np.concatenate([curve.values for curve in curves])
    low, high = float(values.min()), float(values.max())
    log = low > 0 and high > 2 * low
    ends = (low / 1.1, high * 1.1) if log else _wider(min(0.0, low), high)
    label = "loss" if all("loss" in name for name in drawn) else "value"
    label += f" ({loss})" if loss and "loss" in hues else ""
    there = np.concatenate([curve.epochs for curve in curves])
    x = Axis("epoch", *_wider(float(there.min()), float(there.max())))
    return Training(x, Axis(label, *ends, log), curves)


def heat(residual: np.ndarray, top: float, power: float = 1.0) -> np.ndarray:
    """Returns a residual map [H, W] as colors of RAMP, uint8 [H, W, 3].

    0 and less is the bottom of the color map, `top` and what lies above it (NaN too) its top; in
    between a color stands for (residual / top) ** power.
    """
    top = top if np.isfinite(top) and top > 0 else 1.0
    share = np.clip(np.nan_to_num(residual / top, nan=1.0), 0, 1) ** power
    return RAMP[np.round(share * 255).astype(np.uint8)]


def _axis(groups: Sequence[Group], label: str) -> Axis | None:
    values = np.concatenate([group.distances for group in groups]) if groups else np.empty(0)
    if not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    log = low > 0 and high > _WIDE * low
    return Axis(label, *_wider(low, high), log)


def _wider(low: float, high: float) -> tuple[float, float]:
    """A range that is one."""
    if low < high:
        return low, high
    room = 0.5 * abs(low) or 0.5
    return low - room, high + room


def _inside(marks: Iterable[Mark], x: Axis) -> tuple[Mark, ...]:
    return tuple(mark for mark in marks if x.low <= mark.value <= x.high)


def _box(group: Group) -> Box:
    values = group.distances
    if not values.size:
        return Box(group, np.nan, np.nan, np.nan, np.nan, np.nan, values)
    first, median, third = np.quantile(values, [0.25, 0.5, 0.75]).tolist()
    reach = 1.5 * (third - first)
    near = (values >= first - reach) & (values <= third + reach)
    low, high = float(values[near].min()), float(values[near].max())
    return Box(group, low, first, median, third, high, values[~near])


def _numbers(column: pd.Series) -> np.ndarray:
    """A column as float64 [n]; all NaN where it is none of numbers."""
    try:
        return column.to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return np.full(len(column), np.nan)
