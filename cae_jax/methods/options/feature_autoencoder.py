"""The flags of --method=feature_autoencoder, see `methods.feature_autoencoder`."""

from __future__ import annotations

import dataclasses

from cae_jax.methods.options.features import Features, Judged
from cae_jax.options import flag


@dataclasses.dataclass(frozen=True)
class Head:
    """What is learned of features."""

    latent: int = flag(
        0, "numbers of the code; 0: 2/5 of a network's channels, 1/7 of the filters", 0
    )
    train_steps: int = flag(4000, "of Adam", 1)
    batch_size: int = flag(256, "vectors per training step", 2)
    learning_rate: float = flag(1e-3, "of Adam", 0)
    candidates: int = flag(
        200_000, "at most so many features of the good images, drawn by --seed", 1
    )
    folds: int = flag(0, "of cross-fitting, each of which takes as long as the fit; 0: hold out", 0)


@dataclasses.dataclass(frozen=True)
class Options(Features, Head, Judged):
    """The flags of --method=feature_autoencoder."""
