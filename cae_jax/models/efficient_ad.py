"""The two networks that learn in EfficientAD: a small student, and an autoencoder of its teacher.

Batzner, Heckler and König, "EfficientAD: accurate visual anomaly detection at millisecond-level
latencies", WACV 2024 (arXiv 2303.14535), and the code nelson1425/EfficientAD, for images and grids
of other sizes than 256 and 56: convolutions keep their input's size, so that nothing has to be
padded to the image afterwards, and both networks end on the teacher's grid.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cae_jax.models.layers.table import Conv

_LAYERS = ((1, 4), (2, 4), (2, 3))  # the student's: channels in widths, kernel
_DOWN = (32, 32, 64, 64, 64)  # channels of the autoencoder's halvings
_UP = (8, 4, 2, 1)  # its maps on the way up: the grid, so many times smaller
_CODE, _DROPPED = 64, 0.2


class Student(nn.Module):
    """The paper's patch description network, PDN-S.

    Convolutions of 4, 4, 3 and 4 pixels. After the first two the maps are averaged and halved, to
    the paper's grid of every fourth pixel; for a coarser one they are so again after the third.
    """

    outputs: int
    grid: tuple[int, int]
    width: int = 128  # channels of the first layer; the next two have twice as many

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> [N, h, w, outputs]."""
        halvings = round(math.log2(x.shape[1] / self.grid[0]))
        for i, (wide, kernel) in enumerate(_LAYERS, 1):
            x = nn.relu(_conv(wide * self.width, kernel, 1, f"conv{i}")(x))
            for _ in range(min(halvings, 1) if i < len(_LAYERS) else halvings):
                x = _halved(x)
                halvings -= 1
        return _resized(_conv(self.outputs, 4, 1, "output", last=True)(x), self.grid)


class Autoencoder(nn.Module):
    """From an image through 64 numbers to the teacher's maps: what belongs together in an image.

    The decoder doubles its maps up to the grid; the paper's grows beyond it and back.
    """

    outputs: int
    grid: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> [N, h, w, outputs]; while it trains a fifth of the decoder is dropped,
        by the random key "dropout"."""
        for i, wide in enumerate(_DOWN, 1):
            x = nn.relu(_conv(wide, 4, 2, f"down{i}")(x))
        x = nn.Dense(_CODE, name="code")(x.reshape(x.shape[0], -1))[:, None, None]
        for i, smaller in enumerate(_UP, 1):
            x = _resized(x, tuple(-(-side // smaller) for side in self.grid))
            x = nn.relu(_conv(_CODE, 4, 1, f"up{i}")(x))
            x = nn.Dropout(_DROPPED, deterministic=not train)(x)
        x = nn.relu(_conv(_CODE, 3, 1, "last")(x))
        return _conv(self.outputs, 3, 1, "output", last=True)(x)


def _conv(features: int, side: int, stride: int, name: str, last: bool = False) -> Conv:
    """A convolution with He et al.'s weights, for a ReLU after all but the last."""
    slope = 1.0 if last else 0.0
    return Conv(features, (side, side), (stride, stride), slope=slope, name=name)


def _halved(x: jax.Array) -> jax.Array:
    """Means of 2 x 2 points of maps [N, h, w, c], at an odd end of those that there are."""
    n, height, width, c = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return jnp.mean(x.reshape(n, -(-height // 2), 2, -(-width // 2), 2, c), axis=(2, 4))


def _resized(x: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Maps [N, h, w, c] on a grid of that size."""
    if x.shape[1:3] == size:
        return x
    return jax.image.resize(x, (x.shape[0], *size, x.shape[-1]), "linear")
