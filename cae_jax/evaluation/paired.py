"""Two methods on the same test images: is their difference more than chance?

The AUROCs of two methods rise and fall together with the images, so their intervals may overlap
where one is better beyond doubt. DeLong, DeLong and Clarke-Pearson, "Comparing the areas under two
or more correlated receiver operating characteristic curves", Biometrics 44, 1988; McNemar, "Note on
the sampling error of the difference between correlated proportions", Psychometrika 12, 1947; Holm,
"A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6,
1979. Test images are the sample: nothing is said of other training images.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats


class Difference(NamedTuple):
    """One method's AUROC less another's."""

    value: float  # -1..1; NaN without both classes
    low: float  # 95 % interval, by the normal distribution; NaN without two images of each class
    high: float
    p_value: float  # two-sided, that there is none


class Verdicts(NamedTuple):
    """McNemar's test of verdicts on the same images."""

    only_one: int  # images that one alone tells right
    only_other: int
    p_value: float  # two-sided and exact, that both are as often right


def auroc_difference(labels: ArrayLike, one: ArrayLike, other: ArrayLike) -> Difference:
    """Returns DeLong's test of two methods' scores of the same images.

    The placement of a defective image is the share of good images that it is above of, a tie
    counting half; of a good image the share of defective ones above it. The AUROC is the mean of
    either, and the variance of the difference

        var(d of defective images) / m + var(d of good images) / n,

    d being an image's placement by one method less that by the other. Scores of several seeds enter
    by their mean placements: the difference is then of AUROCs averaged over seeds. Where all images
    differ alike that variance is 0, whatever their number: there is no interval then, and the
    p-value is the sign test's, as if each had fallen to either method by a coin.

    Args:
      labels: [n], 0 or 1.
      one: scores [n], or [seeds, n]; larger is worse.
      other: those of the other method, of as many seeds or others.

    Raises:
      ValueError: scores of another number of images, or that are not finite.
    """
    labels = np.asarray(labels)
    d = _placements(labels, one) - _placements(labels, other)
    classes = [d[labels == 1], d[labels == 0]]
    if not all(len(each) for each in classes):
        return Difference(*[math.nan] * 4)
    value = float(classes[0].mean())
    if min(map(len, classes)) < 2:
        return Difference(value, math.nan, math.nan, math.nan)
    deviation = math.sqrt(sum(each.var(ddof=1) / len(each) for each in classes))
    if deviation < 1e-12:
        if abs(value) < 1e-12:
            return Difference(value, value, value, 1.0)
        return Difference(value, math.nan, math.nan, 2.0 ** (1 - len(d)))
    half = float(stats.norm.ppf(0.975)) * deviation
    p_value = float(2 * stats.norm.sf(abs(value) / deviation))
    return Difference(value, max(-1.0, value - half), min(1.0, value + half), p_value)


def mcnemar(one: ArrayLike, other: ArrayLike) -> Verdicts:
    """Returns McNemar's exact test: of the images that only one of two methods tells right, either
    should have half.

    Args:
      one: bool [n], which images it tells right.
      other: the same of the other method.

    Raises:
      ValueError: arrays of different lengths.
    """
    one, other = np.asarray(one, bool), np.asarray(other, bool)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"verdicts must be of the same images [n], got {one.shape}, {other.shape}")
    first, second = int((one & ~other).sum()), int((other & ~one).sum())
    n = first + second
    p_value = float(stats.binomtest(first, n).pvalue) if n else 1.0
    return Verdicts(first, second, p_value)


def holm(p_values: ArrayLike) -> np.ndarray:
    """Returns p-values [k] adjusted for being k tests: the smallest times k, the next times k - 1,
    and so on, none smaller than one before it, and at most 1. NaN stays, and is no test."""
    given = np.asarray(p_values, np.float64)
    adjusted = np.full(given.shape, np.nan)
    order = [i for i in np.argsort(given, kind="stable") if not math.isnan(given[i])]
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * given[i]))
        adjusted[i] = largest
    return adjusted


def _placements(labels: np.ndarray, scores: ArrayLike) -> np.ndarray:
    """Mean placements over seeds, float64 [n]."""
    given = np.atleast_2d(np.asarray(scores, np.float64))
    if given.shape[1:] != labels.shape or not np.isfinite(given).all():
        raise ValueError(
            f"scores must be finite, one for each of {labels.shape}, got {given.shape}"
        )
    defective = labels == 1
    found = np.zeros(given.shape)
    for row, values in zip(found, given, strict=True):
        good, bad = np.sort(values[~defective]), np.sort(values[defective])
        row[defective] = _share_below(good, values[defective])
        row[~defective] = 1 - _share_below(bad, values[~defective])
    return found.mean(axis=0)


def _share_below(ordered: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The share of the ordered ones below each value, a tie counting half."""
    sides = [np.searchsorted(ordered, values, side) for side in ("left", "right")]
    return (sides[0] + sides[1]) / (2 * max(1, len(ordered)))
