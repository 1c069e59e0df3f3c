"""Texture inspection: how likely a small patch is, at several scales, under Gaussian mixtures.

Boettger and Ulrich, "Real-time texture error detection on textured surfaces with compressed
sensing" (Pattern Recognition and Image Analysis 26, 2016), as HALCON's texture inspection model and
Bergmann et al. (CVPR 2019: four levels, patches of 7 x 7) describe it: an image pyramid, around
every pixel of a level its patch, compressed by a random projection, and for each level a mixture of
Gaussians of good images' patches. A level's novelty is the negative log likelihood. A defect is
where two adjacent levels are both above their thresholds.

The paper could not be read here. What neither HALCON's manual nor CVPR 2019 tells is this file's
choice: ten components, 16 numbers of a patch, an orthogonal projection, means of 2 x 2 pixels for
the pyramid, borders that are reflected, and the threshold, a quantile of what was learned from.
"""

from __future__ import annotations

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cae_jax.methods import mixtures
from cae_jax.methods.mixtures import Mixture, Rounds
from cae_jax.methods.options.gmm_texture import Options
from cae_jax.types import Evidence, Fit, Method, Size, UsageError, Variables, height_width

DISTANCES = ("novelty",)
_LEVELS = 4  # CVPR 2019's
_DARKEST = 1 / 255  # a patch's mean counts as this at least where it divides
_FLATTEST = 1 / 1020  # so does the deviation of a level's features: a quarter of a gray level
_NARROWEST = 1e-2  # nats: so do a threshold above the median
_TURN = 8192  # pixels that are judged at a time


