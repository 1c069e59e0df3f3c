"""The content of metrics.json: what a table of scores says, by every threshold."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cae_jax.evaluation import metrics, scores, thresholds, verdict

_RULES = (
    *(f"{source}{percent}" for source in ("", "val_") for percent in sorted(thresholds.PERCENTS)),
    *(f"conformal_{100 - alpha}" for alpha in thresholds.ALPHAS),
    *("min_area", "f1_best", "false_alarms"),
)
_TOLD = ("good", "defect", "mean")
ACCURACIES = tuple(f"{name}_accuracy_{rule}" for rule in _RULES for name in _TOLD)


def summarize(
    frame: pd.DataFrame,
    more: Sequence[verdict.OperatingPoint] = (),
    rate: float = 0.0,
    asked: thresholds.Threshold | None = None,
) -> dict[str, Any]:
    """Returns the content of metrics.json from a table of `scores.scores_frame`.

    image_auroc with its 95 % interval, image_ap, image_f1_max; n_good, n_defective, n_validation,
    n_out_of_fold; operating_points, a list of dicts, `more` ones after those of the distances, and
    the one of the threshold that was `asked` for by its rule last, which is marked;
    leak_points, of `verdict.leak_points`; and the accuracies by name: good_accuracy_70,
    defect_accuracy_70, mean_accuracy_70 ... from the good test images (the thesis),
    good_accuracy_val_70 ... from unseen good images, held out or out of fold, ..._conformal_90,
    ..._false_alarms (at `rate`, where one is asked for), ..._min_area, ..._f1_best. All accuracies
    are of the test images; one without images is NaN.
    """
    good, defective, unseen = scores.distances_of(frame)
    source = scores.source(frame)
    labels = np.repeat([0, 1], [good.size, defective.size])
    distances = np.concatenate([good, defective])
    result: dict[str, Any] = {
        **image_metrics(labels, distances),
        "image_auroc_interval": metrics.auroc_interval(labels, distances)
        if distances.size
        else None,
        "n_good": good.size,
        "n_defective": defective.size,
        "n_validation": unseen.size if source == thresholds.VALIDATION_GOOD else 0,
        "n_out_of_fold": unseen.size if source == thresholds.OUT_OF_FOLD else 0,
        "median_distance_good": np.median(good) if good.size else math.nan,
        "median_distance_defective": np.median(defective) if defective.size else math.nan,
        **dict.fromkeys(ACCURACIES, math.nan),
        "operating_points": [],
    }
    points = [*verdict.operating_points(good, defective, unseen, source, rate), *more]
    result["leak_points"] = verdict.leak_points(points)
    if asked:
        points.append(verdict.operating_point(asked, good, defective))
    for point in points:
        at = point.threshold
        told = _told(point, good.size, defective.size)
        mark = {"asked": True} if at is asked else {}
        result["operating_points"].append({**_picked(at), **mark, **told})
        if at.rule != "exclusive" and at is not asked:
            result |= {f"{name}_accuracy_{_suffix(at)}": told[f"{name}_accuracy"] for name in _TOLD}
    return result


def image_metrics(labels: ArrayLike, distances: ArrayLike) -> dict[str, float]:
    """Returns image_auroc, image_ap and image_f1_max of test images; NaN without both classes.

    `labels` [n] are 0 (good) or 1 (defective), `distances` [n] grow with the defect. Raises
    ValueError as `metrics.image_auroc` does.
    """
    if len({*np.asarray(labels).tolist()}) < 2:
        return dict.fromkeys(("image_auroc", "image_ap", "image_f1_max"), math.nan)
    return {
        "image_auroc": metrics.image_auroc(labels, distances),
        "image_ap": metrics.average_precision(labels, distances),
        "image_f1_max": metrics.f1_max(labels, distances)[0],
    }


def _picked(at: thresholds.Threshold) -> dict[str, Any]:
    """A threshold and where it comes from."""
    return {
        "rule": at.rule,
        "source": at.source,
        "leaks": at.leaks,
        "percent": at.percent,
        "threshold": at.value,
        "n": at.n,
        **({} if at.rate is None else {"rate": at.rate}),
    }


def _told(point: verdict.OperatingPoint, n_good: int, n_defective: int) -> dict[str, Any]:
    """Its accuracies, with the intervals of those that are shares."""
    good, defect = point.good_accuracy, point.defect_accuracy
    return {
        "good_accuracy": good,
        "defect_accuracy": defect,
        "mean_accuracy": point.balanced_accuracy,
        "good_accuracy_interval": _interval(good, n_good),
        "defect_accuracy_interval": _interval(defect, n_defective),
    }


def _interval(share: float, n: int) -> tuple[float, float]:
    """The exact 95 % interval of a share of n images."""
    return metrics.binomial_interval(round(share * n), n) if n else (math.nan, math.nan)


def _suffix(at: thresholds.Threshold) -> str:
    """What tells a threshold's accuracies from the others', as in ACCURACIES."""
    if at.rule == "ceil":
        return f"{'' if at.leaks else 'val_'}{at.percent}"
    return f"{at.rule}_{at.percent}" if at.rule == "conformal" else at.rule
