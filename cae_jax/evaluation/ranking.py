"""Many methods over several data sets: ranks, and which of their differences mean something.

Demsar, "Statistical comparisons of classifiers over multiple data sets", JMLR 7, 2006: Friedman's
test says whether all methods may be alike, Nemenyi's which two are not: those whose mean ranks
differ by the critical difference at least. Data sets are the sample, so seeds are averaged before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

ALPHA = 0.05
_DECIMALS = 9  # up to which two values are a tie


class Comparison(NamedTuple):
    """k methods over n data sets."""

    ranks: np.ndarray  # float64 [n, k], 1 is best; ties share the mean of their ranks
    mean: np.ndarray  # float64 [k]
    statistic: float  # Friedman's chi-square of k - 1 degrees, ties corrected; NaN for k < 3
    p_value: float
    critical: float  # Nemenyi's critical difference at ALPHA; NaN for k < 2

    @property
    def possible(self) -> bool:
        """Whether any two methods could differ by the critical difference, which k and n decide:
        mean ranks are k - 1 apart at most."""
        return self.critical <= len(self.mean) - 1


def compare(values: ArrayLike) -> Comparison:
    """Returns the comparison of values [n, k], larger is better: a row for each data set.

    Raises ValueError for values that are empty, not finite, or not of two axes.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ValueError(f"values must be finite numbers [n, k], got {values.shape}")
    n, k = values.shape
    ranks = stats.rankdata(-values.round(_DECIMALS), axis=1)
    statistic, p_value = math.nan, math.nan
    if k >= 3:
        statistic, p_value = 0.0, 1.0
        if np.ptp(ranks, axis=1).any():  # with nothing but ties it would be 0 / 0
            found = stats.friedmanchisquare(*ranks.T)
            statistic, p_value = float(found.statistic), float(found.pvalue)
    critical = critical_difference(k, n) if k >= 2 else math.nan
    return Comparison(ranks, ranks.mean(axis=0), statistic, p_value, critical)


def critical_difference(k: int, n: int, alpha: float = ALPHA) -> float:
    """Returns how far the mean ranks of two of k methods over n data sets must be apart to differ.

    CD = q sqrt(k (k + 1) / (6 n)), where q is the upper `alpha` quantile of the Studentized range
    of k means with infinitely many degrees of freedom, over sqrt(2) (Demsar's Table 5a). Raises
    ValueError unless k is at least 2 and n at least 1.
    """
    if k < 2 or n < 1:
        raise ValueError(f"two methods and one data set are needed, got k={k}, n={n}")
    q = float(stats.studentized_range.ppf(1 - alpha, k, np.inf)) / math.sqrt(2)
    return q * math.sqrt(k * (k + 1) / (6 * n))


def groups(mean_ranks: Sequence[float], critical: float) -> list[tuple[int, int]]:
    """Returns the longest runs of methods of which no two differ, as (first, last).

    `mean_ranks` rise. Runs of one method, and such as lie in a longer one, are left out; Demsar's
    diagram draws a bar for each.
    """
    found: list[tuple[int, int]] = []
    for first, rank in enumerate(mean_ranks):
        last = max(i for i, other in enumerate(mean_ranks) if other - rank < critical)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found
