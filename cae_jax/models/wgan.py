"""The residual networks of f-AnoGAN: a generator, a critic and an encoder (Schlegl et al. 2019).

As the authors' code (tSchlegl/f-AnoGAN), which follows Gulrajani et al. 2017 (arXiv 1704.00028):
at 64 pixels and width 64 the generator goes 512, 512, 256, 128, 64 channels up from 4 x 4, the
critic and the encoder 64, 128, 256, 512, 512 down to it. Other sizes have a block for every
doubling and the same widths at the same distance from the image. Images are in [-1, 1].
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp

from cae_jax.models.layers.table import Conv
from cae_jax.types import UsageError

_SMALLEST = 4  # the side of the map where the generator starts and the others end
_WIDEST = 8  # times the width
_GLOROT = nn.initializers.glorot_uniform()
_BEFORE_RELU = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")


def depth(patch_size: int) -> int:
    """Returns how often the side doubles from 4 to `patch_size` pixels.

    Raises UsageError where that is no power of two of at least 8.
    """
    if patch_size < 2 * _SMALLEST or patch_size & (patch_size - 1):
        raise UsageError(
            f"--patch_size={patch_size}: residual GANs take a power of two, 8 or more pixels"
        )
    return (patch_size // _SMALLEST).bit_length() - 1


class Norm(nn.Module):
    """Batch norm, or layer norm over all of a map: a critic's gradient at an image must not depend
    on the batch."""

    kind: str  # "batch" or "layer"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C] -> the same shape; `train` takes the batch's own statistics."""
        if self.kind == "batch":  # the defaults of tf.layers, which the authors used
            return nn.BatchNorm(not train, momentum=0.99, epsilon=1e-3, name="of")(x)
        norm = nn.LayerNorm(
            1e-5, reduction_axes=(1, 2, 3), feature_axes=-1, use_fast_variance=False, name="of"
        )
        return norm(x)


class Block(nn.Module):
    """A residual block that doubles ("up") or halves ("down") the map, activated before it adds."""

    features: int
    resample: str
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, H, W, C] -> [N, 2 H, 2 W, features], or [N, H / 2, W / 2, features]."""
        up = self.resample == "up"
        shortcut = _conv(self.features, "shortcut", side=1, init=_GLOROT)
        beside = shortcut(double(x) if up else halve(x))
        y = nn.relu(Norm(self.norm, name="norm1")(x, train))
        y = _conv(self.features if up else x.shape[-1], "conv1", bias=False)(double(y) if up else y)
        y = nn.relu(Norm(self.norm, name="norm2")(y, train))
        y = _conv(self.features, "conv2")(y)
        return beside + (y if up else halve(y))


class Generator(nn.Module):
    """From a latent vector, drawn from N(0, 1), to an image."""

    channels: int = 1
    patch_size: int = 64
    width: int = 64
    latent: int = 128

    @nn.compact
    def __call__(self, z: jax.Array, train: bool = False) -> jax.Array:
        """[N, latent] -> [N, p, p, C] in [-1, 1]; raises UsageError for the patch size."""
        levels = depth(self.patch_size)
        features = [min(_WIDEST, 2**i) * self.width for i in range(levels, -1, -1)]
        x = nn.Dense(_SMALLEST**2 * features[0], kernel_init=_GLOROT, name="input")(z)
        x = x.reshape(-1, _SMALLEST, _SMALLEST, features[0])
        for i, wide in enumerate(features[1:], 1):
            x = Block(wide, "up", "batch", name=f"block{i}")(x, train)
        x = nn.relu(Norm("batch", name="norm")(x, train))
        return jnp.tanh(_conv(self.channels, "output")(x))


class Body(nn.Module):
    """What critic and encoder share: from an image to the features of a 4 x 4 map."""

    patch_size: int
    width: int
    norm: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """[N, p, p, C] -> [N, 16 F]; raises UsageError for the patch size."""
        x = _conv(self.width, "input", init=_GLOROT)(x)
        for i in range(1, depth(self.patch_size) + 1):
            features = min(_WIDEST, 2**i) * self.width
            x = Block(features, "down", self.norm, name=f"block{i}")(x, train)
        return x.reshape(x.shape[0], -1)


class Critic(nn.Module):
    """Tells images from generated ones: its mean is higher on images. It knows no batch."""

    patch_size: int = 64
    width: int = 64

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> tuple[jax.Array, jax.Array]:
        """[N, p, p, C] -> the critic [N], and the features [N, 16 F] that it is linear in."""
        features = Body(self.patch_size, self.width, "layer", name="body")(x, train)
        return nn.Dense(1, kernel_init=_GLOROT, name="output")(features)[:, 0], features


class Encoder(nn.Module):
    """From an image to the latent vector that the generator should make it of.

    With "tanh" it keeps within (-1, 1), as the paper's does, though a third of the numbers that the
    generator was trained on lie outside; "linear" may reach all of them.
    """

    patch_size: int = 64
    width: int = 64
    latent: int = 128
    activation: str = "tanh"

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, p, p, C] -> [N, latent]."""
        features = Body(self.patch_size, self.width, "batch", name="body")(x, train)
        z = nn.Dense(self.latent, kernel_init=_GLOROT, name="output")(features)
        return jnp.tanh(z) if self.activation == "tanh" else z


def double(x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, 2 H, 2 W, C]: every pixel becomes four."""
    n, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (n, height, 2, width, 2, channels))
    return x.reshape(n, 2 * height, 2 * width, channels)


def halve(x: jax.Array) -> jax.Array:
    """[N, H, W, C] -> [N, H / 2, W / 2, C]: the means of four pixels."""
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def _conv(
    features: int,
    name: str,
    bias: bool = True,
    side: int = 3,
    init: nn.initializers.Initializer = _BEFORE_RELU,
) -> Conv:
    # not Flax's, whose gradients are slow in a branch of a CPU's program, as f-AnoGAN's phases are:
    # a step of the GAN, 16 patches of 32 pixels, width 16, took 6.2 s of processor time, now 0.22
    return Conv(features, (side, side), (1, 1), kernel_init=init, use_bias=bias, name=name)
