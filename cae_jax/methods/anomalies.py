"""Anomalies made from good images: a texture blended in where Perlin noise is high.

DRAEM (Zavrtanik et al., ICCV 2021) takes its textures from another data set. Here they come from
other images of the batch, moved, turned and recolored (as NSA and CutPaste have it), and from noise
itself; nothing has to be downloaded.
"""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
from jax.scipy.ndimage import map_coordinates

# where textures come from -> the share of them that is noise
_OCTAVES = 6  # a scale is 2^0 to 2^5 cells along an axis
_BEFORE = 7  # cells before the image's first: a turned image reaches .21 of its side beyond
_LATTICE = 48  # 32 cells, 7 before, 7 behind, and the ends
_THRESHOLD = 0.5  # of the noise
_MOST_KEPT = 0.8  # of the image under a texture
_CHANGES = 3  # of the colors', for each texture


def blend(key: jax.Array, images: jax.Array, by_noise: float) -> tuple[jax.Array, jax.Array]:
    """Gives every second image, by chance, an anomaly.

    I (1 - M) + (1 - beta) T M + beta I M, with beta from 0 to .8, M where Perlin noise is above .5
    and T a texture, as DRAEM blends them.

    Args:
      key: of all draws.
      images: good ones, [N, H, W, C] in [0, 1].
      by_noise: the share of textures that are Perlin noise, as `options.draem` has them; the others
        are of another image of the batch.

    Returns:
      The images [N, H, W, C] in [0, 1], and where they were changed, bool [N, H, W]. The noise may
      stay below .5 everywhere.
    """
    n, height, width, _ = images.shape
    keys = jax.random.split(key, 7)
    wanted = jax.random.bernoulli(keys[0], 0.5, (n, 1, 1))
    mask = wanted & (noise(keys[1], n, height, width) > _THRESHOLD)
    of_noise = jnp.clip(0.5 * noise(keys[2], n, height, width) + 0.25, 0, 1)[..., None]
    # images that stand next to each other are as random as the batch
    others = recolored(keys[3], moved(keys[4], jnp.roll(images, 1, axis=0)))
    which = jax.random.bernoulli(keys[5], by_noise, (n, 1, 1, 1))
    blended = jnp.where(which, of_noise, others)
    beta = _MOST_KEPT * jax.random.uniform(keys[6], (n, 1, 1, 1))
    return jnp.where(mask[..., None], (1 - beta) * blended + beta * images, images), mask


def noise(key: jax.Array, n: int, height: int, width: int) -> jax.Array:
    """Draws n fields of Perlin noise, [n, H, W] from -1 to 1.

    Each has 2^0 to 2^5 cells along each axis, drawn apart, and is turned by up to 90 degrees to
    either side.
    """
    angles, scales, turns = jax.random.split(key, 3)
    lattice = jax.random.uniform(angles, (n, _LATTICE, _LATTICE), maxval=2 * math.pi)
    scale = 2.0 ** jax.random.randint(scales, (n, 2), 0, _OCTAVES)
    turn = jax.random.uniform(turns, (n,), minval=-math.pi / 2, maxval=math.pi / 2)
    return jax.vmap(functools.partial(perlin, height=height, width=width))(lattice, scale, turn)


def perlin(
    lattice: jax.Array, scale: jax.Array, turn: jax.Array, height: int, width: int
) -> jax.Array:
    """Perlin's gradient noise, improved (SIGGRAPH 2002), times the root of 2.

    It is evaluated at the pixels' centers wherever these are among the cells, so that any scale, of
    any side, and any turn are one program.

    Args:
      lattice: the gradients' angles, [48, 48] in radians, from the rows' axis; the image's first
        corner, before it is turned, is at [7, 7].
      scale: cells along the image's height and width, [2], each from 1 to 32.
      turn: of the image about its center, in radians.
      height: in pixels.
      width: in pixels.

    Returns:
      float32 [H, W] from -1 to 1.
    """
    down = ((jnp.arange(height) + 0.5) / height - 0.5)[:, None]
    right = ((jnp.arange(width) + 0.5) / width - 0.5)[None]
    cos, sin = jnp.cos(turn), jnp.sin(turn)
    y = (cos * down + sin * right + 0.5) * scale[0] + _BEFORE
    x = (cos * right - sin * down + 0.5) * scale[1] + _BEFORE
    row, column = jnp.floor(y), jnp.floor(x)
    y, x = y - row, x - column
    first = row.astype(jnp.int32) * _LATTICE + column.astype(jnp.int32)
    gradients = jnp.stack([jnp.cos(lattice), jnp.sin(lattice)], axis=-1).reshape(-1, 2)

    def ramp(i: int, j: int) -> jax.Array:
        at = gradients[first + i * _LATTICE + j]
        return at[..., 0] * (y - i) + at[..., 1] * (x - j)

    s, t = (z**3 * (z * (6 * z - 15) + 10) for z in (y, x))
    left = (1 - s) * ramp(0, 0) + s * ramp(1, 0)
    return math.sqrt(2) * ((1 - t) * left + t * ((1 - s) * ramp(0, 1) + s * ramp(1, 1)))


