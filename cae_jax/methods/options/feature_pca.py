"""The flags of --method=feature_pca, see `methods.feature_pca`."""

from __future__ import annotations

import dataclasses

from cae_jax.methods.options.features import Features, Judged
from cae_jax.options import flag

PCA_OF = ("maps", "vectors")


@dataclasses.dataclass(frozen=True)
class Head:
    """What is learned of features."""

    pca_of: str = flag(
        "maps", "maps: a whole map is a vector; vectors: every point is one", among=PCA_OF
    )
    kept_variance: float = flag(
        0.0, "share that the components explain; 0: 0.9 of maps, 0.97 of vectors", 0, 1
    )
    components: int = flag(128, "at most so many components of maps", 1)


@dataclasses.dataclass(frozen=True)
class Options(Features, Head, Judged):
    """The flags of --method=feature_pca."""
