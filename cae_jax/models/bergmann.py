"""The L2 convolutional autoencoder: the thesis's Table 4, after Bergmann et al. 2018.

Table 4 prints paddings under which its own sizes do not come out. The reading here keeps every
kernel, stride and width, and changes the padding column alone: SAME everywhere, Conv9 VALID. The
decoder of the source paper (arXiv 1807.02011), the mirror of the encoder, is an option; so is the
network that the CVPR 2019 paper trains on whole objects of 256 pixels.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from cae_jax.models.layers.table import Row, apply_tables, coded
from cae_jax.types import Reconstruction, UsageError, unknown_name

_SWAPPED = "paddings of Conv8 and Conv9 are swapped in print: the source table has 1 and 0"
_WHOLE = 'a reading: CVPR 2019 has "an additional convolution layer" for objects, and no table'
_SHIFTED = "padding 1 is impossible: the kernel column slipped by one row; SAME gives the size"

# fmt: off
ENCODER = (
    Row("Conv1", "conv",  32, 4, 2, (64, 64, 32), 1),
    Row("Conv2", "conv",  32, 4, 2, (32, 32, 32), 1),
    Row("Conv3", "conv",  32, 3, 1, (32, 32, 32), 1),
    Row("Conv4", "conv",  64, 4, 2, (16, 16, 64), 1),
    Row("Conv5", "conv",  64, 3, 1, (16, 16, 64), 1),
    Row("Conv6", "conv", 128, 4, 2, (8, 8, 128), 1),
    Row("Conv7", "conv",  64, 3, 1, (8, 8, 64), 1),
    Row("Conv8", "conv",  32, 3, 1, (8, 8, 32), 0, note=_SWAPPED),
    Row("Conv9", "conv", 100, 8, 1, (1, 1, 100), 1, padding="VALID", linear=True, note=_SWAPPED),
)
TABLE4 = (
    Row("Deconv1", "deconv",  32, 3, 8, (8, 8, 32), 1,
        note=_SHIFTED + "; only 9 of the 64 outputs touch a weight"),
    Row("Deconv2", "deconv",  64, 3, 1, (8, 8, 64), 1),
    Row("Deconv3", "deconv", 128, 4, 1, (8, 8, 128), 1, note=_SHIFTED),
    Row("Deconv4", "deconv",  64, 3, 2, (16, 16, 64), 1, note=_SHIFTED),
    Row("Deconv5", "deconv",  64, 4, 1, (16, 16, 64), 1, note=_SHIFTED),
    Row("Deconv6", "deconv",  32, 3, 2, (32, 32, 32), 1, note=_SHIFTED),
    Row("Deconv7", "deconv",  32, 4, 1, (32, 32, 32), 1, note=_SHIFTED),
    Row("Deconv8", "deconv",  32, 4, 2, (64, 64, 32), 1),
    Row("Deconv9", "deconv", None, 4, 2, (128, 128, 1), 1, linear=True),
)
# From a 1x1 map, 8x8 with stride 8 and SAME is the paper's 8x8 with stride 1 and no padding.
MIRROR = (
    Row("Deconv1", "deconv",  32, 8, 8),
    Row("Deconv2", "deconv",  64, 3, 1),
    Row("Deconv3", "deconv", 128, 3, 1),
    Row("Deconv4", "deconv",  64, 4, 2),
    Row("Deconv5", "deconv",  64, 3, 1),
    Row("Deconv6", "deconv",  32, 4, 2),
    Row("Deconv7", "deconv",  32, 3, 1),
    Row("Deconv8", "deconv",  32, 4, 2),
    Row("Deconv9", "deconv", None, 4, 2, linear=True),
)
# Before Conv1 and before Deconv9: 256 pixels then meet Table 4's layers as 128 do without.
CONV0 = Row("Conv0", "conv", 32, 4, 2, note=_WHOLE)
DECONV0 = Row("Deconv0", "deconv", 32, 4, 2, note=_WHOLE)
# fmt: on
VARIANTS = ({"decoder": "mirror"}, {"whole_image": "true"})
DECODERS = {"table4": TABLE4, "mirror": MIRROR}


class Model(nn.Module):
    """Table 4: 894,053 parameters; with the mirror decoder 1,048,549 (one channel, 128 px).

    With `whole_image`, a convolution and a deconvolution more: 926,885 at 256 px.
    """

    channels: int = 1
    patch_size: int = 128
    decoder: str = "table4"
    whole_image: bool = False
    code: int = 0  # numbers of the latent; 0: the table's 100

    def tables(self) -> dict[str, tuple[Row, ...]]:
        """Returns the rows for the patch size: the bottleneck, printed for 8x8, spans the map.

        Raises:
          UsageError: a patch size that is no multiple of 16, with `whole_image` of 32, an unknown
            decoder, or a code below 0.
        """
        if self.decoder not in DECODERS:
            raise unknown_name("decoder", self.decoder, DECODERS)
        shrink = 32 if self.whole_image else 16
        if self.patch_size < shrink or self.patch_size % shrink:
            option = " with whole_image" if self.whole_image else ""
            raise UsageError(
                f"bergmann{option} takes patches of a multiple of {shrink} pixels, "
                f"not {self.patch_size}"
            )
        side = self.patch_size // shrink
        first, *rest = DECODERS[self.decoder]
        kernel = side if self.decoder == "mirror" else first.kernel
        latent = coded(ENCODER[-1]._replace(kernel=side), self.code)
        encoder: tuple[Row, ...] = (*ENCODER[:-1], latent)
        decoder = (first._replace(kernel=kernel, stride=side), *rest)
        if self.whole_image:
            # the sizes and paddings of a print are another network's: nothing to hold against it
            encoder = (CONV0, *map(_unprinted, encoder))
            decoder = (*map(_unprinted, decoder[:-1]), DECONV0, _unprinted(decoder[-1]))
        return {"encoder": encoder, "decoder": decoder}

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Reconstruction:
        """Patches [N, p, p, C] -> Reconstruction of the same shape, linear at latent and output."""
        return Reconstruction(apply_tables(self, x, train), {})


def _unprinted(row: Row) -> Row:
    return row._replace(printed=(), printed_padding=None)
