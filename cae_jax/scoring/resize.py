"""Images of any size resized as `data.images` resizes files, within a compiled program.

Pillow's antialiased bilinear filter is a product with a matrix down the rows and one along them.
Pixel o of `out` has its center at (o + 1/2) / out of the side, pixel i of `inside` at
(i + 1/2) / inside; a weight falls linearly from 1 to 0 over one pixel of the coarser grid. Times
2 max(inside, out) these are whole numbers, exact at the sizes below; outside none count.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from cae_jax.types import Size, height_width


def resize(images: jax.Array, size: Size) -> jax.Array:
    """Returns images of another size.

    Args:
      images: float32 [B, H, W, C]; H and W up to 131071 for S and T up to 8192, and symbolic under
        `jax.export`.
      size: S, T: the height and width, or the side of a square, in pixels.

    Returns:
      float32 [B, S, T, C], to about 1e-7 of the range what Pillow makes of float pixels.
    """
    to = height_width(size)
    rows, columns = (weights(n, out) for n, out in zip(images.shape[1:3], to, strict=True))
    # TF32, a GPU's default, would keep three digits
    return jnp.einsum(
        "oh,bhwc,pw->bopc", rows, images, columns, precision=jax.lax.Precision.HIGHEST
    )


def weights(inside: Any, out: int) -> jax.Array:
    """Returns the weights of `inside` pixels in each of `out`: float32 [out, inside], rows of
    sum 1."""
    at, to = 2 * jnp.arange(inside) + 1, 2 * jnp.arange(out) + 1
    apart = jnp.abs(at * out - to[:, None] * inside)
    shares = jnp.maximum(2 * jnp.maximum(inside, out) - apart, 0).astype(jnp.float32)
    return shares / jnp.sum(shares, axis=1, keepdims=True)
