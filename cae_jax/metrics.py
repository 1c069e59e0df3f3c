"""How well distances tell defective from good images: numbers from NumPy arrays, no JAX."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata


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
    scores = finite("scores", scores)
    labels = np.asarray(labels)
    if labels.shape != scores.shape:
        raise ValueError(f"labels {labels.shape} and scores {scores.shape} differ in shape")
    if scores.size == 0:
        raise ValueError("labels and scores are empty")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError(f"labels must be 0 or 1, got {np.unique(labels).tolist()}")
    defective = labels == 1
    n_defective = int(defective.sum())
    n_good = labels.size - n_defective
    if n_good == 0 or n_defective == 0:
        return math.nan
    u = rankdata(scores)[defective].sum() - n_defective * (n_defective + 1) / 2
    return float(u / (n_good * n_defective))


def good_accuracy(good_distances: ArrayLike, threshold: float) -> float:
    """Share of the good distances [n] that are <= `threshold`, in [0, 1]; NaN when empty."""
    distances = finite("good distances", good_distances)
    return float((distances <= threshold).mean()) if distances.size else math.nan


def defect_accuracy(defective_distances: ArrayLike, threshold: float) -> float:
    """Share of the defective distances [n] that are > `threshold`, in [0, 1]; NaN when empty."""
    distances = finite("defective distances", defective_distances)
    return float((distances > threshold).mean()) if distances.size else math.nan
