"""Whether the images of today are still like those that the threshold was picked on.

The two-sample Kolmogorov-Smirnov statistic (Smirnov, Annals of Mathematical Statistics 19, 1948):
the largest difference between the shares of recent and of unseen good images at or below a
distance. It looks at all of the distribution, so that it sees drift to smaller distances and of
good images that stay below the threshold. Of a share d of defective images it sees d at most.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike

from cae_jax.evaluation import metrics

ALPHA = 0.01  # how often `limit` is exceeded without drift


def statistic(unseen: ArrayLike, recent: ArrayLike) -> float:
    """Returns the Kolmogorov-Smirnov statistic of distances [n] and [m], in [0, 1].

    NaN when either is empty. Raises ValueError for distances that are not finite.
    """
    one = np.sort(metrics.finite("unseen distances", unseen))
    other = np.sort(metrics.finite("recent distances", recent))
    if not one.size or not other.size:
        return math.nan
    at = np.concatenate([one, other])
    shares = (np.searchsorted(each, at, "right") / each.size for each in (one, other))
    return float(np.abs(np.subtract(*shares)).max())


def limit(n: int, m: int) -> float:
    """Returns what `statistic` exceeds with a chance of about ALPHA, without drift.

    sqrt(-ln(ALPHA / 2) / 2 * (n + m) / (n m)), the asymptotic one, for images that are independent
    of each other: several pictures of one part are not. NaN without images.
    """
    return math.sqrt(-math.log(ALPHA / 2) / 2 * (n + m) / (n * m)) if n and m else math.nan
