"""A Gaussian of the features at every point of the image: PaDiM.

Defard et al., "PaDiM: a patch distribution modeling framework for anomaly detection and
localization", ICPR 2020 (arXiv 2011.08785). A point is as bad as its features are far from the good
images' at the same place, by the Mahalanobis distance. So it wants products that are aligned;
--covariance=pooled shares one covariance among all points, and asks less of few images.

Features are the network's second and third stage, all of their channels, averaged over 3 x 3
neighbours, as PatchCore has them (Roth et al. 2022); the paper takes the finest three stages and
100 channels drawn at random of its ResNet-18's 448, none averaged: --stages=24@4,40@8,112@16
--feature_channels=100 --neighborhood=1 on lite0. As the paper: 0.01 on the covariance's diagonal;
the map smoothed by sigma 4, its maximum the image's score. It leaves open how maps are aligned:
here bilinearly. Channels of the filter bank are divided by their deviation first, so that 0.01
means the same for each.

--mixture=K has K Gaussians at every point, each of the good images of one group, for several
products, or variants of one, in one model. Groups are those of k-means on images' mean features,
so that nobody has to tell which image is which, neither while learning nor at test. An image is
judged by one of them, the one from which it is the least far on average: point by point, a defect
could be excused by what another product looks like there.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from cae_jax.methods.clusters import kmeans
from cae_jax.methods.features import (
    AT_ONCE,
    Extractor,
    divisors,
    extractor,
    in_chunks,
    learned_of,
    merged,
)
from cae_jax.methods.options.gaussian import Head, Options
from cae_jax.types import Evidence, Method, Size, UsageError, Variables

DISTANCES = ("mahalanobis",)
_AROUND = 3  # neighbours that a network's features are averaged over, along a side
_MIDDLE = slice(1, 3)  # of a network's stages
_IN_MEMORY = 2**31  # bytes: more features may lie in a file, for which one pass is cheaper
# TF32, a GPU's default, would keep three digits of what a covariance's inverse magnifies
_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError."""
    return of_features(options, extractor(options, size, channels, _MIDDLE, _AROUND))


def of_features(o: Head, found: Extractor) -> Method:
    """Returns the method on any features: with x the features of a point, m their mean there in
    good images and S the covariance, its map is sqrt((x - m)^T S^-1 (x - m)).

    The variables are "channels" int32 [k], "mean" [h, w, k], and "whiten" [h, w, k, k], or [k, k]
    pooled, the transpose of the inverse of S's Cholesky factor: (x - m) times it is white. Of a
    mixture, the last two lead with its groups.
    """
    k, groups = min(o.feature_channels or found.channels, found.channels), max(1, o.mixture)
    pooled = o.covariance == "pooled"

    def fit(found: Extractor, key: jax.Array, images: jax.Array) -> Variables:
        rows = len(images) * (found.grid[0] * found.grid[1] if pooled else 1)
        if o.shrinkage == 0 and rows <= k:
            raise UsageError(
                f"--shrinkage=0: {len(images)} good images do not give {k} channels a covariance "
                "that can be inverted; take more than 0, or fewer --feature_channels"
            )
        if groups > max(1, len(images)):
            raise UsageError(f"--mixture={groups}: more than the {len(images)} good images")
        channels = jnp.sort(jax.random.permutation(key, found.channels)[:k])
        if groups == 1:
            mean, squares = moments(found, images, channels, pooled)
            covariance, by = _scaled(found, mean, squares, len(images))
            return variables_of(channels, mean, whitening(covariance, o.shrinkage) / by[:, None])
        group = kmeans(jax.random.fold_in(key, 1), looks(found, images), groups)
        member = jax.nn.one_hot(group, groups).T
        means, squares = moments(found, images, channels, pooled, member=member)
        sizes = jnp.sum(member, axis=1)
        each = [_scaled(found, means[i], squares[i], sizes[i]) for i in range(groups)]
        covariances, by = (jnp.stack(parts) for parts in zip(*each, strict=True))
        # one call of LAPACK for all groups: two beside each other may each wait on a CPU for the
        # thread that the other one holds, for ever
        by = by.reshape(groups, *(1,) * (covariances.ndim - 3), k, 1)
        return variables_of(channels, means, whitening(covariances, o.shrinkage) / by)

    def variables_of(channels: jax.Array, mean: jax.Array, whiten: jax.Array) -> Variables:
        return {"params": {"channels": channels, "mean": mean, "whiten": whiten}}

    def judge(variables: Variables, features: jax.Array) -> Evidence:
        learned = variables["params"]
        x = features[..., learned["channels"]]
        off = x - (learned["mean"] if groups == 1 else learned["mean"][:, None])
        # groups as one product: a slice of each would copy what is largest of all that was learned
        white = _product(
            f"...bhwi,{'...ij' if pooled else '...hwij'}->...bhwj", off, learned["whiten"]
        )
        maps = jnp.sqrt(jnp.sum(jnp.square(white), axis=-1))
        if groups > 1:
            least = jnp.argmin(jnp.mean(maps, axis=(2, 3)), axis=0)
            maps = maps[least, jnp.arange(len(x))]
        return Evidence({"mahalanobis": maps})

    return learned_of(found, fit, judge, DISTANCES)


