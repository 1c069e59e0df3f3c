"""Chow et al.'s autoencoder of concrete surfaces, as the thesis's Tables 8 and 9 have it.

Table 8 holds as printed. In Table 9 only three rows do: its convolutions keep their size, so their
stride is 1 and not 2; Deconv3 and Deconv5 rise fourfold, so their stride is 4. Rows were probably
lost: the encoder goes down from 128 to 4 pixels, the decoder comes up from 1.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from cae_jax.models.layers.table import Row, apply_tables, coded
from cae_jax.types import Reconstruction, UsageError

_KEEPS = "stride 2 would halve the printed size: read as 1"
_FOURFOLD = "the printed size is four times the input's: stride read as 4"
_SAME = "padding 1 does not give the printed size; SAME does"

# fmt: off
ENCODER = (
    Row("Conv1", "conv",  16, 3, 1, (128, 128, 16), 1),
    Row("Conv2", "conv",  16, 3, 1, (128, 128, 16), 1),
    Row("MaxPooling1", "max_pool", None, 2, 2, (64, 64, 16), 0),
    Row("Conv3", "conv",  32, 3, 1, (64, 64, 32), 1),
    Row("Conv4", "conv",  32, 3, 1, (64, 64, 32), 1),
    Row("MaxPooling2", "max_pool", None, 2, 2, (32, 32, 32), 0),
    Row("Conv5", "conv",  64, 3, 1, (32, 32, 64), 1),
    Row("Conv6", "conv",  64, 3, 1, (32, 32, 64), 1),
    Row("MaxPooling3", "max_pool", None, 2, 2, (16, 16, 64), 0),
    Row("Conv7", "conv", 128, 3, 1, (16, 16, 128), 1),
    Row("Conv8", "conv", 128, 3, 1, (16, 16, 128), 1),
    Row("MaxPooling4", "max_pool", None, 2, 2, (8, 8, 128), 0),
    Row("Conv9", "conv", 256, 3, 1, (8, 8, 256), 1),
    Row("Conv10", "conv", 256, 3, 1, (8, 8, 256), 1),
    Row("MaxPooling5", "max_pool", None, 2, 2, (4, 4, 256), 0),
    Row("Conv11", "conv", 512, 3, 1, (4, 4, 512), 1),
    Row("Conv12", "conv", 512, 3, 1, (4, 4, 512), 1),
    Row("Flatten", "flatten", None, printed=(8192,)),
    Row("Dense1", "dense", 100, printed=(100,)),
    Row("Dense2", "dense",  50, printed=(50,), linear=True),
)
DECODER = (
    Row("Dense3", "dense", 100, printed=(100,)),
    Row("Reshape", "reshape", 100, printed=(1, 1, 100)),
    Row("Deconv1", "deconv", 512, 3, 2, (2, 2, 512), 1, note=_SAME),
    Row("Conv13", "conv", 512, 3, 1, (2, 2, 512), 1, printed_stride=2, note=_KEEPS),
    Row("Conv14", "conv", 512, 3, 1, (2, 2, 512), 1, printed_stride=2, note=_KEEPS),
    Row("Deconv2", "deconv", 256, 3, 2, (4, 4, 256), 1, note=_SAME),
    Row("Conv15", "conv", 256, 3, 1, (4, 4, 256), 1, printed_stride=2, note=_KEEPS),
    Row("Conv16", "conv", 256, 3, 1, (4, 4, 256), 1, printed_stride=2, note=_KEEPS),
    Row("Deconv3", "deconv", 128, 3, 4, (16, 16, 128), 1, printed_stride=2, note=_FOURFOLD),
    Row("Conv17", "conv", 128, 3, 1, (16, 16, 128), 1, printed_stride=2, note=_KEEPS),
    Row("Conv18", "conv", 128, 3, 1, (16, 16, 128), 1, printed_stride=2, note=_KEEPS),
    Row("Deconv4", "deconv",  64, 3, 2, (32, 32, 64), 1, note=_SAME),
    Row("Conv19", "conv",  64, 3, 1, (32, 32, 64), 1, printed_stride=2, note=_KEEPS),
    Row("Conv20", "conv",  64, 3, 1, (32, 32, 64), 1, printed_stride=2, note=_KEEPS),
    Row("Deconv5", "deconv", None, 3, 4, (128, 128, 1), 1, printed_stride=2, note=_FOURFOLD),
    Row("Conv21", "conv", None, 3, 1, (128, 128, 1), 1, printed_stride=2, note=_KEEPS),
    Row("Conv22", "conv", None, 3, 1, (128, 128, 1), 1, printed_stride=2, linear=True, note=_KEEPS),
)
# fmt: on


class Model(nn.Module):
    """Tables 8 and 9: 13,827,343 parameters (one channel, 128 px)."""

    channels: int = 1
    patch_size: int = 128
    code: int = 0  # numbers of the latent; 0: the table's 50

    def tables(self) -> dict[str, tuple[Row, ...]]:
        """Returns the rows for the patch size: Deconv5 rises as far as the patch needs.

        Raises:
          UsageError: a patch size that is no multiple of 32, or a code below 0.
        """
        p = self.patch_size
        if p < 32 or p % 32:
            raise UsageError(f"chow takes patches of a multiple of 32 pixels, not {p}")
        tail = DECODER[-3]._replace(stride=p // 32)
        encoder = (*ENCODER[:-1], coded(ENCODER[-1], self.code))
        return {"encoder": encoder, "decoder": (*DECODER[:-3], tail, *DECODER[-2:])}

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Reconstruction:
        """Patches [N, p, p, C] -> Reconstruction of the same shape, linear at latent and output."""
        return Reconstruction(apply_tables(self, x, train), {})
