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

from cae_jax.evaluation import metrics, segmentation, thresholds
from cae_jax.evaluation.thresholds import TEST_GOOD, VALIDATION_GOOD, Threshold

# The threshold that counts is the first of these that a run has and that is finite.
COUNTS = (("ceil", VALIDATION_GOOD, 90), ("ceil", TEST_GOOD, 70))


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
    held_out: np.ndarray  # float64 [n]: distances of the held-out good images; n may be 0
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
    good: ArrayLike, defective: ArrayLike, validation: ArrayLike
) -> list[OperatingPoint]:
    """Returns what the thresholds do on the test distances `good` [n] and `defective` [m].

    In this order: at PERCENTS, rule "ceil" on `good` (the thesis), then "exclusive" on `good`,
    then "ceil" on the `validation` distances, which leaks nothing; "conformal" at ALPHAS; and
    "f1_best". A source without images gives no points. Raises ValueError for distances that are
    not finite.
    """
    sources = [
        (good, "ceil", TEST_GOOD),
        (good, "exclusive", TEST_GOOD),
        (validation, "ceil", VALIDATION_GOOD),
    ]
    found = [
        thresholds.from_good(distances, percent, rule, source)
        for distances, rule, source in sources
        for percent in (thresholds.PERCENTS if np.size(distances) else ())
    ]
    found += [
        thresholds.conformal(validation, alpha)
        for alpha in (thresholds.ALPHAS if np.size(validation) else ())
    ]
    found += [thresholds.oracle_f1(good, defective)] if np.size(good) and np.size(defective) else []
    return [
        OperatingPoint(
            each,
            good_accuracy(good, each.value),
            defect_accuracy(defective, each.value),
        )
        for each in found
    ]


def leak_points(points: Iterable[OperatingPoint]) -> dict[int, float]:
    """Returns what the thesis's look at the test images is worth, by percent.

    The balanced accuracy of rule "ceil" on test good images less that on validation images, in
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
) -> Judge:
    """Returns the judge of a finished run.

    Args:
      good: distances of the good test images, float64 [m].
      held_out: those of the held-out good images, float64 [n].
      points: the operating points of metrics.json.
      percent: 1..100, the share of held-out good images (of good test images where none is held
        out) that the threshold calls good; None takes the threshold that counts.

    Raises:
      UsageError: a percent that is no integer in 1..100.
      ValueError: no good image at all, so no threshold.
    """
    rule, source, usual = COUNTS[0] if len(held_out) else COUNTS[1]
    distances = held_out if len(held_out) else good
    share = usual if percent is None else percent
    threshold = thresholds.from_good(distances, share, rule, source)
    of_maps = [value(point) for point in points if point.get("rule") == "min_area"]
    return Judge(threshold, held_out, of_maps[0] if of_maps else math.inf)


def value(point: Mapping[str, Any]) -> float:
    """Returns the threshold of an operating point of metrics.json, which may be infinite; NaN where
    it is missing."""
    found = point.get("threshold")
    number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if number or found in ("inf", "-inf") else math.nan  # type: ignore[arg-type]


def counting(points: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Returns the operating point of metrics.json that verdicts go by; None without any."""
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
