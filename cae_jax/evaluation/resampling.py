"""Bootstrap over the test images: how else a number could have come out on images like these.

Good and defective images are drawn with replacement, each as many as there are (Efron's percentile
interval, stratified by class). The draws are shared: methods, seeds and metrics of one set of
images are all judged on the same ones, so that means of them have intervals too.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

RESAMPLES = 2000


def draws(labels: ArrayLike, seed: int | Sequence[int], resamples: int = RESAMPLES) -> np.ndarray:
    """Returns how often each image is drawn in each resample, int64 [resamples, n].

    `labels` [n] are 0 (good) or 1 (defective); the result depends on them and the seed alone.
    Raises ValueError where resamples is below 1.
    """
    if resamples < 1:
        raise ValueError(f"resamples must be positive, got {resamples}")
    labels, rng = np.asarray(labels), np.random.default_rng(seed)
    counts = np.zeros((resamples, labels.size), np.int64)
    for label in (0, 1):
        n = int((labels == label).sum())
        if n:
            counts[:, labels == label] = rng.multinomial(n, np.full(n, 1 / n), resamples)
    return counts


def aurocs(labels: ArrayLike, scores: ArrayLike, counts: np.ndarray) -> np.ndarray:
    """Returns `metrics.image_auroc` of every resample, float64 [resamples]; NaN without both
    classes.

    Args:
      labels: [n], 0 or 1.
      scores: [n], larger is worse; a tie counts half.
      counts: of `draws` for these labels.
    """
    labels, scores = np.asarray(labels), np.asarray(scores, np.float64)
    good, defective = labels == 0, labels == 1
    if not good.any() or not defective.any():
        return np.full(len(counts), np.nan)
    order = np.argsort(scores[good], kind="stable")
    sorted_good = scores[good][order]
    drawn = np.pad(counts[:, good][:, order].cumsum(axis=1), ((0, 0), (1, 0)))
    # of the good images drawn, how many are below each defective one, ties counted half
    sides = [np.searchsorted(sorted_good, scores[defective], side) for side in ("left", "right")]
    below = (drawn[:, sides[0]] + drawn[:, sides[1]]) / 2
    return (counts[:, defective] * below).sum(axis=1) / (good.sum() * defective.sum())


def balanced_accuracies(labels: ArrayLike, right: ArrayLike, counts: np.ndarray) -> np.ndarray:
    """Returns the mean of good and defect accuracy of every resample, float64 [resamples]; NaN
    without both classes.

    Args:
      labels: [n], 0 or 1.
      right: bool [n], which images are told right, by a threshold that is not drawn again.
      counts: of `draws` for these labels.
    """
    labels, right = np.asarray(labels), np.asarray(right, bool)
    if not {0, 1} <= set(labels.tolist()):
        return np.full(len(counts), np.nan)
    shares = [
        counts[:, of] @ right[of].astype(np.float64) / of.sum() for of in (labels == 0, labels == 1)
    ]
    return np.mean(shares, axis=0)


def interval(values: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Returns the percentile interval (low, high) of resampled values [resamples]; NaN of NaN."""
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(values, np.float64), [tail, 1 - tail])
    return float(low), float(high)
