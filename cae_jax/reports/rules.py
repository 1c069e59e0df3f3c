"""The operating points of metrics.json: names, verdicts, and what a leak is worth."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from cae_jax.evaluation import thresholds, verdict
from cae_jax.evaluation.thresholds import OUT_OF_FOLD, TEST_GOOD, UNSEEN
from cae_jax.reports.run_files import real

if TYPE_CHECKING:  # half a second to import, which loading a model need not wait
    import pandas as pd

# Drawn in the charts, in this order: those that may count, the conformal one, the best there is.
_DRAWN: tuple[tuple[str, str | None, int | None], ...] = (
    *(key for key in verdict.COUNTS if key[1] != TEST_GOOD),
    ("conformal", None, 90),
    *(key for key in verdict.COUNTS if key[1] == TEST_GOOD),
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
        whose = {TEST_GOOD: "thesis, ", **dict.fromkeys(UNSEEN, "quantile, ")}.get(str(source), "")
        kind = " (exclusive)" if rule == "exclusive" else ""
        return f"{whose}{percent} % of {source}{kind}"
    if rule == "conformal" and (isinstance(percent, int) or _wanted(point)):
        rate = 1 - percent / 100 if isinstance(percent, int) else _wanted(point)
        return f"conformal, false alarms {_bound(point)} {_rate(rate)}"
    if rule == "false_alarms" and _wanted(point):
        return promise(point)
    if rule == "min_area":
        return "minimum area of the residual map"
    if rule == "f1_best":
        return "best F1 (oracle)"
    return " ".join(str(part) for part in (rule, percent) if part is not None)


def promise(point: Mapping[str, Any]) -> str:
    """Returns what comes of the false-alarm rate that was asked for, plain text: the rate, and how
    many good images it needs.

    `point` is an operating point of rule "false_alarms".
    """
    rate, n = _wanted(point), int(real(point.get("n")))
    needed, good = (
        thresholds.images_needed(rate),
        f"{n} good image{'s allow' if n > 1 else ' allows'}",
    )
    if n >= needed:
        return f"false alarms {_bound(point)} {_rate(rate)}: needs {needed} good images, has {n}"
    return (
        f"false alarms {_bound(point)} {_rate(thresholds.promised(rate, n))}, the strictest that "
        f"{good}: no finite threshold can promise {_rate(rate)}, which needs {needed}"
    )


def leak(threshold: thresholds.Threshold) -> str:
    """Returns that a threshold leaks, in words; "" where it does not."""
    if not threshold.leaks:
        return ""
    return (
        f"the threshold ({name(dataclasses.asdict(threshold))}) leaks: it was picked on test "
        "images, and flatters the numbers that are of these"
    )


def unkept(threshold: thresholds.Threshold) -> str:
    """Returns what comes of a rate that too few images can promise; "" where there is none."""
    rate = threshold.rate
    if (
        not rate
        or threshold.rule != "false_alarms"
        or threshold.n >= thresholds.images_needed(rate)
    ):
        return ""
    return promise(dataclasses.asdict(threshold))


def warnings(threshold: thresholds.Threshold) -> list[str]:
    """Returns what whoever goes by a threshold must be told of it."""
    return [said for said in (unkept(threshold), leak(threshold)) if said]


def rank(point: Mapping[str, Any]) -> int | None:
    """Returns k where the threshold is the k-th smallest of its n good distances; None of a rule
    that takes no such rank, and where metrics.json does not tell."""
    n, percent, rate = (real(point.get(key)) for key in ("n", "percent", "rate"))
    if not n >= 1 or (percent == percent and not 1 <= percent <= 100):
        return None
    found = thresholds.Threshold(
        value=verdict.value(point),
        rule=str(point.get("rule")),
        source=str(point.get("source")),
        percent=int(percent) if percent == percent else None,
        n=int(n),
        rate=rate if 0 < rate <= thresholds.MAX_RATE else None,
    )
    return found.rank


def expected(point: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Returns the false-alarm rate to expect of a threshold, see `thresholds.alarm_rate`: (mean,
    low, high); None of one that leaks, or whose rule has no rank."""
    k = rank(point)
    if k is None or point.get("source") not in UNSEEN:
        return None
    return thresholds.alarm_rate(k, int(real(point.get("n"))))


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
    usual = [point for key in _DRAWN if (point := verdict.find(found, *key))]
    counts = verdict.counting(found)
    asked = [counts] if counts and counts.get("asked") else []
    return [*asked, *(point for point in usual if not asked or name(point) != name(asked[0]))]


def _wanted(point: Mapping[str, Any]) -> float:
    """The rate asked for; 0 where it or the number of images is not there."""
    rate, n = real(point.get("rate")), real(point.get("n"))
    return rate if 0 < rate <= thresholds.MAX_RATE and n >= 1 else 0.0


def _bound(point: Mapping[str, Any]) -> str:
    """Whether a rate is promised, see `thresholds`."""
    return "about" if point.get("source") == OUT_OF_FOLD else "at most"


def _rate(rate: float) -> str:
    return f"{100 * rate:.3g} %"


def _style(point: Mapping[str, Any]) -> str:
    if point.get("rule") == "f1_best":
        return "oracle"
    return "leaks" if point.get("leaks") else "honest"
