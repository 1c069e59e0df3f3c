"""From the distances of good images to the distance above which an image is called defective.

Thesis, Sec. 4.1.6: try every good distance as the threshold, collect the accuracies on the good
images, and take the best of the lowest 100, 90, 80 or 70 % of them. That is the k-th smallest good
distance. The thesis takes the good images of the *test* set, so its thresholds have seen what they
are judged on; the same rule on held-out validation images has not.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import ArrayLike

from cae_jax import metrics
from cae_jax.types import UsageError, unknown_name

PERCENTS = (100, 90, 80, 70)
RULES = ("ceil", "exclusive")
TEST_GOOD = "test good"
VALIDATION_GOOD = "validation good"


@dataclasses.dataclass(frozen=True)
class Threshold:
    """A threshold and where it comes from: a `distance <= value` is called good."""

    value: float  # a distance: sum of squared differences, 0..255 scale
    rule: str  # one of RULES
    source: str  # TEST_GOOD or VALIDATION_GOOD
    percent: int  # 1..100: the share of the accuracies kept
    n: int  # how many good distances it was picked from

    @property
    def leaks(self) -> bool:
        """Whether it was picked on images that it is judged on."""
        return self.source == TEST_GOOD


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


def rank(percent: int, n: int, rule: str = "ceil") -> int:
    """Returns k in 1..n: the threshold is the k-th smallest of `n` good distances.

    Rule "ceil", k = ceil(percent n / 100), is the text of Sec. 4.1.6 and calls at least `percent` %
    good; "exclusive", k = floor(percent (n + 1) / 100), comes nearest to the printed tables.
    Integers throughout: 0.7 * n rounds wrongly in floats. Raises UsageError for an unknown rule or
    a percent that is no integer in 1..100.
    """
    if rule not in RULES:
        raise unknown_name("threshold rule", rule, RULES)
    integer = isinstance(percent, int | np.integer) and not isinstance(percent, bool)
    if not integer or not 1 <= percent <= 100:
        raise UsageError(f"percent must be an integer from 1 to 100, got {percent!r}")
    if rule == "ceil":
        return -(-percent * n // 100)
    return max(1, min(n, percent * (n + 1) // 100))


def from_good(
    distances: ArrayLike, percent: int, rule: str = "ceil", source: str = TEST_GOOD
) -> Threshold:
    """Returns the threshold that `rule` picks from the distances [n] of good images.

    Raises UsageError for an unknown rule or source and a percent outside 1..100, ValueError for
    distances that are empty or not finite.
    """
    if source not in (TEST_GOOD, VALIDATION_GOOD):
        raise unknown_name("threshold source", source, (TEST_GOOD, VALIDATION_GOOD))
    good = _not_empty(distances)
    k = rank(percent, good.size, rule)
    return Threshold(float(np.sort(good)[k - 1]), rule, source, int(percent), good.size)


def brute_force(good: ArrayLike, percent: int, rule: str = "ceil") -> float:
    """Returns the value of `from_good`, found as the thesis does it: by trying every distance.

    Every good distance [n] is tried as the threshold, the lowest `percent` % of the accuracies
    are kept, and the threshold of the best of these wins. Raises what `from_good` raises.
    """
    good = _not_empty(good)
    tried = sorted((metrics.good_accuracy(good, candidate), candidate) for candidate in good)
    kept = tried[: rank(percent, good.size, rule)]
    return float(max(kept)[1])


def operating_points(
    good: ArrayLike, defective: ArrayLike, validation: ArrayLike
) -> list[OperatingPoint]:
    """Returns what the thresholds at PERCENTS do on the test distances `good` and `defective`.

    First rule "ceil" on `good` (the thesis), then "exclusive" on `good`, then "ceil" on the
    `validation` distances, which leaks nothing. A source without images gives no points. Raises
    ValueError for distances that are not finite.
    """
    sources = [
        (good, "ceil", TEST_GOOD),
        (good, "exclusive", TEST_GOOD),
        (validation, "ceil", VALIDATION_GOOD),
    ]
    points = []
    for distances, rule, source in sources:
        for percent in PERCENTS if np.size(distances) else ():
            threshold = from_good(distances, percent, rule, source)
            points.append(
                OperatingPoint(
                    threshold,
                    metrics.good_accuracy(good, threshold.value),
                    metrics.defect_accuracy(defective, threshold.value),
                )
            )
    return points


def _not_empty(distances: ArrayLike) -> np.ndarray:
    distances = metrics.finite("good distances", distances)
    if distances.size == 0:
        raise ValueError("a threshold needs at least one good distance, got none")
    return distances
