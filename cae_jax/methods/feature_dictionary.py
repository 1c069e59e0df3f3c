"""A dictionary of good patches' features: how far from its nearest word is what an image shows?

Napoletano, Piccoli, Schettini, "Anomaly detection in nanofibrous materials by CNN-based
self-similarity", Sensors 18(1):209, 2018; a baseline of MVTec AD (Bergmann et al., CVPR 2019).
Features of patches, each divided by its L1 norm, are projected on the principal components that
explain 95 % of the variance; the k means of those of good patches are the words. A patch is as bad
as its nearest word is far, by the Euclidean distance; of --nearest_words=m, the mean of m.

--form=patches is the paper's: every patch of 16 x 16 pixels, 4 apart, is enlarged to the network's
own input of 224, and its features are the means of the network's last maps (avgpool), or those maps
themselves (conv5). With --features=resnet18 these are the paper's 512 and 25,088 numbers; that is
3,721 passes of the network for an image of 256 pixels. A pixel is as bad as the patches that cover
it are on average.

--form=convolutional is not the paper's method: the network sees the whole image once, and the
features at a point are those of its second and third stage there, averaged over 3 x 3 neighbours.
What is learned of them is the same.

The dictionary is k-means' means, not the patches nearest to them, and is learned from --candidates
patches drawn at random. --standardize divides each component by its deviation first, as another
implementation (IQT Labs) has it.
"""

from __future__ import annotations

import functools
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cae_jax.methods.clusters import kmeans
from cae_jax.methods.feature_memory import drawn
from cae_jax.methods.feature_pca import kept
from cae_jax.methods.features import (
    Extractor,
    deviations,
    extractor,
    learned_of,
    pretrained,
)
from cae_jax.methods.neighbors import nearest
from cae_jax.methods.options.feature_dictionary import Options
from cae_jax.methods.options.features import FILTER_BANK
from cae_jax.scoring import patches
from cae_jax.types import Evidence, Method, Size, UsageError, Variables, height_width

DISTANCES = ("nearest_word",)
_MIDDLE, _LAST = slice(1, 3), slice(-1, None)  # of a network's stages
_AROUND = 3  # neighbours that features are averaged over, along a side
_COMPONENTS = 1024  # at most, which bounds the model where features are long
# TF32, a GPU's default, would keep three digits
_product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError.

    The variables are "divide" [c], 1 for a network's channels; "mean" [c] and "components" [r, c]
    of normalised features, zeros for those not kept; and "words" [k, r].
    """
    o = options.resolved(size)
    if o.kept_variance == 0:
        raise UsageError("--kept_variance=0.0: must be above 0, for components to be kept")
    if o.nearest_words > o.words:
        raise UsageError(f"--nearest_words={o.nearest_words}: there are --words={o.words}")
    by_patches = o.form == "patches"
    if by_patches:
        found = of_patches(o, size, channels)
    else:
        found = extractor(o, size, channels, _MIDDLE, _AROUND)

    def fit(found: Extractor, key: jax.Array, images: jax.Array) -> Variables:
        for_points, for_words = jax.random.split(key)
        divide = deviations(found, images)
        x = normalised(drawn(found, for_points, images, o.candidates) / divide)
        if o.words > len(x):
            raise UsageError(f"--words={o.words}: more than the {len(x)} features of good images")
        mean, basis = components(x, o.kept_variance, o.standardize)
        words = means(for_words, _product(x - mean, basis.T), o.words)
        return {"params": {"divide": divide, "mean": mean, "components": basis, "words": words}}

    def judge(variables: Variables, features: jax.Array) -> Evidence:
        learned = variables["params"]
        x = normalised(features.reshape(-1, features.shape[-1]) / learned["divide"])
        x = _product(x - learned["mean"], learned["components"].T)
        distances = jnp.mean(nearest(x, learned["words"], o.nearest_words)[0], axis=1)
        maps = distances.reshape(features.shape[:3])
        if by_patches:
            shares = (cover(side, o.patch_size, o.stride) for side in height_width(size))
            maps = over_pixels(maps, *shares)
        return Evidence({"nearest_word": maps})

    return learned_of(found, fit, judge, DISTANCES)


def normalised(x: jax.Array) -> jax.Array:
    """Divides each of vectors [n, c] by its L1 norm; one of zeros stays."""
    norm = jnp.sum(jnp.abs(x), axis=-1, keepdims=True)
    return x / jnp.where(norm > 0, norm, 1.0)


def components(x: jax.Array, share: float, standardize: bool) -> tuple[jax.Array, jax.Array]:
    """Returns the mean [c] of vectors [n, c] and the components that explain a share of the
    variance, [r, c], r = min(n, c, 1024), the largest first and zeros for those not kept.

    They have length 1, or are divided by the deviation along them where standardized.
    """
    n, c = x.shape
    mean = jnp.mean(x, axis=0)
    off = x - mean
    if c <= n:
        values, vectors = jnp.linalg.eigh(_product(off.T, off))
        rows = vectors.T * jnp.sqrt(jnp.maximum(values, 0))[:, None]
    else:  # of fewer vectors than numbers, by their products with each other
        values, vectors = jnp.linalg.eigh(_product(off, off.T))
        rows = _product(vectors.T, off)
    rows = rows[::-1][:_COMPONENTS]  # as long as their singular values
    basis = kept(rows, jnp.sum(jnp.maximum(values, 0)), share)
    if standardize:
        deviation = jnp.linalg.norm(rows, axis=1, keepdims=True) / jnp.sqrt(n)
        basis = basis / jnp.where(deviation > 0, deviation, 1.0)
    return mean, basis


def means(key: jax.Array, x: jax.Array, k: int) -> jax.Array:
    """Returns the k means of vectors [n, c], [k, c]; an empty group has the first vector's."""
    groups = kmeans(key, x, k)
    member = jax.nn.one_hot(groups, k)
    count = jnp.sum(member, axis=0)[:, None]
    found = _product(member.T, x) / jnp.maximum(count, 1)
    return jnp.where(count > 0, found, found[groups[0]])


