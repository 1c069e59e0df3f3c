"""An autoencoder of 1 x 1 convolutions: of the features of every point alone (DFR).

Shi, Yang and Qi, "Unsupervised anomaly segmentation via deep feature reconstruction",
Neurocomputing 2021 (arXiv 2012.07122), as its authors' code (YoungGod/DFR) has it. A 1 x 1
convolution is a matrix product of vectors, which it is here.
"""

from __future__ import annotations

import flax.linen as nn
import jax

_TORCH = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")  # PyTorch's default


class FeatureAutoencoder(nn.Module):
    """c -> (c + 2d) / 2 -> 2d -> d -> 2d -> (c + 2d) / 2 -> c channels.

    Batch norm and ReLU follow all layers but the code of d numbers and the last. Weights start as
    in PyTorch, uniform within 1 / sqrt(inputs); biases at 0.
    """

    channels: int
    latent: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Vectors [..., c] -> the same shape; `train` takes the batch's own statistics."""
        for i, wide in enumerate(widths(self.channels, self.latent), 1):
            x = nn.Dense(wide, kernel_init=_TORCH, name=f"layer{i}")(x)
            if wide != self.latent:
                norm = nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name=f"norm{i}")
                x = nn.relu(norm(x))
        return nn.Dense(self.channels, kernel_init=_TORCH, name="output")(x)


def widths(channels: int, latent: int) -> tuple[int, ...]:
    """Returns the channels of the layers but the last."""
    wide, narrow = (channels + 2 * latent) // 2, 2 * latent
    return wide, narrow, latent, narrow, wide