def looks(found: Extractor, images: jax.Array, size: int = AT_ONCE) -> jax.Array:
    """Returns the mean of the features over the points of each of images [n, H, W, C]: float32
    [n, c], by their deviation over the images where channels are of different units."""

    def turn(held: jax.Array, chunk: jax.Array, new: jax.Array, before: jax.Array) -> jax.Array:
        own = jnp.mean(found.of(chunk), axis=(1, 2))
        first = jnp.minimum(before, len(images) - len(chunk))
        return jax.lax.dynamic_update_slice_in_dim(held, own, first, axis=0)

    means = in_chunks(turn, jnp.zeros((len(images), found.channels)), images, size)
    return means / divisors(jnp.var(means, axis=0)) if found.uneven else means


def moments(
    found: Extractor,
    images: jax.Array,
    channels: jax.Array,
    pooled: bool,
    size: int = AT_ONCE,
    member: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean features at every point and the sum of squares about it.

    In one pass over the images: beside the result, memory holds the features of a chunk. Of
    features at hand, up to 2 GB, row by row of points: a row's sums stay in a CPU's cache.

    Args:
      found: the features.
      images: float32 [n, H, W, C].
      channels: int [k], which.
      pooled: whether squares are summed over the points too, and divided by their number.
      size: images at a time.
      member: 1 or 0 [g, n], which images each of g groups is of; None: one of all.

    Returns:
      float32 [h, w, k]; [h, w, k, k], or [k, k] pooled; with groups, one for each before that.
    """
    (h, w), k = found.grid, len(channels)
    points = h * w
    if found.at_hand and not pooled and images.size * 4 <= _IN_MEMORY:
        return _at_hand(images, channels, member)

    def add(held: tuple, own: jax.Array, new: jax.Array, before: jax.Array) -> tuple:
        mean, squares = held
        mean, rows = merged(mean, own, new, before)
        if pooled:
            flat = rows.reshape(-1, k)
            return mean, squares + _product("ri,rj->ij", flat, flat) / points
        return mean, squares + _product("bpi,bpj->pij", rows, rows)

    def turn(held: tuple, chunk: jax.Array, new: jax.Array, before: jax.Array) -> tuple:
        own = found.of(chunk)[..., channels].reshape(len(chunk), points, k)
        if member is None:
            return add(held, own, new, before)
        first = jnp.minimum(before, len(images) - len(chunk))
        its = jax.lax.dynamic_slice_in_dim(member, first, len(chunk), axis=1)
        earlier = jnp.sum(jnp.where(jnp.arange(len(images)) < before, member, 0), axis=1)
        return tuple(add(one, own, new * its[i], earlier[i]) for i, one in enumerate(held))

    nothing = jnp.zeros((points, k)), jnp.zeros((k, k) if pooled else (points, k, k))
    shapes = (h, w, k), (k, k) if pooled else (h, w, k, k)
    if member is None:
        held = in_chunks(turn, nothing, images, size)
        return held[0].reshape(shapes[0]), held[1].reshape(shapes[1])
    each = in_chunks(turn, (nothing,) * len(member), images, size)
    means, squares = (jnp.stack(parts) for parts in zip(*each, strict=True))
    return means.reshape(-1, *shapes[0]), squares.reshape(-1, *shapes[1])


def _at_hand(
    features: jax.Array, channels: jax.Array, member: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    """`moments` at every point of features [n, h, w, c]."""
    weights = jnp.ones((1, len(features))) if member is None else member

    def row(y: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = jax.lax.dynamic_index_in_dim(features, y, axis=1, keepdims=False)
        x = jnp.swapaxes(x[..., channels], 0, 1)

        def of(weight: jax.Array) -> tuple[jax.Array, jax.Array]:
            each = weight[:, None]
            mean = jnp.sum(each * x, axis=1) / jnp.maximum(jnp.sum(weight), 1)
            off = each * (x - mean[:, None])  # weights are 0 or 1
            return mean, _product("wni,wnj->wij", off, off)

        found = [of(weight) for weight in weights]
        means, squares = (jnp.stack(parts) for parts in zip(*found, strict=True))
        return means, squares

    means, squares = (
        jnp.moveaxis(each, 0, 1) for each in jax.lax.map(row, jnp.arange(features.shape[1]))
    )
    return (means[0], squares[0]) if member is None else (means, squares)


def whitening(covariance: jax.Array, shrinkage: float) -> jax.Array:
    """Returns W with W W^T = (S + shrinkage I)^-1, for S [..., k, k]: row vectors times it are
    white. With S + shrinkage I = L L^T, W is the transpose of L^-1, an upper triangle."""
    identity = jnp.eye(covariance.shape[-1])
    lower = jnp.linalg.cholesky(covariance + shrinkage * identity)
    eyes = jnp.broadcast_to(identity, covariance.shape)
    inverse = jax.lax.linalg.triangular_solve(lower, eyes, left_side=True, lower=True)
    return jnp.swapaxes(inverse, -1, -2)


def _scaled(
    found: Extractor, mean: jax.Array, squares: jax.Array, n: jax.Array | int
) -> tuple[jax.Array, jax.Array]:
    """The covariance of n images, and by what the channels are divided in it."""
    covariance = squares / jnp.maximum(1, n - 1)
    by = jnp.ones(mean.shape[-1])
    if found.uneven:
        by = divisors(_variance(mean, covariance))
    return covariance / (by[:, None] * by), by


def _variance(mean: jax.Array, covariance: jax.Array) -> jax.Array:
    """Of every channel over all points of all images: within the points, and among them."""
    within = jnp.diagonal(covariance, axis1=-2, axis2=-1).reshape(-1, mean.shape[-1])
    return jnp.mean(within, axis=0) + jnp.var(mean, axis=(0, 1))
