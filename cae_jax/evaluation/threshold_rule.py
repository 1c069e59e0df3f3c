"""A threshold by the name of its rule, as a command line asks for it: `percent:95`, `f1_best`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cae_jax.evaluation import thresholds
from cae_jax.evaluation.thresholds import TEST_GOOD, Threshold
from cae_jax.types import UsageError, unknown_name

# Each rule with what stands behind its colon, if anything.
RULES = {
    "percent": "90",
    "exclusive": "90",
    "thesis": "70",
    "conformal": "0.1",
    "false_alarms": "0.05",
    "max": "",
    "f1_best": "",
}
GRAMMAR = ", ".join(name + (f":{share}" if share else "") for name, share in RULES.items())
_OF_UNSEEN = ("conformal", "false_alarms")  # rates are promised by images that nobody learned from


class Rule(NamedTuple):
    """A rule by its name, with its percent or rate."""

    name: str  # of RULES
    percent: int = 0
    rate: float = 0.0

    @property
    def needs_unseen(self) -> bool:
        """Whether it cannot do without good images that were not learned from."""
        return self.name in _OF_UNSEEN


def parse(text: str) -> Rule:
    """Reads a rule in the manner of GRAMMAR.

    percent:P calls P % of the unseen good images good, of the good test images where there are
    none; exclusive:P the same by the rank that comes nearest to the thesis's tables; thesis:P of
    the good test images; max is percent:100. conformal:RATE and false_alarms:RATE are for a rate of
    false alarms up to MAX_RATE; f1_best is the best F1 on the labelled test images.

    Raises UsageError for anything else.
    """
    if not isinstance(text, str):
        raise UsageError(f"--threshold={text!r}: must be a rule as text: {GRAMMAR}")
    name, colon, share = text.partition(":")
    if name not in RULES:
        raise unknown_name("--threshold", name, RULES)
    what = f"--threshold={text}: {name} takes"
    if not RULES[name]:
        if colon:
            raise UsageError(f"{what} no number")
        return Rule(name, 100 if name == "max" else 0)
    try:
        if name in _OF_UNSEEN:
            thresholds.images_needed(rate := float(share))
            return Rule(name, rate=rate)
        thresholds.rank(percent := int(share), 1)
        return Rule(name, percent)
    except (ValueError, UsageError):
        low = f"a rate above 0, at most {thresholds.MAX_RATE}"
        expected = low if name in _OF_UNSEEN else "a whole number of percent from 1 to 100"
        raise UsageError(f"{what} {expected}, as in {name}:{RULES[name]}") from None


def threshold(
    rule: Rule, good: np.ndarray, defective: np.ndarray, unseen: np.ndarray, source: str
) -> Threshold:
    """Returns the threshold that a rule picks.

    Args:
      rule: of `parse`.
      good: distances of the good test images, float64 [n].
      defective: of the defective ones, [m].
      unseen: of the good images that were not learned from, [k].
      source: of these, one of thresholds.UNSEEN.

    Raises UsageError where it needs images that there are none or too few of.
    """
    name = rule.name
    if name == "f1_best":
        if not (len(good) and len(defective)):
            raise UsageError("--threshold=f1_best: needs good and defective test images")
        return thresholds.oracle_f1(good, defective)
    if rule.needs_unseen and not len(unseen):
        raise UsageError(
            f"--threshold={name}:{rule.rate}: there is no good image but those learned from"
        )
    if name == "false_alarms":
        return thresholds.false_alarms(unseen, rule.rate, source)
    if name == "conformal":
        needed = thresholds.images_needed(rule.rate)
        if len(unseen) < needed:
            raise UsageError(
                f"--threshold=conformal:{rule.rate}: needs {needed} unseen good images, has "
                f"{len(unseen)}; false_alarms:{rule.rate} takes the strictest that they allow"
            )
        return thresholds.conformal_at(unseen, rule.rate, source)
    by_test = name == "thesis" or not len(unseen)
    if by_test and not len(good):
        raise UsageError(f"--threshold={name}:{rule.percent}: there is no good image to pick it on")
    images, source = (good, TEST_GOOD) if by_test else (unseen, source)
    rank = "exclusive" if name == "exclusive" else "ceil"
    return thresholds.from_good(images, rule.percent, rank, source)
