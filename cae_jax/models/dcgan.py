"""The networks of AnoGAN: a deep convolutional GAN (Radford et al. 2016, arXiv 1511.06434).

As the code that MVTec's comparison used (LeeDoYup/AnoGAN): at 64 pixels and width 64 the generator
goes 512, 256, 128, 64 channels up from 4 x 4, by transposed convolutions of 5 x 5 and stride 2; the
discriminator goes 64, 128, 256, 512 down to it. Larger patches keep the four doublings and start
from a larger map, smaller ones have fewer. Images are in [-1, 1].
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from cae_jax.models.layers.table import Conv, ConvTranspose
from cae_jax.types import UsageError

_SMALLEST, _LEVELS = 4, 4  # the side of the smallest map; the most doublings from there
_KERNEL, _STRIDE = (5, 5), (2, 2)
_SLOPE = 0.2
_NORMAL = nn.initializers.normal(0.02)


def levels(patch_size: int) -> int:
    """Returns how often the side doubles, at most four times, from at least 4 to `patch_size`
    pixels.

    Raises UsageError where that is no power of two of at least 8.
    """
    if patch_size < 2 * _SMALLEST or patch_size & (patch_size - 1):
        raise UsageError(f"--patch_size={patch_size}: a DCGAN takes a power of two, 8 or more")
    return min(_LEVELS, (patch_size // _SMALLEST).bit_length() - 1)


class Generator(nn.Module):
    """From a latent vector to an image."""

    channels: int = 1
    patch_size: int = 64
    width: int = 64
    latent: int = 100

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        """[N, latent] -> [N, p, p, C] in [-1, 1]; raises UsageError for the patch size."""
        n = levels(self.patch_size)
        side, features = self.patch_size // 2**n, [2**i * self.width for i in range(n)][::-1]
        x = nn.Dense(side**2 * features[0], kernel_init=_NORMAL, name="input")(z)
        x = x.reshape(-1, side, side, features[0])
        for i, wide in enumerate(features[1:], 1):
            x = nn.relu(_norm(f"norm{i}", train)(x))
            up = ConvTranspose(
                wide, _KERNEL, _STRIDE, kernel_init=_NORMAL, use_bias=False, name=f"deconv{i}"
            )
            x = up(x)
        x = nn.relu(_norm(f"norm{n}", train)(x))
        last = ConvTranspose(self.channels, _KERNEL, _STRIDE, kernel_init=_NORMAL, name="output")
        return jnp.tanh(last(x))


class Discriminator(nn.Module):
    """Tells images from generated ones: the logit of being an image."""

    patch_size: int = 64
    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """[N, p, p, C] -> the logit [N], and the features [N, F] that it is linear in: the last
        map, activated, which AnoGAN compares. Raises UsageError for the patch size."""
        for i in range(levels(self.patch_size)):
            wide, name = 2**i * self.width, f"conv{i + 1}"
            down = Conv(wide, _KERNEL, _STRIDE, kernel_init=_NORMAL, use_bias=not i, name=name)
            x = down(x)
            x = nn.leaky_relu(_norm(f"norm{i + 1}", train)(x) if i else x, _SLOPE)
        features = x.reshape(x.shape[0], -1)
        return nn.Dense(1, kernel_init=_NORMAL, name="output")(features)[:, 0], features


def _norm(name: str, train: bool) -> nn.BatchNorm:
    return nn.BatchNorm(not train, momentum=0.9, epsilon=1e-5, name=name)
