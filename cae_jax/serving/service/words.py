"""A verdict in words."""

from __future__ import annotations

from cae_jax.serving.detector import Verdict


def sentence(verdict: Verdict, n: int) -> str:
    """Returns the verdict and its p-value in words; n is the number of unseen good images."""
    said = "Defective" if verdict.defective else "Good"
    if not n:
        return f"{said}."
    at_least = round(verdict.p_value * (n + 1)) - 1
    return f"{said}: {at_least} of {n} good images look at least as unusual."
