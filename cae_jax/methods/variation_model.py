"""The variation model: an ideal image, and how far good images stray from it at every pixel.

As HALCON's operators `train_variation_model` and `prepare_variation_model` define it (reference
manual, mvtec.com), the baseline that MVTec AD's papers call by that name. Images must be aligned: a
pixel is compared with the same pixel of the good images. MVTec aligned theirs by HALCON's
shape-based matching and left out the objects for which that fails. --align moves images to the
first good one by phase correlation, which is not that matching: a run says whether it is unaligned
or phase-aligned, and neither is to be compared with MVTec's numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from cae_jax.methods import alignment
from cae_jax.methods.options.variation_model import Options
from cae_jax.scoring.median import median
from cae_jax.scoring.reconstruction import Inspect
from cae_jax.types import Evidence, Fit, Method, Size, Variables

DISTANCES = ("variation", "deviation")
_FULL_SCALE = 255.0  # thresholds are in gray levels, images in [0, 1]
_MAD_SCALE = 1.4826  # makes the median absolute deviation of a Gaussian its standard deviation
_FINEST = 1e-3  # gray levels: a threshold of 0 counts as this, so that the ratio to it is finite
# gray levels added to a standard deviation; the paper prints an epsilon without its value
_EPSILON = 1.0
_AT_ONCE = 16  # images in a turn of the one pass
Some: TypeAlias = Callable[[jax.Array], jax.Array]
_Moments: TypeAlias = tuple[jax.Array, jax.Array]  # the mean, the sum of squares about it


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method, for images of any size and channels."""

    def fit(key: jax.Array, images: jax.Array) -> Variables:
        def learn(of: Some) -> tuple[jax.Array, jax.Array]:
            return robust(images, of) if options.mode == "robust" else standard(images, of=of)

        if options.align == "none":
            ideal, deviation = learn(lambda some: some)
            return {"params": {"ideal": ideal, "deviation": deviation}}
        _number(images)
        reference = images[0]

        def aligned(image: jax.Array) -> jax.Array:
            motion = alignment.found(reference, image, options.align)
            return alignment.moved_back(image, motion)[0]

        ideal, deviation = learn(lambda some: lax.map(aligned, some))
        return {"params": {"ideal": ideal, "deviation": deviation, "reference": reference}}

    return Method(Fit(fit), inspector(options), DISTANCES)


