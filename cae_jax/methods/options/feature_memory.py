"""The flags of --method=feature_memory, see `methods.feature_memory`."""

from __future__ import annotations

import dataclasses

from cae_jax.methods.options.features import Features, Judged
from cae_jax.options import SCORING, flag

SCORINGS = ("paper", "official")


@dataclasses.dataclass(frozen=True)
class Head:
    """What is learned of features."""

    coreset: float = flag(0.01, "share of the candidates that the memory keeps", 0, 1)
    candidates: int = flag(
        500_000, "at most so many features of the good images, drawn by --seed", 1
    )
    memory_scoring: str = flag(
        "paper",
        "paper: distances, an image's number reweighted; official: squared distances",
        among=SCORINGS,
        part=SCORING,
    )


@dataclasses.dataclass(frozen=True)
class Options(Features, Head, Judged):
    """The flags of --method=feature_memory."""
