"""The flags of --method=gmm_texture, see `methods.gmm_texture`."""

from __future__ import annotations

import dataclasses

from cae_jax.options import flag
from cae_jax.scoring.options import score_flag

COVARIANCES = ("full", "diagonal")
NORMALIZATIONS = ("none", "weber")


@dataclasses.dataclass(frozen=True)
class Options:
    """The flags of --method=gmm_texture."""

    levels: int = flag(0, "of the pyramid; 0: 4, or as many as leave room for two patches", 0, 8)
    patch: int = flag(7, "side of the patch around a pixel, odd", 1, 31)
    patch_normalization: str = flag(
        "none", "weber: a patch is divided by its mean; none", among=NORMALIZATIONS
    )
    dimensions: int = flag(16, "numbers that a patch is projected to; 0: all", 0)
    components: int = flag(10, "Gaussians of a level", 1, 256)
    covariance: str = flag("full", "of a Gaussian", among=COVARIANCES)
    variance_floor: float = flag(
        1e-3, "added to a Gaussian's variances, as a share of the mean variance of its level", 1e-6
    )
    em_rounds: int = flag(100, "of expectation and maximisation, at most", 1)
    em_tolerance: float = flag(1e-3, "they end when the mean log likelihood changes by less", 0)
    samples: int = flag(100_000, "patches of a level that are learned from, at most", 1000)
    quantile: float = flag(
        0.999, "of a level's novelty among good patches, which counts as 1", 0.5, 1
    )
    # HALCON finds a defect where any pixel is above the threshold
    image_score: str = score_flag("max")
