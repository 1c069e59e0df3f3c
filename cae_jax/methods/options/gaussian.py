"""The flags of --method=gaussian, see `methods.gaussian`."""

from __future__ import annotations

import dataclasses

from cae_jax.methods.options.features import Features, Judged
from cae_jax.options import flag

COVARIANCES = ("position", "pooled")


@dataclasses.dataclass(frozen=True)
class Head:
    """What is learned of features."""

    covariance: str = flag(
        "position", "position: of every point its own; pooled: of all together", among=COVARIANCES
    )
    shrinkage: float = flag(0.01, "added to a covariance's diagonal", 0)
    feature_channels: int = flag(0, "at most so many channels, drawn by --seed; 0: all", 0)
    mixture: int = flag(0, "Gaussians a point, of groups of images; 0: one a category", 0)

    def together(self, n: int) -> Head:
        """Returns the record for n categories in one model."""
        return dataclasses.replace(self, mixture=self.mixture or n)


@dataclasses.dataclass(frozen=True)
class Options(Features, Head, Judged):
    """The flags of --method=gaussian."""