class Learned(NamedTuple):
    """Of one level, or with one more axis in front of all."""

    center: jax.Array  # float32 [k], of the features
    scale: jax.Array  # float32 [], which divides them
    mixture: Mixture
    median: jax.Array  # float32 [], of the novelty, in nats
    threshold: jax.Array  # float32 []


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels].

    Raises UsageError, naming the flag, for a patch that is even or has fewer numbers than
    --dimensions, and for more levels than there is room for.
    """
    o, all_of_it = options, options.patch**2 * channels
    if o.patch % 2 == 0:
        raise UsageError(f"--patch={o.patch}: must be odd, so that a pixel is in its middle")
    if o.dimensions > all_of_it:
        raise UsageError(
            f"--dimensions={o.dimensions}: a patch has {o.patch} x {o.patch} x {channels} = "
            f"{all_of_it} numbers"
        )
    side = min(height_width(size))
    room = max(1, math.floor(math.log2(max(1, side / (2 * o.patch)))) + 1)
    if o.levels > room or o.patch > side:
        raise UsageError(
            f"--levels={o.levels} --patch={o.patch}: images of {side} pixels have room for {room} "
            f"levels of two patches each; fewer levels, a smaller patch or a larger --image_size"
        )
    levels, numbers = o.levels or min(_LEVELS, room), o.dimensions or all_of_it

    def fit(key: jax.Array, images: jax.Array) -> Variables:
        if not len(images):
            raise ValueError("there is no good image to learn from")
        of_filters, of_samples, of_start = jax.random.split(key, 3)
        filters = projection(of_filters, o.patch, channels, numbers)
        samples = sampled(of_samples, images, filters, levels, o)
        keys = jax.random.split(of_start, levels)
        learned = lax.map(lambda level: learn(level[0], level[1], o), (keys, samples))
        return {"params": {"filters": filters, **_as_variables(learned)}}

    def inspect(variables: Variables, images: jax.Array) -> Evidence:
        params = variables["params"]
        # of all levels by one call of LAPACK: two beside each other may each wait on a CPU for the
        # thread that the other one holds, for ever
        solved = jax.vmap(mixtures.inverses)(Mixture(**params["mixture"]))
        novelty = [
            relative(_of_level(params, level), features(one, params["filters"], o), solved[level])
            for level, one in enumerate(pyramid(images, levels))
        ]
        return Evidence({"novelty": fused(novelty, images.shape[1:3])})

    return Method(Fit(fit), inspect, DISTANCES)


def projection(key: jax.Array, patch: int, channels: int, numbers: int) -> jax.Array:
    """Returns orthonormal filters [patch, patch, channels, numbers], drawn by the key."""
    drawn = jax.random.normal(key, (patch * patch * channels, numbers))
    return jnp.linalg.qr(drawn)[0].reshape(patch, patch, channels, numbers)


def pyramid(images: jax.Array, levels: int) -> list[jax.Array]:
    """Returns images [B, H, W, C] and their halves, finest first: means of 2 x 2 pixels.

    Of an odd side the last pixel counts twice: [B, ceil(H / 2), ceil(W / 2), C].
    """
    found = [images]
    while len(found) < levels:
        one = found[-1]
        b, h, w, c = one.shape
        even = jnp.pad(one, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)), mode="edge")
        found.append(even.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, c).mean(axis=(2, 4)))
    return found


def features(images: jax.Array, filters: jax.Array, options: Options) -> jax.Array:
    """Returns the projected patch around every pixel of images [B, H, W, C]: [B, H, W, k].

    Images are reflected at their borders.
    """
    around = _reflected(images, filters.shape[0])
    numbers = ("NHWC", "HWIO", "NHWC")
    if options.patch_normalization == "weber":
        mean = jnp.full((*filters.shape[:3], 1), 1 / math.prod(filters.shape[:3]))
        filters = jnp.concatenate([filters, mean], axis=-1)
    found = lax.conv_general_dilated(
        around, filters, (1, 1), "VALID", dimension_numbers=numbers, precision="highest"
    )
    if options.patch_normalization == "weber":
        return found[..., :-1] / jnp.maximum(found[..., -1:], _DARKEST)
    return found


def sampled(
    key: jax.Array, images: jax.Array, filters: jax.Array, levels: int, options: Options
) -> jax.Array:
    """Returns features of patches of images [n, H, W, C] to learn from, [levels, m, k].

    As many of each image and level, m of a level in all: about `options.samples`, or one for every
    pixel of the images where these are fewer. One is drawn from each of equal stretches of an
    image's pixels in a row, so that they cover it. Memory holds one image's pyramid beside them.
    """
    n, h, w = images.shape[:3]
    each = min(-(-options.samples // n), h * w)

    def of_level(key: jax.Array, image: jax.Array) -> jax.Array:
        h, w = image.shape[1:3]
        ends = np.arange(each + 1) * (h * w) // each
        room = np.maximum(1, np.diff(ends))
        drawn = jnp.floor(jax.random.uniform(key, (each,)) * room).astype(jnp.int32)
        at = np.minimum(ends[:-1], h * w - 1) + jnp.minimum(drawn, room - 1)
        around = _reflected(image, options.patch)[0]
        size = (options.patch, options.patch, image.shape[-1])
        cut = jax.vmap(lambda y, x: lax.dynamic_slice(around, (y, x, 0), size))
        patches = cut(at // w, at % w).reshape(each, -1)
        if options.patch_normalization == "weber":
            patches /= jnp.maximum(jnp.mean(patches, axis=1, keepdims=True), _DARKEST)
        return jnp.matmul(patches, filters.reshape(-1, filters.shape[-1]), precision="highest")

    def of_image(of: tuple[jax.Array, jax.Array]) -> jax.Array:
        keys = jax.random.split(of[0], levels)
        found = pyramid(of[1][None], levels)
        return jnp.stack([of_level(key, one) for key, one in zip(keys, found, strict=True)])

    found = lax.map(of_image, (jax.random.split(key, n), images))
    return jnp.swapaxes(found, 0, 1).reshape(levels, n * each, -1)


def learn(key: jax.Array, x: jax.Array, options: Options) -> Learned:
    """Returns what is learned of a level's features [m, k]: the mixture of the features less their
    mean and over their deviation, and the median and the quantile of their novelty."""
    o = options
    center = jnp.mean(x, axis=0)
    x = x - center
    scale = jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(x))), _FLATTEST)
    x = x / scale
    start = mixtures.start(key, x, o.components, o.covariance, o.variance_floor)
    rounds = Rounds(o.em_rounds, o.em_tolerance, o.variance_floor)
    mixture = mixtures.fit(start, x, rounds)
    novelty = -mixtures.log_likelihood(mixture, x)
    median, threshold = jnp.quantile(novelty, jnp.asarray([0.5, o.quantile]))
    return Learned(center, scale, mixture, median, threshold)


def relative(learned: Learned, x: jax.Array, solved: jax.Array) -> jax.Array:
    """Returns the novelty of features [B, H, W, k], [B, H, W]: 0 at the median, 1 at the threshold
    of a level's good patches. `solved` is of its mixture, see `mixtures.inverses`."""
    flat = (x.reshape(-1, x.shape[-1]) - learned.center) / learned.scale
    found = mixtures.log_likelihood(learned.mixture, flat, _TURN, solved)
    novelty = -found.reshape(x.shape[:3])
    width = jnp.maximum(learned.threshold - learned.median, _NARROWEST)
    return (novelty - learned.median) / width


def fused(novelty: list[jax.Array], size: tuple[int, ...]) -> jax.Array:
    """Returns the maps of all levels as one, [B, H, W].

    With r_l the map of level l, finest first: the largest of min(r_l, r_l+1), which is above 1
    where HALCON's region is, the union of intersections of adjacent levels. One level stands alone.

    Args:
      novelty: of each level [B, h, w], half as large as the one before.
      size: H, W of the images.
    """
    whole = []
    for level, one in enumerate(novelty):
        b, h, w = one.shape
        if level:  # a level's pixels cover the image's, and perhaps a few beyond
            one = jax.image.resize(one, (b, h << level, w << level), "linear")
        whole.append(one[:, : size[0], : size[1]])
    if len(whole) == 1:
        return whole[0]
    pairs = [jnp.minimum(one, other) for one, other in itertools.pairwise(whole)]
    return jnp.max(jnp.stack(pairs), axis=0)


def _reflected(images: jax.Array, patch: int) -> jax.Array:
    r = patch // 2
    return jnp.pad(images, ((0, 0), (r, r), (r, r), (0, 0)), mode="reflect")


def _as_variables(learned: Learned) -> Variables:
    return {**learned._asdict(), "mixture": learned.mixture._asdict()}


def _of_level(params: Variables, level: int) -> Learned:
    own = jax.tree.map(lambda leaf: leaf[level], {name: params[name] for name in Learned._fields})
    return Learned(**{**own, "mixture": Mixture(**own["mixture"])})
