"""The first screen of a run's page, for who has to live with its verdicts: plain words, no metric.

The rule in one sentence, how many good parts it will call defective, what it misses, and three
pictures. Numbers follow from metrics.json and scores.csv; what these cannot tell is called unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.stats import betabinom

from cae_jax.evaluation import metrics, scores, verdict
from cae_jax.evaluation.thresholds import OUT_OF_FOLD, TEST_GOOD, VALIDATION_GOOD
from cae_jax.reports import rules
from cae_jax.reports.html import gallery, markup
from cae_jax.reports.html.markup import amount
from cae_jax.reports.run_files import Run, real

_KINDS = 3  # of defects, those missed most, that are named
_RARE = 0.025  # a number of false alarms less likely than this is no chance
_MANY = 1000  # good parts, of which false alarms are counted
_WHOSE = {
    VALIDATION_GOOD: "good images kept out of training",
    OUT_OF_FOLD: "good images, each measured by a model that had not learned from it,",
    TEST_GOOD: "good test images",
}


class Answer(NamedTuple):
    """A number that the shop floor asks for."""

    label: str
    shown: str
    notes: list[str]


class Shown(NamedTuple):
    """One of the three pictures, with its map."""

    title: str
    path: str
    row: int  # of scores.csv, whose example it is
    kind: str  # "good" or of the defect
    said: str
    image: markup.Image
    map: markup.Image


def glance(run: Run) -> dict[str, Any]:
    """Returns what the template shows first: rule, answers, shown, and why nothing is shown."""
    point, test = rules.shown(run.metrics), run.frame[run.frame["split"] == scores.TEST]
    defective = test[test["label"] == 1]
    shown = list(_pictures(run, point))
    return {
        "rule": _rule(point, run.frame),
        "answers": [_alarms(point, run.frame), _misses(point, defective)] if point else [],
        "shown": shown,
        "absent": "" if shown else _no_picture(run),
    }


def _rule(point: Mapping[str, Any] | None, frame: pd.DataFrame) -> str:
    """The verdict rule in one sentence."""
    if point is None:
        return (
            "No part can be called good or defective: a threshold needs good images that the model "
            "has not learned from, and there are none."
        )
    limit, source = verdict.value(point), point.get("source")
    begin = f"A part is called defective when its distance from good is above {amount(limit)}"
    good, _, unseen = scores.distances_of(frame)
    distances = {TEST_GOOD: good, scores.source(frame): unseen}.get(str(source), np.empty(0))
    k, n = int((~verdict.exceeds(distances, limit)).sum()), len(distances)
    if rules.rank(point) is None or not n:
        return f"{begin}, by the rule: {rules.name(point)}."
    if n == 1:
        return f"{begin}, that of the one good image there is to set it by."
    count = f"all {n}" if k == n else f"{k} of {n}"
    return f"{begin}; {count} {_WHOSE[str(source)]} lie at or below it."


def _alarms(point: Mapping[str, Any], frame: pd.DataFrame) -> Answer:
    """How many good parts will be called defective, by what the threshold was set by."""
    label = f"False alarms in {_MANY:,} good parts"
    good, _, unseen = scores.distances_of(frame)
    called = int(verdict.exceeds(good, verdict.value(point)).sum())
    seen = f"Of {_count(len(good), 'good test image')} {called} {_is(called)} called defective"
    expected = rules.expected(point)
    if expected is None:
        shown, why = (
            _unseen(unseen, verdict.value(point)) if point.get("leaks") else ("unknown", [])
        )
        return Answer(label, shown, [*why, *([f"{seen}."] if len(good) else [])])
    mean, low, high = (_MANY * each for each in expected)
    said, notes = "about", [f"Expected; with 95 % confidence {_parts(low)} to {_parts(high)}."]
    if point.get("source") == OUT_OF_FOLD:
        notes = [
            f"Expected, {_parts(low)} to {_parts(high)} (95 %) by chance alone. Nothing guarantees "
            "it: a good image was measured by a model of the others, not by the final one."
        ]
    if point.get("rule") == "false_alarms":
        notes.append(f"Asked for: {rules.promise(point)}.")
    if len(good):
        said, meaning = _surprise(point, called, len(good))
        notes.append(f"{seen}{meaning}.")
    return Answer(label, f"{said} {_parts(mean)}", notes)


def _unseen(unseen: np.ndarray, limit: float) -> tuple[str, list[str]]:
    """What unseen good images tell of a threshold that was picked on test images."""
    why = "The threshold was picked on the test images, which therefore cannot tell."
    n = len(unseen)
    if not n:
        return "unknown", [why]
    k = int(verdict.exceeds(unseen, limit).sum())
    low, high = (_MANY * end for end in metrics.binomial_interval(k, n))
    told = f"Of {_count(n, 'other good image')} {k} {_is(k)} above it: "
    return f"about {_parts(_MANY * k / n)}", [why, f"{told}{_parts(low)} to {_parts(high)} (95 %)."]


def _surprise(point: Mapping[str, Any], called: int, n_good: int) -> tuple[str, str]:
    """Whether good test images are called defective as often as expected, and what if not."""
    k, n = rules.rank(point) or 1, int(real(point.get("n")))
    chance = betabinom(n_good, n + 1 - k, k)
    if chance.sf(called - 1) < _RARE:
        return "over", (
            ", more than chance explains: they look unlike the good images that the threshold was "
            "set by. Expect as many false alarms as here"
        )
    if chance.cdf(called) < _RARE:
        return "under", ", fewer than chance explains: the threshold lies higher than it had to"
    return "about", ""


def _misses(point: Mapping[str, Any], defective: pd.DataFrame) -> Answer:
    """Which defects are called good."""
    label, n = "Defects missed", len(defective)
    if not n:
        why = "No defective image was there to try. A few in test/KIND would tell."
        return Answer(label, "unknown", [why])
    missed = ~verdict.exceeds(defective["distance"], verdict.value(point))
    k = int(missed.sum())
    low, high = (100 * end for end in metrics.binomial_interval(k, n))
    notes = [
        f"{100 * k / n:.1f} %; of such defects, with 95 % confidence, {low:.1f} to {high:.1f} %."
        if k
        else f"None of these; up to {high:.1f} % of such defects may be (95 % confidence)."
    ]
    kinds = defective["defect_kind"].to_numpy()
    parts = [(int(missed[kinds == kind].sum()), int((kinds == kind).sum()), kind)
             for kind in sorted(set(kinds))]  # fmt: skip
    worst = sorted((each for each in parts if each[0]), key=lambda each: -each[0] / each[1])
    if worst and len(parts) > 1:
        named = ", ".join(f"{kind} {a} of {b}" for a, b, kind in worst[:_KINDS])
        notes.append(f"Kinds missed most: {named}.")
    if point.get("leaks"):
        notes.append("The threshold was picked on the test images.")
    return Answer(label, f"{k} of {n}", notes)


def _pictures(run: Run, point: Mapping[str, Any] | None) -> Iterator[Shown]:
    """A good image, a defect found, and one missed or the nearest to that, as far as there are."""
    if run.examples is None:
        return
    distances, labels = (run.frame[name].to_numpy() for name in ("distance", "label"))
    order = sorted(run.examples.row.tolist(), key=distances.__getitem__)
    limit = math.inf if point is None else verdict.value(point)
    called = set(np.flatnonzero(verdict.exceeds(distances, limit)).tolist())
    good, defective = ([row for row in order if labels[row] == label] for label in (0, 1))
    passed = [row for row in good if row not in called]
    found = [row for row in defective if row in called]
    chosen: dict[int, str] = {}  # by row, in the order in which they stand
    if passed:
        chosen[passed[len(passed) // 2]] = "A good part"
    elif good and defective:
        chosen[good[len(good) // 2]] = "A good part that is called defective"
    if point is None:
        chosen |= {row: "A defective part" for row in defective[len(defective) // 2 :][:1]}
    elif found:
        chosen[found[len(found) // 2]] = "A defect that is found"
    if point is not None and defective:
        missed = defective[0] not in called  # the distances rise
        name = "A defect that is missed" if missed else "The defect nearest to being missed"
        chosen.setdefault(defective[0], name)
    elif point is not None and good:
        alarm = good[-1] in called
        name = "A false alarm" if alarm else "The good part nearest to a false alarm"
        chosen.setdefault(good[-1], name)
    place = {int(row): i for i, row in enumerate(run.examples.row)}
    for row, title in chosen.items():
        path, kind = run.frame["path"].iloc[row], run.frame["defect_kind"].iloc[row]
        said = f"distance {amount(distances[row])}"
        if point is not None:
            side, word = ("above", "defective") if row in called else ("not above", "good")
            said += f", {side} {amount(limit)}: called {word}"
        shown = (run.examples, place[row])
        if part := gallery.around(*shown):
            shown, said = (part[0], 0), f"{said}; {part[1]}"
        drawn = gallery.pictures(*shown, path)
        yield Shown(title, path, row, kind, said, drawn["image"], drawn["residual"])


def _no_picture(run: Run) -> str:
    why = "no test image" if run.examples is not None else "this run left no examples.npz"
    return f"No picture: {why}."


def _parts(number: float) -> str:
    """A number of parts: whole from 10 on."""
    return f"{number:.2g}" if number < 10 else f"{number:,.0f}"


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'s' * (n != 1)}"


def _is(n: int) -> str:
    return "is" if n == 1 else "are"
