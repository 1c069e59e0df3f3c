"""Gradient magnitude similarity at several scales (MSGMS), as a map of dissimilarity and a loss.

Xue et al., "Gradient magnitude similarity deviation", IEEE TIP 2014 (arXiv 1308.3052), for one
scale; Zavrtanik et al., "Reconstruction by inpainting for visual anomaly detection", Pattern
Recognition 2021, for four of them.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

SCALES = 4
_CONSTANT = 0.0026  # c, for intensities in [0, 1]
_TINY = 1e-12  # under a root, whose slope at 0 is infinite


def dissimilarity(x: jax.Array, y: jax.Array) -> jax.Array:
    """1 - MSGMS at every pixel: the mean of the scales' maps, each resized to the image.

    A scale is half the one before, by 2x2 means. Of each, 1 - (2 a b + c) / (a^2 + b^2 + c), a and
    b being the magnitudes of the Prewitt gradients over 3 of x and y, c = .0026, averaged over the
    channels. Beyond the border, and where a side is odd, the edge's pixels go on.

    Args:
      x: images or patches [N, H, W, C] in [0, 1].
      y: the same shape; it may leave [0, 1].

    Returns:
      float32 [N, H, W], not negative and below 1; exactly 0 for equal images.

    Raises:
      ValueError: x and y are not of one shape [N, H, W, C].
    """
    _, height, width, _ = x.shape
    whole = []
    for scale, each in enumerate(_scales(x, y)):
        n, rows, columns = each.shape
        times = 2**scale
        resized = jax.image.resize(each, (n, rows * times, columns * times), "linear")
        whole.append(resized[:, :height, :width])
    return functools.reduce(jnp.add, whole) / SCALES


def loss(x: jax.Array, y: jax.Array) -> jax.Array:
    """The mean over scales of each one's mean of 1 - GMS, [N]; raises what `dissimilarity` does."""
    means = [jnp.mean(each, axis=(1, 2)) for each in _scales(x, y)]
    return functools.reduce(jnp.add, means) / SCALES


def _scales(x: jax.Array, y: jax.Array) -> list[jax.Array]:
    """1 - GMS of every scale, [N, H, W], then half as high and wide each, rounded up."""
    if x.shape != y.shape or x.ndim != 4:
        raise ValueError(f"MSGMS compares equal shapes [N, H, W, C], got {x.shape} and {y.shape}")
    both, maps = jnp.concatenate([x, y]), []
    for scale in range(SCALES):
        both = _halve(both) if scale else both
        a, b = jnp.split(_magnitude(both), 2)
        # the same as 1 - (2 a b + c) / (...), but nothing cancels where x and y are close
        lost = jnp.square(a - b) / (jnp.square(a) + jnp.square(b) + _CONSTANT)
        maps.append(jnp.mean(lost, axis=-1))
    return maps


def _magnitude(x: jax.Array) -> jax.Array:
    """The Prewitt gradient over 3 at every pixel of [N, H, W, C], of the same shape."""
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), "edge")
    down = padded[:, 2:] - padded[:, :-2]
    right = padded[:, :, 2:] - padded[:, :, :-2]
    down = down[:, :, :-2] + down[:, :, 1:-1] + down[:, :, 2:]
    right = right[:, :-2] + right[:, 1:-1] + right[:, 2:]
    return jnp.sqrt(jnp.square(down / 3) + jnp.square(right / 3) + _TINY)


def _halve(x: jax.Array) -> jax.Array:
    """2x2 means of [N, H, W, C]; of an odd side the last pixel counts twice."""
    n, height, width, channels = x.shape
    x = jnp.pad(x, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), "edge")
    rows, columns = (side // 2 for side in x.shape[1:3])
    return x.reshape(n, rows, 2, columns, 2, channels).mean(axis=(2, 4))