def standard(
    images: jax.Array, chunk_size: int = _AT_ONCE, of: Some = lambda some: some
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean image and the standard deviation of every pixel, in one pass.

    Chunks are merged by Chan, Golub and LeVeque's update ("Updating formulae and a pairwise
    algorithm for computing sample variances", 1979), so that beside the images memory holds one
    chunk. The sum of squares is divided by n: one image has the deviation 0.

    Args:
      images: float32 [n, H, W, C].
      chunk_size: images at a time; the last chunk may be smaller.
      of: what is made of a chunk first.

    Returns:
      Two images, float32 [H, W, C], in the unit of the images.

    Raises:
      ValueError: no image at all.
    """
    n = _number(images)
    size = min(chunk_size, n)

    def merge(before: _Moments, start: jax.Array, size: int) -> _Moments:
        mean, squares = before
        chunk = of(lax.dynamic_slice_in_dim(images, start, size))
        own = jnp.mean(chunk, axis=0)
        share = size / (start + size)
        away = own - mean
        squares += jnp.sum(jnp.square(chunk - own), axis=0) + jnp.square(away) * start * share
        return mean + away * share, squares

    def turn(before: _Moments, start: jax.Array) -> tuple[_Moments, None]:
        return merge(before, start, size), None

    nothing = jnp.zeros(images.shape[1:]), jnp.zeros(images.shape[1:])
    found, _ = lax.scan(turn, nothing, jnp.arange(0, n - size + 1, size))
    if n % size:
        found = merge(found, jnp.asarray(n - n % size), n % size)
    mean, squares = found
    return mean, jnp.sqrt(squares / n)


def robust(images: jax.Array, of: Some = lambda some: some) -> tuple[jax.Array, jax.Array]:
    """Returns the median image and the scaled median absolute deviation of every pixel.

    An outlier among the good images moves neither. The deviation is 1.4826 times the median
    distance from the median, which of a Gaussian is its standard deviation. Row by row, which stays
    in a CPU's cache, and so that beside the images memory holds one row of them.

    Args:
      images: float32 [n, H, W, C].
      of: what is made of all of them first; memory then holds that too.

    Returns:
      Two images, float32 [H, W, C], in the unit of the images.

    Raises:
      ValueError: no image at all.
    """
    _number(images)
    images = of(images)

    def row(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        values = lax.dynamic_index_in_dim(images, i, axis=1, keepdims=False)
        low = jnp.minimum(jnp.min(values), 0)  # less than 0 only of images made even
        middle = median(values - low) + low
        return middle, _MAD_SCALE * median(jnp.abs(values - middle))

    return lax.map(row, jnp.arange(images.shape[1]))


def inspector(options: Options) -> Inspect:
    """Returns a function of (variables, images [B, H, W, C] in [0, 1]) -> Evidence.

    With c the image, i the ideal one and v the deviation, in gray levels, a and b the absolute and
    the variance threshold, its maps [B, H, W] are the largest over the channels of

      "variation": |c - i| / max(a, b v), above 1 exactly where HALCON finds a defect: where c is
        above i + max(a, b v) or below i - max(a, b v), with thresholds of their own for either;
      "deviation": |c - i| / (v + 1), the distance in standard deviations (Bergmann et al., IJCV
        2021, whose small constant in the denominator is read as one gray level).

    For light pixels alone |c - i| is the positive part of c - i, for dark ones that of i - c. The
    reconstruction is the ideal image. Images that are to be aligned are so one by one, and maps and
    the ideal image come back to where the image has the product; pixels of the image that lie
    outside of the reference are not judged, which is 0.
    """

    def inspect(variables: Variables, images: jax.Array) -> Evidence:
        params = variables["params"]
        ideal, deviation = params["ideal"], params["deviation"]
        if images.shape[1:] != ideal.shape:
            raise ValueError(f"learned from images {ideal.shape}, got {images.shape[1:]}")
        if options.align == "none":
            maps = compared(images, ideal, deviation, options)
            return Evidence(maps, {}, jnp.broadcast_to(ideal, images.shape))

        def one(image: jax.Array) -> tuple[dict[str, jax.Array], jax.Array]:
            motion = alignment.found(params["reference"], image, options.align)
            back, told = alignment.moved_back(image, motion)
            maps = compared(back[None], ideal, deviation, options)
            stacked = jnp.stack([maps[name][0] * told for name in DISTANCES], axis=-1)
            there, inside = alignment.moved_there(stacked, motion)
            there = jnp.where(inside[..., None], there, 0)
            own = {name: there[..., i] for i, name in enumerate(DISTANCES)}
            return own, alignment.moved_there(ideal, motion)[0]

        maps, made = lax.map(one, images)
        return Evidence(maps, {}, made)

    return inspect


def compared(
    images: jax.Array, ideal: jax.Array, deviation: jax.Array, options: Options
) -> dict[str, jax.Array]:
    """Returns the maps of aligned images [B, H, W, C] by distance, float32 [B, H, W], see
    `inspector`."""
    o = options
    off, deviation = _FULL_SCALE * (images - ideal), _FULL_SCALE * deviation
    a, b = o.absolute_threshold, o.variance_threshold
    dark_a = a if o.dark_absolute_threshold < 0 else o.dark_absolute_threshold
    dark_b = b if o.dark_variance_threshold < 0 else o.dark_variance_threshold

    def largest(light: jax.Array, dark: jax.Array) -> jax.Array:
        sides = {"light": off / light, "dark": -off / dark}
        sides["both"] = jnp.maximum(sides["light"], sides["dark"])
        return jnp.max(jnp.maximum(sides[o.polarity], 0), axis=-1)

    def limit(a: float, b: float) -> jax.Array:
        return jnp.maximum(jnp.maximum(a, b * deviation), _FINEST)

    own = deviation + _EPSILON
    return {
        "variation": largest(limit(a, b), limit(dark_a, dark_b)),
        "deviation": largest(own, own),
    }


def _number(images: jax.Array) -> int:
    if not len(images):
        raise ValueError("there is no good image to learn from")
    return len(images)
