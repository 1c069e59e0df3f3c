"""The flags of --method=filter_bank, see `methods.filter_bank`."""

from __future__ import annotations

import dataclasses

from cae_jax.methods.options import feature_memory, feature_pca, gaussian
from cae_jax.methods.options.features import Judged, Neighborhood
from cae_jax.options import flag


@dataclasses.dataclass(frozen=True)
class Options(Neighborhood, gaussian.Head, feature_memory.Head, feature_pca.Head, Judged):
    """The flags of --method=filter_bank; those of another head than the chosen one are idle."""

    head: str = flag(
        "gaussian", "what is learned of the features", among=("gaussian", "memory", "pca")
    )
    filter_stride: int = flag(8, "pixels between points of the grid", among=(4, 8))