def moved(key: jax.Array, images: jax.Array) -> jax.Array:
    """Turns each of images [N, H, W, C] by up to 45 degrees to either side and moves it by a
    quarter to three quarters of its sides, so that nothing stays where it was; what leaves it
    comes back at the other end."""
    n, height, width, _ = images.shape
    by_angle, by_shift = jax.random.split(key)
    angles = jax.random.uniform(by_angle, (n,), minval=-math.pi / 4, maxval=math.pi / 4)
    shares = jax.random.uniform(by_shift, (n, 2), minval=0.25, maxval=0.75)
    shifts = shares * jnp.array([height, width])
    return jax.vmap(functools.partial(_turned, mode="wrap"))(images, angles, shifts)


def turned(key: jax.Array, images: jax.Array, share: float) -> jax.Array:
    """Turns that share of images [N, H, W, C], by chance, by up to 90 degrees to either side about
    their centers; beyond its border an image goes on as its reflection."""
    n = len(images)
    by_share, by_angle = jax.random.split(key)
    angles = jax.random.uniform(by_angle, (n,), minval=-math.pi / 2, maxval=math.pi / 2)
    chosen = jax.random.bernoulli(by_share, share, (n, 1, 1, 1))
    still = jnp.zeros((n, 2))
    after = jax.vmap(functools.partial(_turned, mode="reflect"))(images, angles, still)
    return jnp.where(chosen, after, images)


def _turned(image: jax.Array, angle: jax.Array, shift: jax.Array, mode: str) -> jax.Array:
    """An image [H, W, C] turned about its center and shifted by pixels [2]; bilinear."""
    height, width, _ = image.shape
    down = (jnp.arange(height) - (height - 1) / 2)[:, None]
    right = (jnp.arange(width) - (width - 1) / 2)[None]
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    y = cos * down + sin * right + (height - 1) / 2 + shift[0]
    x = cos * right - sin * down + (width - 1) / 2 + shift[1]
    return jax.vmap(lambda plane: map_coordinates(plane, (y, x), 1, mode), -1, -1)(image)


def recolored(key: jax.Array, images: jax.Array) -> jax.Array:
    """Changes the colors of each of images [N, H, W, C] in [0, 1] by three of seven ways, drawn
    anew for each: what DRAEM's augmenters do to colors, within their ranges.

    In this order: gamma of .5 to 2 for each channel; times .8 to 1.2 and up to 30 of 255 gray
    levels more or less; each channel by up to 50 levels more or less; inverted from 32 to 128 on
    (solarized); 2 to 128 levels (posterized); inverted; stretched to all of [0, 1].
    """
    n, _, _, channels = images.shape
    keys = jax.random.split(key, 7)
    which = jax.vmap(lambda key: jax.random.permutation(key, 7))(jax.random.split(keys[0], n))

    def drawn(i: int, low: float, high: float, each: int = 1) -> jax.Array:
        return jax.random.uniform(keys[i], (n, 1, 1, each), minval=low, maxval=high)

    gamma = 2.0 ** drawn(1, -1, 1, channels)
    times, more = drawn(2, 0.8, 1.2), drawn(3, -30 / 255, 30 / 255)
    hue = drawn(4, -50 / 255, 50 / 255, channels)
    limit, levels = drawn(5, 32 / 255, 128 / 255), 2.0 ** jnp.floor(drawn(6, 1, 8))
    x = images
    for i, changed in enumerate(
        (
            lambda x: jnp.maximum(x, 1e-6) ** gamma,
            lambda x: x * times + more,
            lambda x: x + hue,
            lambda x: jnp.where(x >= limit, 1 - x, x),
            lambda x: jnp.minimum(jnp.floor(x * levels), levels - 1) / (levels - 1),
            lambda x: 1 - x,
            _stretched,
        )
    ):
        chosen = (which[:, i] < _CHANGES)[:, None, None, None]
        x = jnp.where(chosen, jnp.clip(changed(x), 0, 1), x)
    return x


def _stretched(x: jax.Array) -> jax.Array:
    low, high = (f(x, axis=(1, 2), keepdims=True) for f in (jnp.min, jnp.max))
    return (x - low) / jnp.maximum(high - low, 1 / 255)
