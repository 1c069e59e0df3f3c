"""The operating points of metrics.json: names, verdicts, and what a leak is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import pandas as pd

from cae_jax.evaluation import verdict
from cae_jax.evaluation.thresholds import TEST_GOOD, VALIDATION_GOOD
from cae_jax.reports.run_files import real

# Drawn in the charts, in this order: those that may count, the guaranteed one, the best there is.
_DRAWN = (
    verdict.COUNTS[0],
    ("conformal", VALIDATION_GOOD, 90),
    verdict.COUNTS[1],
    ("f1_best", None, None),
)


class Mark(NamedTuple):
    """A threshold in a chart."""

    name: str
    value: float  # a distance
    style: str  # "honest", "leaks" or "oracle"


def points(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the operating points of a metrics.json, [] where there are none."""
    found = metrics.get("operating_points")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def name(point: Mapping[str, Any]) -> str:
    """Returns what a threshold is called, plain text."""
    rule, percent, source = (point.get(key) for key in ("rule", "percent", "source"))
    if rule in ("ceil", "exclusive"):
        whose = {TEST_GOOD: "thesis, ", VALIDATION_GOOD: "quantile, "}.get(str(source), "")
        kind = " (exclusive)" if rule == "exclusive" else ""
        return f"{whose}{percent} % of {source}{kind}"
    if rule == "conformal" and isinstance(percent, int):
        return f"conformal, false alarms at most {100 - percent} %"
    if rule == "min_area":
        return "minimum area of the residual map"
    if rule == "f1_best":
        return "best F1 (oracle)"
    return " ".join(str(part) for part in (rule, percent) if part is not None)


def shown(metrics: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Returns the point that verdicts go by, see `verdict.counting`; None without any."""
    return verdict.counting(points(metrics))


def verdicts(frame: pd.DataFrame, metrics: Mapping[str, Any]) -> list[str]:
    """Returns what the threshold of `shown` makes of every row of scores.csv: "right", "missed" or
    "false alarm"; "" without a threshold."""
    point = shown(metrics)
    if point is None:
        return [""] * len(frame)
    return verdict.words(frame["label"], frame["distance"], verdict.value(point))


def marks(metrics: Mapping[str, Any]) -> list[Mark]:
    """Returns the thresholds to draw in a chart of distances."""
    return [Mark(name(p), verdict.value(p), _style(p)) for p in _drawn(metrics)]


def on_roc(metrics: Mapping[str, Any]) -> list[tuple[str, float, float, str]]:
    """Returns the same as points of the ROC curve: (name, fpr, tpr, style)."""
    found = []
    for point in _drawn(metrics):
        fpr, tpr = 1 - real(point.get("good_accuracy")), real(point.get("defect_accuracy"))
        if math.isfinite(fpr) and math.isfinite(tpr):
            found.append((name(point), fpr, tpr, _style(point)))
    return found


def leak_points(metrics: Mapping[str, Any]) -> dict[int, float]:
    """Returns by percent, 70 first, what the thesis's leak is worth in points, as metrics.json
    tells (`verdict.leak_points`); {} where it does not."""
    found = metrics.get("leak_points")
    found = found if isinstance(found, dict) else {}
    worth = {int(share): real(value) for share, value in found.items() if share.isdecimal()}
    return {share: worth[share] for share in sorted(worth) if not math.isnan(worth[share])}


def _drawn(metrics: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    found = points(metrics)
    return [point for key in _DRAWN if (point := verdict.find(found, *key))]


def _style(point: Mapping[str, Any]) -> str:
    if point.get("rule") == "f1_best":
        return "oracle"
    return "leaks" if point.get("leaks") else "honest"
