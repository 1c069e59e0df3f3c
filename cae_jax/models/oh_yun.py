"""Oh and Yun's residual autoencoder of machine sound, as the thesis's Table 7 has it.

From 13 of its 19 rows the printed padding 1 gives another size than printed; SAME gives all 19.
Conv8 and Conv9 work on one pixel and Deconv1 starts from one, so 1,059,840 of the 4,219,265
parameters meet nothing but padding and never get a gradient.
"""

from __future__ import annotations

import flax.linen as nn
import jax

from cae_jax.models.layers.table import Row, apply_tables, coded
from cae_jax.types import Reconstruction, UsageError

_SAME = "padding 1 does not give the printed size; SAME does"

# fmt: off
ENCODER = (
    Row("Conv1", "conv",  64, 5, 2, (64, 64, 64), 1, note=_SAME),
    Row("Conv2", "conv",  64, 5, 2, (32, 32, 64), 1, note=_SAME),
    Row("Conv3", "conv",  96, 5, 2, (16, 16, 96), 1, note=_SAME),
    Row("Conv4", "conv",  96, 5, 2, (8, 8, 96), 1, note=_SAME),
    Row("Conv5", "conv", 128, 5, 2, (4, 4, 128), 1, note=_SAME),
    Row("Conv6", "conv", 128, 4, 2, (2, 2, 128), 1),
    Row("Conv7", "conv", 160, 4, 2, (1, 1, 160), 1),
    Row("Conv8", "conv", 160, 4, 2, (1, 1, 160), 1,
        note="padding 1 is impossible on one pixel; SAME gives the size"),
    Row("Conv9", "conv", 192, 3, 2, (1, 1, 192), 1, linear=True),
)
DECODER = (
    Row("Deconv1", "deconv", 192, 3, 2, (2, 2, 192), 1, note=_SAME),
    Row("Deconv2", "deconv", 160, 3, 2, (4, 4, 160), 1, note=_SAME),
    Row("Deconv3", "deconv", 160, 4, 2, (8, 8, 160), 1),
    Row("Deconv4", "deconv", 128, 4, 2, (16, 16, 128), 1),
    Row("Deconv5", "deconv", 128, 4, 2, (32, 32, 128), 1),
    Row("Deconv6", "deconv",  96, 5, 2, (64, 64, 96), 1, note=_SAME),
    Row("Deconv7", "deconv",  64, 5, 2, (128, 128, 64), 1, note=_SAME),
    Row("Deconv8", "deconv",  32, 5, 1, (128, 128, 32), 1, note=_SAME),
    Row("Deconv9", "deconv",  32, 5, 1, (128, 128, 32), 1, note=_SAME),
    Row("Deconv10", "deconv", None, 5, 1, (128, 128, 1), 1, linear=True, note=_SAME),
)
# fmt: on


class Model(nn.Module):
    """Table 7: 4,219,265 parameters (one channel, 128 px)."""

    channels: int = 1
    patch_size: int = 128
    paper_block: bool = False  # the authors' convolution, ReLU, batch norm, ReLU
    code: int = 0  # numbers of the latent; 0: the table's 192

    def tables(self) -> dict[str, tuple[Row, ...]]:
        """Returns the rows for the patch size: smaller patches skip the decoder's first strides.

        Raises:
          UsageError: a patch size that is no power of two in 2..128, or a code below 0.
        """
        p = self.patch_size
        if p & (p - 1) or not 2 <= p <= 128:
            raise UsageError(f"oh_yun takes patches of 2, 4, ... 128 pixels, not {p}")
        skipped = 7 - (p.bit_length() - 1)
        first = (row._replace(stride=1) for row in DECODER[:skipped])
        encoder = (*ENCODER[:-1], coded(ENCODER[-1], self.code))
        return {"encoder": encoder, "decoder": (*first, *DECODER[skipped:])}

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Reconstruction:
        """Patches [N, p, p, C] -> Reconstruction of the same shape, linear at latent and output."""
        block = "relu_norm_relu" if self.paper_block else "leaky"
        return Reconstruction(apply_tables(self, x, train, block), {})
