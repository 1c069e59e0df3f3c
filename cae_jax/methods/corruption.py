"""Corrupted copies of patches, from which a denoising autoencoder learns the clean ones.

Vincent et al., "Extracting and composing robust features with denoising autoencoders" (ICML 2008)
and "Stacked denoising autoencoders" (JMLR 11, 2010), Sec. 3.3; thesis, Sec. 2.2. What can merely be
copied is not learned: the input has to be told from the noise by what good patches look like.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cae_jax.methods.options.autoencoder import CORRUPTIONS, NO_CORRUPTION, STRENGTHS
from cae_jax.types import unknown_name

_CELLS = 8  # along a side of a patch


def corruption(
    kind: str, strength: float = 0.0
) -> Callable[[jax.Array, jax.Array], jax.Array] | None:
    """Returns how patches are corrupted, (key, patches [N, p, p, C]) -> the same shape; None for
    "none".

    Args:
      kind: of CORRUPTIONS.
      strength: what the kind says; 0 takes that of STRENGTHS.

    Raises:
      UsageError: an unknown kind.
    """
    if kind not in CORRUPTIONS:
        raise unknown_name("--corruption", kind, CORRUPTIONS)
    if kind == NO_CORRUPTION:
        return None
    known = {
        "gaussian": gaussian,
        "salt_pepper": salt_pepper,
        "masking": masking,
        "patches": patches,
    }
    return functools.partial(known[kind], strength=strength or STRENGTHS[kind])


def gaussian(key: jax.Array, x: jax.Array, strength: float) -> jax.Array:
    """Adds noise of that standard deviation, in x's unit; nothing is cut off at 0 and 1."""
    return x + strength * jax.random.normal(key, x.shape, x.dtype)


def salt_pepper(key: jax.Array, x: jax.Array, strength: float) -> jax.Array:
    """Sets about that share of the numbers of x [N, p, p, C] to 0 or 1, half of them each."""
    drawn = jax.random.uniform(key, x.shape)
    return jnp.where(drawn < strength, (drawn < strength / 2).astype(x.dtype), x)


def masking(key: jax.Array, x: jax.Array, strength: float) -> jax.Array:
    """Sets about that share of the numbers of x [N, p, p, C] to 0: each with that probability,
    where the paper of 2008 draws a fixed number of them."""
    return jnp.where(jax.random.uniform(key, x.shape) < strength, 0.0, x)


def patches(key: jax.Array, x: jax.Array, strength: float) -> jax.Array:
    """Sets about that share of the cells of x [N, p, p, C] to 0, in all channels: of 8 x 8, or of
    p x p where that is less. Not in Vincent et al.: what is gone cannot be had from its neighbour.
    """
    n, height, width, _ = x.shape
    cells = [min(_CELLS, size) for size in (height, width)]
    gone = jax.random.uniform(key, (n, *cells)) < strength
    row, column = (
        jnp.arange(size) * along // size for size, along in zip((height, width), cells, strict=True)
    )
    return jnp.where(gone[:, row[:, None], column, None], 0.0, x)
