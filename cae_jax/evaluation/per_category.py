"""What one threshold does to each of several categories that were learned together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cae_jax.evaluation import localization, summary, verdict
from cae_jax.types import Split


def results(
    categories: Sequence[str],
    split: Split,
    distances: np.ndarray,
    maps: np.ndarray,
    points: Sequence[Mapping[str, Any]],
) -> dict[str, dict[str, Any]]:
    """Returns the metrics of each category of a joint split by itself, by its name.

    Args:
      categories: their names, with which the paths begin.
      split: made by `data.joint.join`.
      distances: of its test images, float [m].
      maps: their maps, [m, H, W].
      points: the operating points of metrics.json, of all categories together.

    Returns:
      n_train, n_validation, n_good, n_defective; `summary.image_metrics` and
      `localization.pixel_results` of its own test images; and operating_points: each rule on
      distances with its threshold from all categories' good images, this category's good_accuracy
      and defect_accuracy at it, and how many of its images are false_alarms and misses.
    """
    found = {}
    for category in categories:

        def of(paths: Sequence[str], start: str = f"{category}/") -> np.ndarray:
            return np.array([path.startswith(start) for path in paths], bool)

        test, labels = of(split.test_paths), split.labels
        good, defective = (distances[test & (labels == label)] for label in (0, 1))
        found[category] = {
            "n_train": int(of(split.train_paths).sum()),
            "n_validation": int(of(split.validation_paths).sum()),
            "n_good": good.size,
            "n_defective": defective.size,
            **summary.image_metrics(labels[test], distances[test]),
            **localization.pixel_results(split, maps, test),
            "operating_points": [
                _at(point, good, defective) for point in points if point["rule"] != "min_area"
            ],
        }
    return found


def _at(point: Mapping[str, Any], good: np.ndarray, defective: np.ndarray) -> dict[str, Any]:
    """An operating point on some of the images."""
    threshold = verdict.value(point)
    return {
        **{name: point[name] for name in ("rule", "source", "leaks", "percent", "threshold")},
        "good_accuracy": verdict.good_accuracy(good, threshold),
        "defect_accuracy": verdict.defect_accuracy(defective, threshold),
        "false_alarms": int(np.sum(verdict.exceeds(good, threshold))),
        "misses": int(np.sum(~verdict.exceeds(defective, threshold))),
    }