def starts(side: int, patch_size: int, stride: int) -> np.ndarray:
    """Returns where patches begin along a side, int [R]: all lie inside, the last ends with it."""
    return np.array([*range(0, side - patch_size, stride), side - patch_size])


def cover(side: int, patch_size: int, stride: int) -> np.ndarray:
    """Returns the share that each patch has in each pixel along a side: [R, side], columns sum up
    to 1."""
    pixel, first = np.arange(side), starts(side, patch_size, stride)[:, None]
    covers = ((first <= pixel) & (pixel < first + patch_size)).astype(np.float32)
    return covers / covers.sum(axis=0)


def over_pixels(maps: jax.Array, down: np.ndarray, along: np.ndarray) -> jax.Array:
    """Returns the mean over the patches that cover a pixel: [B, R, K] -> [B, H, W]."""
    return _product(_product(down.T, maps), along)


def of_patches(o: Options, size: Size, channels: int) -> Extractor:
    """Returns the features of each patch of an image, enlarged to the network's input.

    Raises UsageError where there is no network, and for sizes that cannot work.
    """
    patches.check_sizes(size, o.patch_size, o.stride)
    if o.features == FILTER_BANK:
        raise UsageError("--form=patches: needs a network; of filters, --form=convolutional")
    if o.neighborhood:
        raise UsageError(f"--neighborhood={o.neighborhood}: --form=patches has no neighbours")
    network = pretrained(o, _LAST)
    first = [starts(side, o.patch_size, o.stride) for side in height_width(size)]
    rows, columns = (one[:, None] + np.arange(o.patch_size) for one in first)  # [R, p], [K, p]
    grid = (len(rows), len(columns))
    together = at_once()
    chunks = -(-grid[0] * grid[1] // together)

    def features(variables: Variables, x: jax.Array) -> jax.Array:
        """Of patches [N, p, p, C]: [N, c]."""
        x = jax.image.resize(x, (len(x), o.enlarged, o.enlarged, x.shape[-1]), "bilinear")
        stages = network.extract(variables, x).values()
        if o.layer == "avgpool":
            return jnp.concatenate([jnp.mean(each, axis=(1, 2)) for each in stages], axis=-1)
        return jnp.concatenate([each.reshape(len(x), -1) for each in stages], axis=-1)

    def maps(variables: Variables, images: jax.Array) -> jax.Array:
        # each image in as many chunks, none of which has patches of two
        cut = images[:, rows][:, :, :, columns].swapaxes(2, 3)  # [B, R, K, p, p, C]
        cut = cut.reshape(len(images), grid[0] * grid[1], *cut.shape[3:])
        more = chunks * together - cut.shape[1]
        cut = jnp.pad(cut, ((0, 0), (0, more), (0, 0), (0, 0), (0, 0)))
        cut = cut.reshape(len(images) * chunks, together, *cut.shape[2:])
        found = lax.map(functools.partial(features, variables), cut)
        found = found.reshape(len(images), chunks * together, -1)[:, : grid[0] * grid[1]]
        return found.reshape(len(images), *grid, -1)

    frozen = dict(network.frozen)
    image = jax.ShapeDtypeStruct((1, *height_width(size), channels), jnp.float32)
    shape = jax.eval_shape(maps, {"frozen": frozen}, image).shape
    return Extractor(maps, MappingProxyType(frozen), grid, shape[-1])


def at_once() -> int:
    """Patches in one pass of the network: few stay in a CPU's cache, an accelerator wants many."""
    return 8 if jax.default_backend() == "cpu" else 256
