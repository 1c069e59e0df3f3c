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
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from cae_jax.methods.features import (
    AT_ONCE,
    Extractor,
    Features,
    Judged,
    divisors,
    extractor,
    in_chunks,
    learned_of,
    merged,
)
from cae_jax.options import check, flag
from cae_jax.types import Evidence, Method, UsageError, Variables

DISTANCES = ("mahalanobis",)
COVARIANCES = ("position", "pooled")
_AROUND = 3  # neighbours that a network's features are averaged over, along a side
_MIDDLE = slice(1, 3)  # of a network's stages
# TF32, a GPU's default, would keep three digits of what a covariance's inverse magnifies
_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


@dataclasses.dataclass(frozen=True)
class Head:
    """What is learned of features."""

    covariance: str = flag(
        "position", "position: of every point its own; pooled: of all together", among=COVARIANCES
    )
    shrinkage: float = flag(0.01, "added to a covariance's diagonal", 0)
    feature_channels: int = flag(0, "at most so many channels, drawn by --seed; 0: all", 0)


@dataclasses.dataclass(frozen=True)
class Options(Features, Head, Judged):
    """The flags of --method=gaussian."""


def make(options: Options, side: int, channels: int) -> Method:
    """Returns the method for images [B, side, side, channels]; raises UsageError."""
    check(options)
    return of_features(options, extractor(options, side, channels, _MIDDLE, _AROUND))


def of_features(o: Head, found: Extractor) -> Method:
    """Returns the method on any features: with x the features of a point, m their mean there in
    good images and S the covariance, its map is sqrt((x - m)^T S^-1 (x - m)).

    The variables are "channels" int32 [k], "mean" [h, w, k], and "whiten" [h, w, k, k], or [k, k]
    pooled, the transpose of the inverse of S's Cholesky factor: (x - m) times it is white.
    """
    k = min(o.feature_channels or found.channels, found.channels)

    def fit(found: Extractor, key: jax.Array, images: jax.Array) -> Variables:
        rows = len(images) * (1 if o.covariance == "position" else found.grid[0] * found.grid[1])
        if o.shrinkage == 0 and rows <= k:
            raise UsageError(
                f"--shrinkage=0: {len(images)} good images do not give {k} channels a covariance "
                "that can be inverted; take more than 0, or fewer --feature_channels"
            )
        channels = jnp.sort(jax.random.permutation(key, found.channels)[:k])
        mean, squares = moments(found, images, channels, o.covariance == "pooled")
        covariance = squares / max(1, len(images) - 1)
        by = divisors(_variance(mean, covariance)) if found.uneven else jnp.ones(k)
        whiten = whitening(covariance / (by[:, None] * by), o.shrinkage) / by[:, None]
        return {"params": {"channels": channels, "mean": mean, "whiten": whiten}}

    def judge(variables: Variables, features: jax.Array) -> Evidence:
        learned = variables["params"]
        off = features[..., learned["channels"]] - learned["mean"]
        shared = learned["whiten"].ndim == 2
        white = _product(f"bhwi,{'ij' if shared else 'hwij'}->bhwj", off, learned["whiten"])
        return Evidence({"mahalanobis": jnp.sqrt(jnp.sum(jnp.square(white), axis=-1))})

    return learned_of(found, fit, judge, DISTANCES)


def moments(
    found: Extractor, images: jax.Array, channels: jax.Array, pooled: bool, size: int = AT_ONCE
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean features at every point and the sum of squares about it, in one pass.

    Beside the result, memory holds the features of a chunk.

    Args:
      found: the features.
      images: float32 [n, H, W, C].
      channels: int [k], which.
      pooled: whether squares are summed over the points too, and divided by their number.
      size: images at a time.

    Returns:
      float32 [h, w, k]; [h, w, k, k], or [k, k] pooled.
    """
    (h, w), k = found.grid, len(channels)
    points = h * w

    def turn(held: tuple, chunk: jax.Array, new: jax.Array, before: jax.Array) -> tuple:
        mean, squares = held
        own = found.of(chunk)[..., channels].reshape(len(chunk), points, k)
        mean, rows = merged(mean, own, new, before)
        if pooled:
            flat = rows.reshape(-1, k)
            return mean, squares + _product("ri,rj->ij", flat, flat) / points
        return mean, squares + _product("bpi,bpj->pij", rows, rows)

    shape = (k, k) if pooled else (points, k, k)
    mean, squares = in_chunks(turn, (jnp.zeros((points, k)), jnp.zeros(shape)), images, size)
    return mean.reshape(h, w, k), squares.reshape(k, k) if pooled else squares.reshape(h, w, k, k)


def whitening(covariance: jax.Array, shrinkage: float) -> jax.Array:
    """Returns W with W W^T = (S + shrinkage I)^-1, for S [..., k, k]: row vectors times it are
    white. With S + shrinkage I = L L^T, W is the transpose of L^-1, an upper triangle."""
    identity = jnp.eye(covariance.shape[-1])
    lower = jnp.linalg.cholesky(covariance + shrinkage * identity)
    eyes = jnp.broadcast_to(identity, covariance.shape)
    inverse = jax.lax.linalg.triangular_solve(lower, eyes, left_side=True, lower=True)
    return jnp.swapaxes(inverse, -1, -2)


def _variance(mean: jax.Array, covariance: jax.Array) -> jax.Array:
    """Of every channel over all points of all images: within the points, and among them."""
    within = jnp.diagonal(covariance, axis1=-2, axis2=-1).reshape(-1, mean.shape[-1])
    return jnp.mean(within, axis=0) + jnp.var(mean, axis=(0, 1))
