"""Losses, per example and unreduced."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def l2(x: jax.Array, y: jax.Array) -> jax.Array:
    """Mean squared error per pixel (thesis Sec. 4.1.3).

    Args:
      x: images or patches [N, H, W, C].
      y: the same shape.

    Returns:
      [N], in the square of the inputs' unit.

    Raises:
      ValueError: the shapes differ.
    """
    if x.shape != y.shape:
        raise ValueError(f"l2 compares equal shapes, got {x.shape} and {y.shape}")
    return jnp.mean(jnp.square(x - y), axis=tuple(range(1, x.ndim)))
