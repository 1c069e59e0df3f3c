"""The verdict: which threshold counts, the comparison, the p-value, the mask's threshold.

Everything that calls an image good or defective asks here: the detector, the scoring of folders,
reports, plots, benchmarks.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cae_jax.evaluation import metrics, segmentation, threshold_rule, thresholds
from cae_jax.evaluation.thresholds import TEST_GOOD, UNSEEN, VALIDATION_GOOD, Threshold
from cae_jax.types import DataError, UsageError

# The threshold that counts is the first of these that a run has and that is finite.
COUNTS: tuple[tuple[str, str, int | None], ...] = (
    *(("false_alarms", source, None) for source in UNSEEN),  # where a rate was asked for
    *(("ceil", source, 90) for source in UNSEEN),
    ("ceil", TEST_GOOD, 70),
)
_NONE = np.empty(0)


@dataclasses.dataclass(frozen=True)
class OperatingPoint:
    """What a threshold does on the test images; an accuracy without images is NaN."""

    threshold: Threshold
    good_accuracy: float
    defect_accuracy: float

    @property
    def balanced_accuracy(self) -> float:
        """Mean of good and defect accuracy."""
        return (self.good_accuracy + self.defect_accuracy) / 2


@dataclasses.dataclass(frozen=True)
class Judge:
    """What turns scores into verdicts."""

    threshold: Threshold  # of distances
    held_out: np.ndarray  # float64 [n]: of good images held out or out of fold; n may be 0
    map_threshold: float = math.inf  # of the segmentation; infinite where there is none

    def defective(self, distances: ArrayLike) -> np.ndarray:
        """Returns which of the distances [m] are called defective, bool [m]."""
        return exceeds(distances, self.threshold.value)

    def p_values(self, distances: ArrayLike) -> np.ndarray:
        """Returns `thresholds.p_values` of distances [m] among the held-out ones; NaN without."""
        return thresholds.p_values(self.held_out, distances)

    def mask(self, residual: np.ndarray, opening: int) -> np.ndarray:
        """Returns where the defect is, bool [H, W], of a residual map [H, W].

        `opening` is the diameter of the disc that opens the segmentation, in pixels; 0 for none.
        """
        return segmentation.segment(residual, self.map_threshold, opening)


def exceeds(distances: ArrayLike, threshold: float) -> np.ndarray:
    """Returns which distances are called defective: those above the threshold, bool."""
    return np.asarray(distances, np.float64) > threshold


def good_accuracy(good_distances: ArrayLike, threshold: float) -> float:
    """Share of the good distances [n] that are called good, in [0, 1]; NaN when empty.

    Raises ValueError for distances that are not finite.
    """
    called = exceeds(metrics.finite("good distances", good_distances), threshold)
    return float((~called).mean()) if called.size else math.nan


def defect_accuracy(defective_distances: ArrayLike, threshold: float) -> float:
    """Share of the defective distances [n] that are called defective, in [0, 1]; NaN when empty.

    Raises ValueError for distances that are not finite.
    """
    called = exceeds(metrics.finite("defective distances", defective_distances), threshold)
    return float(called.mean()) if called.size else math.nan


def from_verdicts(
    threshold: Threshold, good_flagged: ArrayLike, defective_flagged: ArrayLike
) -> OperatingPoint:
    """Returns what a rule does that decides by more than the distance.

    `good_flagged` [n] and `defective_flagged` [m] are bool, one per test image: True where it is
    called defective. Raises ValueError for another type or rank.
    """
    good, defective = np.asarray(good_flagged), np.asarray(defective_flagged)
    for name, flagged in (("good", good), ("defective", defective)):
        if flagged.ndim != 1 or (flagged.size and flagged.dtype != bool):
            raise ValueError(
                f"{name}_flagged must be bool with one axis, got {flagged.dtype} {flagged.shape}"
            )
    return OperatingPoint(
        threshold,
        float(np.logical_not(good).mean()) if good.size else math.nan,
        float(defective.mean()) if defective.size else math.nan,
    )


def operating_points(
    good: ArrayLike,
    defective: ArrayLike,
    unseen: ArrayLike,
    source: str = VALIDATION_GOOD,
    rate: float = 0.0,
) -> list[OperatingPoint]:
    """Returns what the thresholds do on the test distances `good` [n] and `defective` [m].

    In this order: at PERCENTS, rule "ceil" on `good` (the thesis), then "exclusive" on `good`,
    then "ceil" on the `unseen` good distances of `source`, which leaks nothing; "conformal" at
    ALPHAS; "false_alarms" at `rate`, unless that is 0; and "f1_best". A source without images gives
    no points. Raises ValueError for distances that are not finite.
    """
    sources = [
        (good, "ceil", TEST_GOOD),
        (good, "exclusive", TEST_GOOD),
        (unseen, "ceil", source),
    ]
    found = [
        thresholds.from_good(distances, percent, rule, picked_on)
        for distances, rule, picked_on in sources
        for percent in (thresholds.PERCENTS if np.size(distances) else ())
    ]
    if np.size(unseen):
        found += [thresholds.conformal(unseen, alpha, source) for alpha in thresholds.ALPHAS]
        found += [thresholds.false_alarms(unseen, rate, source)] if rate else []
    found += [thresholds.oracle_f1(good, defective)] if np.size(good) and np.size(defective) else []
    return [operating_point(each, good, defective) for each in found]


def operating_point(threshold: Threshold, good: ArrayLike, defective: ArrayLike) -> OperatingPoint:
    """Returns what a threshold does on the test distances `good` [n] and `defective` [m]; raises
    ValueError for distances that are not finite."""
    shares = good_accuracy(good, threshold.value), defect_accuracy(defective, threshold.value)
    return OperatingPoint(threshold, *shares)


def leak_points(points: Iterable[OperatingPoint]) -> dict[int, float]:
    """Returns what the thesis's look at the test images is worth, by percent.

    The balanced accuracy of rule "ceil" on test good images less that on unseen good images, in
    percentage points: -100..100, NaN without one of the classes. Percents that lack one of the two
    are left out.
    """
    seen: dict[tuple[bool, int | None], float] = {
        (point.threshold.leaks, point.threshold.percent): point.balanced_accuracy
        for point in points
        if point.threshold.rule == "ceil"
    }
    return {
        percent: 100 * (balanced - seen[False, percent])
        for (leaks, percent), balanced in seen.items()
        if leaks and percent is not None and (False, percent) in seen
    }


def judge(
    good: np.ndarray,
    held_out: np.ndarray,
    points: Iterable[Mapping[str, Any]],
    percent: int | None = None,
    source: str = VALIDATION_GOOD,
    rate: float = 0.0,
) -> Judge:
    """Returns the judge of a finished run.

    Args:
      good: distances of the good test images, float64 [m].
      held_out: those of the unseen good images, held out or out of fold, float64 [n].
      points: the operating points of metrics.json.
      percent: 1..100, the share of unseen good images (of good test images where there are none)
        that the threshold calls good; None takes the threshold that counts.
      source: of `held_out`, one of thresholds.UNSEEN.
      rate: the false-alarm rate asked for, 0 for none. A percent goes before it; without unseen
        images there is no threshold for it, and the one that counts is another.

    Raises:
      UsageError: a percent that is no integer in 1..100, a rate that cannot be.
      ValueError: no good image at all, so no threshold.
    """
    usual, distances, source = (90, held_out, source) if len(held_out) else (70, good, TEST_GOOD)
    if rate and percent is None and len(held_out):
        threshold = thresholds.false_alarms(distances, rate, source)
    else:
        share = usual if percent is None else percent
        threshold = thresholds.from_good(distances, share, source=source)
    of_maps = [value(point) for point in points if point.get("rule") == "min_area"]
    return Judge(threshold, held_out, of_maps[0] if of_maps else math.inf)


def asked(
    whose: str,
    good: np.ndarray,
    unseen: np.ndarray,
    points: Iterable[Mapping[str, Any]],
    source: str,
    rate: float,
    percent: int | None,
    false_alarms: float | None,
    rule: str | None = None,
    own_rule: str = "",
    defective: np.ndarray = _NONE,
) -> Judge:
    """Returns the judge of a finished run as somebody asks for it who loads it.

    Takes what `judge` takes: `rate` and `own_rule` are the run's own, `false_alarms` and `rule`, in
    the manner of `threshold_rule.parse`, what is asked for in their place; `defective` are the
    distances of the defective test images. Errors name `whose`. Raises UsageError for more than one
    of percent, false_alarms and rule, and for a rate or a rule without the images that it needs;
    DataError without any good image.
    """
    given = {"percent": percent, "false_alarms": false_alarms, "threshold": rule}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        named = " and ".join(f"{name}={value}" for name, value in given.items())
        raise UsageError(f"{named}: take one of them")
    if not len(unseen) and not len(good):
        raise DataError(f"{whose}: no good image but the training ones, so no threshold")
    if false_alarms and not len(unseen):
        raise UsageError(
            f"false_alarms={false_alarms}: {whose} has no good image but those learned from"
        )
    wanted = rate if false_alarms is None else false_alarms
    found = judge(good, unseen, points, percent, source, wanted)
    if text := rule or ("" if given else own_rule):
        by_name = threshold_rule.parse(text)
        try:
            at = threshold_rule.threshold(by_name, good, defective, unseen, source)
        except UsageError as error:
            if rule:
                raise UsageError(f"{whose}: {error}") from error
        else:  # a run's own rule that its images were too few for: it said so
            found = dataclasses.replace(found, threshold=at)
    return found


def value(point: Mapping[str, Any]) -> float:
    """Returns the threshold of an operating point of metrics.json, which may be infinite; NaN where
    it is missing."""
    found = point.get("threshold")
    number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if number or found in ("inf", "-inf") else math.nan  # type: ignore[arg-type]


def counting(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns the operating point of metrics.json that verdicts go by, the one asked for by its
    rule before all others; None without any."""
    for point in points:
        if point.get("asked") and math.isfinite(value(point)):
            return point
    found = (find(points, *key) for key in COUNTS)
    return next((point for point in found if point is not None), None)


def find(
    points: Iterable[Mapping[str, Any]], rule: str, source: str | None, percent: int | None
) -> Mapping[str, Any] | None:
    """Returns the first point of that rule and percent whose threshold is finite; None without any.

    A source of None stands for any; a percent of None for the rules that have none.
    """
    for point in points:
        same = point.get("rule") == rule and point.get("percent") == percent
        if same and source in (None, point.get("source")) and math.isfinite(value(point)):
            return point
    return None


def words(labels: Iterable[int], distances: ArrayLike, threshold: float) -> list[str]:
    """Returns "right", "missed" or "false alarm" of each image; labels are 0 (good) or 1.

    Raises ValueError for labels and distances [n] of different lengths.
    """
    called = exceeds(distances, threshold).tolist()
    return [
        "right" if defective == bool(label) else ("missed" if label else "false alarm")
        for defective, label in zip(called, labels, strict=True)
    ]
