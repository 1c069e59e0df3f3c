"""Gong et al.'s memory-augmented autoencoder, as the thesis's Table 10 has it.

Its decoder rows were copied from Table 7 with their output sizes, which cannot follow the encoder's
8x8x96; the last width is read as the image's channels. The memory, whose size the table does not
print, has 2000 items over the 64 positions of the code, as the authors' video model.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from cae_jax.models.layers.memory import Memory
from cae_jax.models.layers.table import Row, Table
from cae_jax.types import Reconstruction, UsageError

_SAME = "padding 1 does not give the printed size; SAME does"
_COPIED = "the printed size is Table 7's and cannot follow 8x8x96; SAME gives {0}x{0}"

# fmt: off
ENCODER = (
    Row("Conv1", "conv", 64, 5, 2, (64, 64, 64), 1, note=_SAME),
    Row("Conv2", "conv", 64, 5, 2, (32, 32, 64), 1, note=_SAME),
    Row("Conv3", "conv", 96, 5, 2, (16, 16, 96), 1, note=_SAME),
    Row("Conv4", "conv", 96, 5, 2, (8, 8, 96), 1, linear=True, note=_SAME),
)
TABLE10 = (
    Row("Deconv1", "deconv", 192, 3, 2, (2, 2, 192), 1, note=_COPIED.format(16)),
    Row("Deconv2", "deconv", 160, 3, 2, (4, 4, 160), 1, note=_COPIED.format(32)),
    Row("Deconv3", "deconv", 160, 4, 2, (8, 8, 160), 1, note=_COPIED.format(64)),
    Row("Deconv4", "deconv", None, 4, 2, (16, 16, 128), 1, linear=True,
        note=_COPIED.format(128) + "; the printed 128 channels are read as the image's"),
)
SYMMETRIC = (
    Row("Deconv1", "deconv", 96, 5, 2),
    Row("Deconv2", "deconv", 64, 5, 2),
    Row("Deconv3", "deconv", 64, 5, 2),
    Row("Deconv4", "deconv", None, 5, 2, linear=True),
)
# fmt: on
VARIANTS = ({"symmetric": "true"},)


class Model(nn.Module):
    """Table 10: 1,535,361 parameters with 2000 items; 1,168,545 with the symmetric decoder."""

    channels: int = 1
    patch_size: int = 128
    symmetric: bool = False  # a 5x5 decoder that mirrors the encoder, not the printed one
    batch_norm: bool = False  # after every convolution but the latent and the output
    items: int = 2000
    addressing: str = "dot"  # as the authors' code; "cosine" as the paper
    threshold: float = -1.0  # of the shrinkage; below 0: 0.0025 for dot, 1 / items for cosine
    entropy_weight: float = 2e-4

    def tables(self) -> dict[str, tuple[Row, ...]]:
        """Returns the rows; raises UsageError for a patch size that is no multiple of 16."""
        if self.patch_size < 16 or self.patch_size % 16:
            raise UsageError(
                f"gong takes patches of a multiple of 16 pixels, not {self.patch_size}"
            )
        memory = Row("Memory", "memory", None, self.items, note="not printed in the table")
        decoder = SYMMETRIC if self.symmetric else TABLE10
        return {"encoder": ENCODER, "memory": (memory,), "decoder": decoder}

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Reconstruction:
        """Patches [N, p, p, C] -> Reconstruction; aux: penalty [N], items_used bool [N, items]."""
        tables, block = self.tables(), "norm_leaky" if self.batch_norm else "leaky"
        threshold = None if self.threshold < 0 else self.threshold
        with jax.named_scope("encode"):
            x = Table(tables["encoder"], self.channels, block, name="encoder")(x, train)
        with jax.named_scope("remember"):
            recalled = Memory(self.items, self.addressing, threshold, name="memory")(x)
        with jax.named_scope("decode"):
            x = Table(tables["decoder"], self.channels, block, name="decoder")(recalled.code, train)
        penalty = self.entropy_weight * recalled.entropy
        return Reconstruction(x, {"penalty": penalty, "items_used": recalled.used})
