"""What a verdict and a p-value mean, in words for the shop floor; words.js says the same."""

from __future__ import annotations

import math

from cae_jax.serving.detector import Verdict

_ONE = "the one good part"
_FEW = 0.28  # a share below it is told as "1 in ...", one from it on as "... in 10"


def sentence(verdict: Verdict, n: int) -> str:
    """Returns the verdict and how unusual the part looks, as one sentence.

    Args:
      verdict: its p-value is the share of good parts that look at least this unusual, see
        `thresholds.p_values`. It is not the chance that the part is good, and what is said of it
        must not sound so.
      n: how many good images, not learned from, the p-value comes from.
    """
    called = "Defective" if verdict.defective else "Good"
    return f"{called}: {_rarity(verdict.p_value, n)}."


def _rarity(p: float, n: int) -> str:
    if math.isnan(p) or n < 1:
        return "how unusual this is cannot be said, as no good parts were kept aside to compare"
    if p * (n + 1) < 1.5:  # the smallest p there is, 1 / (n + 1): none of the n was as unusual
        return f"more unusual than {f'all {n} good parts' if n > 1 else _ONE} it was compared with"
    parts = "good part" if n == 1 else "good parts"
    if p < _FEW:
        said = f"about 1 good part in {_rounded(1 / p)} looks"
    elif p < 0.95:
        said = f"about {_rounded(10 * p)} good parts in 10 look"
    else:
        said = "nearly all good parts look"
    return f"{said} at least this unusual (compared with {n} {parts})"


def _rounded(value: float) -> int:
    return math.floor(value + 0.5)  # as JavaScript rounds
