"""How well distances tell defective from good images: numbers from NumPy arrays, no JAX.

Scores are taken as they are and grow with the defect; nothing is clamped or rescaled. Where one
class is missing, what needs both is NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike


def finite(name: str, values: ArrayLike) -> np.ndarray:
    """Returns `values` as float64 [n]; raises ValueError for NaN, infinity or another rank."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"{name} must have one axis, got shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return array


def image_auroc(labels: ArrayLike, scores: ArrayLike) -> float:
    """Area under the ROC curve: the chance that a defective image scores above a good one.

    `labels` [n] are 0 (good) or 1 (defective), `scores` [n] grow with the defect; a tie counts
    half. It is the Mann-Whitney U statistic over n_good * n_defective, in [0, 1], and NaN when
    only one class is present. Raises ValueError for empty or non-finite input, shapes that
    differ, and labels other than 0 and 1.
    """
    good, defective = _by_class(labels, scores)
    if not good.size or not defective.size:
        return math.nan
    from scipy.stats import rankdata  # a second to import, which loading a model need not wait

    ranks = rankdata(np.concatenate([defective, good]))[: defective.size]
    u = ranks.sum() - defective.size * (defective.size + 1) / 2
    return float(u / (good.size * defective.size))


def roc_curve(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ROC curve as (fpr, tpr), float64 [k] each, from (0, 0) to (1, 1).

    A point for every distinct score as the lowest that is called defective, so tied images make
    one step. Both arrays are empty when only one class is present. Takes and raises what
    `image_auroc` does.
    """
    _, false, true = _counts(labels, scores)
    if not false[-1] or not true[-1]:
        return np.empty(0), np.empty(0)
    return false / false[-1], true / true[-1]


def average_precision(labels: ArrayLike, scores: ArrayLike) -> float:
    """Precision averaged over the steps of recall, in [0, 1]; NaN when only one class is present.

    The sum of (recall_i - recall_{i-1}) * precision_i over the distinct scores from the highest to
    the lowest, not interpolated: scikit-learn's `average_precision_score`. Takes and raises what
    `image_auroc` does.
    """
    _, false, true = _counts(labels, scores)
    if not false[-1] or not true[-1]:
        return math.nan
    precision = true[1:] / (true[1:] + false[1:])
    return float((np.diff(true) * precision).sum() / true[-1])


def f1_max(labels: ArrayLike, scores: ArrayLike) -> tuple[float, float]:
    """Returns the best F1 of any threshold, and that threshold: (f1, threshold).

    F1 = 2 TP / (2 TP + FP + FN), where a score > threshold is called defective. The threshold is
    the largest score that is called good, -inf where every image is called defective; of several
    with the best F1 it is the largest. Both are NaN when only one class is present. It looks at
    the labels, so it is a bound and no rule to work by. Takes and raises what `image_auroc` does.
    """
    distinct, false, true = _counts(labels, scores)
    if not false[-1] or not true[-1]:
        return math.nan, math.nan
    f1 = 2 * true / (true + false + true[-1])  # TP + FN are all the defective ones
    best = int(np.argmax(f1))
    return float(f1[best]), float([*distinct, -math.inf][best])


def binomial_interval(k: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Returns the exact confidence interval (low, high) of a share of which k of n were seen.

    Clopper and Pearson (Biometrika 26, 1934): neither end is refuted by a one-sided test at
    (1 - level) / 2, so it covers the share at least `level` of the time. n = 0 gives NaN twice.
    Raises ValueError unless 0 <= k <= n and 0 < level < 1.
    """
    if not 0 <= k <= n:
        raise ValueError(f"k must be in 0..n, got k={k}, n={n}")
    _check_level(level)
    if n == 0:
        return math.nan, math.nan
    from scipy.stats import binomtest  # as above

    interval = binomtest(k, n).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)


def auroc_interval(
    labels: ArrayLike,
    scores: ArrayLike,
    seed: int = 0,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Returns a bootstrap confidence interval (low, high) of `image_auroc`.

    Good and defective images are drawn with replacement, each as many as there are (Efron's
    percentile interval, stratified by class); the result depends on the seed and the scores
    alone, not on their order. Where the classes do not overlap it says nothing: (1, 1), however
    few images there are. NaN twice when only one class is present. Takes memory for resamples * n
    numbers; raises what `image_auroc` does, and ValueError unless 0 < level < 1 and resamples > 0.
    """
    _check_level(level)
    if resamples < 1:
        raise ValueError(f"resamples must be positive, got {resamples}")
    good, defective = _by_class(labels, scores)
    if not good.size or not defective.size:
        return math.nan, math.nan
    good, defective = np.sort(good), np.sort(defective)  # so that the images' order is no matter
    rng = np.random.default_rng(seed)
    # A resample is how often each image was drawn; the images need to be ranked only once.
    n, m = (
        rng.multinomial(x.size, np.full(x.size, 1 / x.size), resamples) for x in (good, defective)
    )
    drawn_below = np.pad(n.cumsum(axis=1), ((0, 0), (1, 0)))  # [resamples, n_good + 1]
    below = drawn_below[:, np.searchsorted(good, defective, "left")]
    below_or_tied = drawn_below[:, np.searchsorted(good, defective, "right")]
    u = (m * (below + below_or_tied)).sum(axis=1) / 2
    tail = (1 - level) / 2
    low, high = np.quantile(u / (good.size * defective.size), [tail, 1 - tail])
    return float(low), float(high)


def _by_class(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """The scores of the good and of the defective images, checked as `image_auroc` says."""
    scores = finite("scores", scores)
    labels = np.asarray(labels)
    if labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} differ in shape")
    if scores.size == 0:
        raise ValueError("labels and scores are empty")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, got {np.unique(labels).tolist()}")
    return scores[labels == 0], scores[labels == 1]


def _counts(labels: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The k distinct scores from the highest to the lowest, and how many good and how many
    defective images score above each of them, then all of them: int64 [k + 1]."""
    classes = _by_class(labels, scores)
    distinct = np.unique(np.concatenate(classes))[::-1]
    false, true = (
        np.append(x.size - np.searchsorted(np.sort(x), distinct, "right"), x.size) for x in classes
    )
    return distinct, false, true


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, got {level}")
