"""The operating points of metrics.json: names, verdicts, and what a leak is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cae_jax.evaluation.thresholds import TEST_GOOD, VALIDATION_GOOD
from cae_jax.reports.html.charts import Mark
from cae_jax.reports.html.markup import real

# The threshold that verdicts go by, the first that is there and finite: (rule, source, percent).
_SHOWN = (
    ("ceil", VALIDATION_GOOD, 90),
    ("conformal", VALIDATION_GOOD, 90),
    ("ceil", TEST_GOOD, 70),
)
_DRAWN = (*_SHOWN, ("f1_best", None, None))  # in the charts


def points(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the operating points of a metrics.json, [] where there are none."""
    found = metrics.get("operating_points")
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def threshold(point: Mapping[str, Any]) -> float:
    """Returns a point's threshold, which may be infinite (`report.write_json`); NaN if untold."""
    value = point.get("threshold")
    return float(value) if value in ("inf", "-inf") else real(value)


def name(point: Mapping[str, Any]) -> str:
    """Returns what a threshold is called, plain text."""
    rule, percent, source = (point.get(key) for key in ("rule", "percent", "source"))
    if rule in ("ceil", "exclusive"):
        whose = {TEST_GOOD: "thesis, ", VALIDATION_GOOD: "quantile, "}.get(source, "")
        kind = " (exclusive)" if rule == "exclusive" else ""
        return f"{whose}{percent} % of {source}{kind}"
    if rule == "conformal" and isinstance(percent, int):
        return f"conformal, false alarms at most {100 - percent} %"
    if rule == "min_area":
        return "minimum area of the residual map"
    if rule == "f1_best":
        return "best F1 (oracle)"
    return " ".join(str(part) for part in (rule, percent) if part is not None)


def shown(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the point that verdicts go by: leak-free where there is one; None without any."""
    return next((p for key in _SHOWN if (p := _find(metrics, *key))), None)


def verdicts(frame: pd.DataFrame, metrics: Mapping[str, Any]) -> list[str]:
    """Returns what the threshold of `shown` makes of every row of scores.csv: "right", "missed" or
    "false alarm"; "" without a threshold."""
    point = shown(metrics)
    if point is None:
        return [""] * len(frame)
    called = frame["distance"] > threshold(point)
    return [
        "right" if defective == label else ("missed" if label else "false alarm")
        for defective, label in zip(called.tolist(), frame["label"].tolist(), strict=True)
    ]


def marks(metrics: Mapping[str, Any]) -> list[Mark]:
    """Returns the thresholds to draw in a chart of distances."""
    return [Mark(name(p), threshold(p), _style(p)) for p in _drawn(metrics)]


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
    tells (`thresholds.leak_points`); {} where it does not."""
    found = metrics.get("leak_points")
    found = found if isinstance(found, dict) else {}
    worth = {int(share): real(value) for share, value in found.items() if share.isdecimal()}
    return {share: worth[share] for share in sorted(worth) if not math.isnan(worth[share])}


def _drawn(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [p for key in _DRAWN if (p := _find(metrics, *key))]


def _find(
    metrics: Mapping[str, Any], rule: str, source: str | None, percent: int | None
) -> dict[str, Any] | None:
    """The point of that rule whose threshold is finite; a source of None stands for any."""
    for point in points(metrics):
        same = point.get("rule") == rule and point.get("percent") == percent
        if same and source in (None, point.get("source")) and math.isfinite(threshold(point)):
            return point
    return None


def _style(point: Mapping[str, Any]) -> str:
    if point.get("rule") == "f1_best":
        return "oracle"
    return "leaks" if point.get("leaks") else "honest"
