"""U-Nets (Ronneberger et al. 2015, arXiv 1505.04597) for images of any size, as two papers draw it.

Inpainting's (Zavrtanik et al. 2021, "Reconstruction by inpainting for visual anomaly detection")
goes down by convolutions of stride 2 and up by transposed ones; DRAEM's two networks (Zavrtanik et
al., ICCV 2021) go down by max pooling and up by bilinear interpolation, one of them without skips.
"""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cae_jax.models.layers.conv_transpose import conv
from cae_jax.models.layers.pooling import max_pool
from cae_jax.models.layers.table import ConvTranspose, he_normal

_SMALLEST = 8  # the side of the map at the bottom, in pixels, where an image is that large
_MOMENTUM = 0.9  # of the running statistics, PyTorch's 0.1


def levels(side: int, most: int) -> int:
    """Returns how many levels a network of at most `most` has for images of that side.

    Every level halves the map, as long as 8 pixels are left: 256 pixels take 6 levels, 16 take 2.
    """
    halvings = math.floor(math.log2(max(1.0, side / _SMALLEST)))
    return min(most, 1 + halvings)


class Unet(nn.Module):
    """An encoder of maps, each half the size of the one before, and a decoder back up.

    A level is two 3x3 convolutions, each with batch norm and a ReLU; the last layer is a 3x3
    convolution and linear. Weights start from He et al.'s initialisation.

    features: channels of the levels, from the image down.
    outputs: channels of what comes out.
    pooling: max pooling down, bilinear interpolation and a 3x3 convolution up (DRAEM); otherwise a
      level begins with a 4x4 convolution of stride 2, and upwards one transposed.
    skips: each level's map goes to its counterpart in the decoder.
    """

    features: tuple[int, ...]
    outputs: int
    pooling: bool = False
    skips: bool = True

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> [N, H, W, outputs]; `train` takes the batch's statistics.

        Where H or W is no multiple of the strides, the edge's pixels are repeated behind it, and
        what is made of them is cut off.
        """
        height, width = x.shape[1:3]
        stride = 2 ** (len(self.features) - 1)
        rest = ((0, -height % stride), (0, -width % stride))
        x = jnp.pad(x, ((0, 0), *rest, (0, 0)), "edge")
        beside = []
        for i, wide in enumerate(self.features):
            halves = i > 0
            if halves and self.pooling:
                x = max_pool(x, 2)
            strided = halves and not self.pooling
            x = Layer(wide, 4 if strided else 3, 1 + strided, name=f"down{i}_1")(x, train)
            x = Layer(wide, name=f"down{i}_2")(x, train)
            beside.append(x)
        for i in reversed(range(len(self.features) - 1)):
            x = self._up(x, beside[i] if self.skips else None, i, train)
        x = Layer(self.outputs, plain=True, name="output")(x)
        return x[:, :height, :width]

    def _up(self, x: jax.Array, beside: jax.Array | None, i: int, train: bool) -> jax.Array:
        """Level i of the decoder, from the map below it."""
        wide = self.features[i]
        if self.pooling:  # DRAEM narrows a level before the one that it meets
            wide = self.features[max(i - 1, 0)]
        middle = wide if self.skips else x.shape[-1]
        if self.pooling:
            x = Layer(middle, name=f"up{i}_0")(double(x), train)
        else:
            x = ConvTranspose(middle, (4, 4), (2, 2), name=f"up{i}_0")(x)
        if beside is not None:
            x = jnp.concatenate([x, beside], axis=-1)
        x = Layer(middle, name=f"up{i}_1")(x, train)
        return Layer(wide, name=f"up{i}_2")(x, train)


class Layer(nn.Module):
    """A convolution, batch norm and a ReLU; `plain`: a convolution with a bias alone."""

    features: int
    kernel: int = 3
    stride: int = 1
    plain: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, Ci] -> [N, H / stride, W / stride, features]."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", he_normal(1.0 if self.plain else 0.0), shape)
        x = conv(x, kernel, (self.stride, self.stride), "SAME")
        if self.plain:
            return x + self.param("bias", nn.initializers.zeros, (self.features,))
        # batch norm takes a bias away again, so there is none before it
        return nn.relu(nn.BatchNorm(not train, momentum=_MOMENTUM, name="norm")(x))


def double(x: jax.Array) -> jax.Array:
    """Bilinear interpolation of [N, H, W, C] to twice the size, [N, 2 H, 2 W, C].

    Between the centers of pixels, where DRAEM's is between corners. On a CPU its gradient, matrix
    products, is five times as fast as that of sums of shifted neighbours.
    """
    n, height, width, channels = x.shape
    return jax.image.resize(x, (n, 2 * height, 2 * width, channels), "linear")
