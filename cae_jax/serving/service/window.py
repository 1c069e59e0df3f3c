"""The scores that a model gave lately."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

import numpy as np

from cae_jax.evaluation import drift
from cae_jax.evaluation.verdict import Judge

RECENT = 300  # images that drift is told from
_LOW = 0.1
_ABOVE = (-0.5, 0.0, 0.5, 1.0, 2.0, 4.0, 8.0)  # of a histogram's bounds, in ranges of good scores


class Drift(NamedTuple):
    """How the last images differ from the unseen good ones; NaN where there are none of either."""

    statistic: float  # `drift.statistic`
    limit: float  # `drift.limit`
    low: float  # share of p-values at most 0.1, of which good images have at most 0.1
    n: int  # of the last images


class Window:
    """The scores of one detector since it was loaded; not for several threads."""

    def __init__(self, judge: Judge) -> None:
        """Takes what judges the scores."""
        self._judge = judge
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._low: deque[bool] = deque(maxlen=RECENT)
        self.bounds = bounds(judge)
        self._counts = np.zeros(len(self.bounds) + 1, np.int64)
        self._sum = 0.0

    def add(self, distance: float, p_value: float) -> None:
        """Takes one image's distance and p-value, which may be NaN."""
        self._recent.append(distance)
        self._low.append(p_value <= _LOW)
        self._counts[np.searchsorted(self.bounds, distance)] += 1
        self._sum += distance

    def histogram(self) -> tuple[list[tuple[str, float]], float]:
        """Returns ((upper bound, images up to it) ..., the last "+Inf"), and the distances' sum."""
        names = [*map(repr, self.bounds), "+Inf"]
        return list(zip(names, map(float, self._counts.cumsum()), strict=True)), self._sum

    def drift(self) -> Drift:
        """Returns how the last images differ."""
        unseen, n = self._judge.held_out, len(self._recent)
        if not len(unseen) or not n:
            return Drift(math.nan, math.nan, math.nan, n)
        found = drift.statistic(unseen, list(self._recent))
        return Drift(found, drift.limit(len(unseen), n), float(np.mean(self._low)), n)


def bounds(judge: Judge) -> list[float]:
    """Returns the bounds of a histogram of scores, ascending: the tenths of the unseen good
    images, the threshold, and some around it."""
    good = judge.held_out
    threshold = judge.threshold.value
    spread = float(np.ptp(good)) if len(good) else 0.0
    spread = spread or abs(threshold) or 1.0
    tenths = np.quantile(good, np.linspace(0, 1, 11)).tolist() if len(good) else []
    return sorted({*tenths, *(threshold + spread * k for k in _ABOVE)})
