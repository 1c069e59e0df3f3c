"""The vanilla autoencoder: three layers, input, hidden and output (thesis, Sec. 2.2).

The simplest form of chapter 2: every pixel meets every hidden number, and back. The thesis prints
no size; its hidden layer has as many numbers as the code of its Table 4. After it comes the leaky
ReLU of the other models: without one, the network would find principal components.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from cae_jax.models.layers.table import Row, apply_tables
from cae_jax.types import Reconstruction, UsageError

_HIDDEN = 100


class Model(nn.Module):
    """One hidden layer: 3,293,284 parameters (one channel, 128 px).

    With a code of as many numbers as the patch has, or more, it can learn to copy: chapter 2 then
    corrupts the input.
    """

    channels: int = 1
    patch_size: int = 128
    code: int = 0  # numbers of the hidden layer; 0: 100

    def tables(self) -> dict[str, tuple[Row, ...]]:
        """Returns the rows for the patch size; raises UsageError for a code below 0."""
        if self.code < 0:
            raise UsageError(f"a code of {self.code} numbers: must be 0, for {_HIDDEN}, or more")
        p = self.patch_size
        return {
            "encoder": (
                Row("Flatten", "flatten", None),
                Row("Hidden", "dense", self.code or _HIDDEN),
            ),
            "decoder": (
                Row("Output", "dense", p * p * self.channels, linear=True),
                Row("Reshape", "reshape", None, p),
            ),
        }

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Reconstruction:
        """Patches [N, p, p, C] -> Reconstruction of the same shape, linear at the output."""
        return Reconstruction(apply_tables(self, x, train), {})
