"""What a reconstruction's error looks like: a residual map per distance, and one number of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cae_jax.scoring import ssim
from cae_jax.scoring.options import BORDERS, DISTANCES, REDUCTIONS, Ssim
from cae_jax.types import UsageError, unknown_name

_FULL_SCALE = 255.0  # l2 and l1 are on the 0..255 intensity scale (specification, section 0)
_TRUNCATE = 4  # the Gaussian of `smooth` ends at this many sigma, as SciPy's does


class Reduction(NamedTuple):
    """Which distances are wanted, and how their maps become numbers."""

    distances: tuple[str, ...]  # of the method's
    smooth: float = 0.0  # sigma of a Gaussian over the maps, in pixels; 0: none
    border: str = "reflect"  # how the Gaussian goes on at a border, see `smooth`
    reduce: str = "sum"  # a map as one number: its sum, maximum or the mean of its top share
    top: float = 0.01  # the share of the pixels that "top" averages, in (0, 1]


def check(r: Reduction) -> None:
    """Raises UsageError, naming the flag, for what cannot work."""
    for shown, name, known in (
        ("--residual_border", r.border, tuple(BORDERS)),
        ("--image_score", r.reduce, REDUCTIONS),
    ):
        if name not in known:
            raise unknown_name(shown, name, known)
    if not 0 <= r.smooth < math.inf:
        raise UsageError(f"--residual_smooth={r.smooth}: must be a number of pixels, 0 or more")
    if not 0 < r.top <= 1:
        raise UsageError(f"--top_share={r.top}: must be above 0 and at most 1")


def residual_map(
    name: str,
    x: jax.Array,
    y: jax.Array,
    settings: Ssim = Ssim(),  # noqa: B008 - immutable
    border: str = "reflect",
) -> jax.Array:
    """How far `y` is from `x` at every pixel.

    Args:
      name: "l2", the squared difference (Figure 14 of the thesis has no root), or "l1", the
        absolute one, both on the 0..255 scale and summed over the channels; "ssim", 1 - SSIM of
        the window around the pixel, averaged over the channels.
      x: images or patches [N, H, W, C] in [0, 1].
      y: their reconstructions, of the same shape.
      settings: which SSIM.
      border: of SSIM's windows, see `ssim.dissimilarity`.

    Returns:
      float32 [N, H, W], not smoothed.

    Raises:
      UsageError: an unknown name.
      ValueError: the shapes differ.
    """
    if name not in DISTANCES:
        raise unknown_name("--distance", name, DISTANCES)
    if x.shape != y.shape:
        raise ValueError(f"a residual compares equal shapes, got {x.shape} and {y.shape}")
    if name == "ssim":
        return ssim.dissimilarity(x, y, settings, border)
    difference = (x - y) * _FULL_SCALE
    errors = jnp.square(difference) if name == "l2" else jnp.abs(difference)
    return jnp.sum(errors, axis=-1)


def smooth(maps: jax.Array, sigma: float, border: str) -> jax.Array:
    """Gaussian mean around every pixel of maps [N, H, W]: SciPy's `gaussian_filter`.

    `sigma` is in pixels, 0 returns the maps themselves; border "reflect" is SciPy's, "edge" is its
    "nearest", "crop" is as "reflect". Raises UsageError for another border.
    """
    if sigma == 0:
        return maps
    radius = int(_TRUNCATE * sigma + 0.5)
    return ssim.blur(maps, ssim.gaussian(sigma, radius), border)


def image_score(maps: jax.Array, r: Reduction) -> jax.Array:
    """One number for each of maps [N, H, W], by `r.reduce`, in the maps' unit; larger is worse.

    "sum" over all pixels (thesis), "max", or "top": the mean of the largest ceil(top * H * W).
    Returns [N]; raises UsageError for an unknown reduction.
    """
    flat = maps.reshape(maps.shape[0], -1)
    if r.reduce == "sum":
        return jnp.sum(flat, axis=1)
    if r.reduce == "max":
        return jnp.max(flat, axis=1)
    if r.reduce == "top":
        k = math.ceil(round(r.top * flat.shape[1], 6))  # 0.07 * 100 is above 7 in floats
        return jnp.mean(jax.lax.top_k(flat, max(1, k))[0], axis=1)
    raise unknown_name("--image_score", r.reduce, REDUCTIONS)


def smooth_within(maps: jax.Array, counts: jax.Array, r: Reduction) -> jax.Array:
    """Returns maps [N, H, W] smoothed over what counts, bool [N, H, W], by itself.

    The Gaussian mean around a pixel is over those of its pixels that count. What does not count has
    the smallest value of its map that does.
    """
    if r.smooth:
        weights = counts.astype(maps.dtype)
        sums = smooth(jnp.where(counts, maps, 0.0), r.smooth, r.border)
        maps = sums / jnp.maximum(smooth(weights, r.smooth, r.border), 1e-12)
    lowest = jnp.min(jnp.where(counts, maps, jnp.inf), axis=(1, 2), keepdims=True)
    return jnp.where(counts, maps, lowest)


def score_within(maps: jax.Array, counts: jax.Array, r: Reduction) -> jax.Array:
    """Returns `image_score` of the pixels of maps [N, H, W] that count, bool [N, H, W]: [N]."""
    flat, inside = (each.reshape(len(maps), -1) for each in (maps, counts))
    if r.reduce == "sum":
        return jnp.sum(jnp.where(inside, flat, 0.0), axis=1)
    ordered = jnp.where(inside, flat, -jnp.inf)
    if r.reduce == "max":
        return jnp.max(ordered, axis=1)
    if r.reduce == "top":
        most = max(1, math.ceil(round(r.top * flat.shape[1], 6)))
        number = jnp.sum(inside, axis=1).astype(jnp.float32)
        # 0.07 * 100 is above 7 in floats
        wanted = jnp.maximum(1, jnp.ceil(r.top * number - 1e-3))[:, None]
        largest = jax.lax.top_k(ordered, most)[0]
        taken = jnp.arange(most) < wanted
        return jnp.sum(jnp.where(taken, largest, 0.0), axis=1) / wanted[:, 0]
    raise unknown_name("--image_score", r.reduce, REDUCTIONS)
