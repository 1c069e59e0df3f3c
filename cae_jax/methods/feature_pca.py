"""Principal components of good images' features; what they do not explain is a defect.

--pca_of=maps: a whole feature map is one long vector, so that a component knows what stands where;
wants aligned products, and few images suffice. --pca_of=vectors: the features of every point, all
alike. The map is the squared error of reconstruction at a point, summed over the channels: the
feature reconstruction error of Ahuja et al. ("Probabilistic modeling of deep features for
out-of-distribution and adversarial detection", 2019) and Ndiour et al. (FRE, 2022).

Kept are the first components that explain --kept_variance of the variance: 0.9 of maps, as DFR
sizes its code (Yang et al., 2020), 0.97 of vectors, as anomalib's DFM.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp

from cae_jax.methods.features import (
    AT_ONCE,
    Extractor,
    deviations,
    extractor,
    in_chunks,
    learned_of,
    merged,
)
from cae_jax.methods.options.feature_pca import Head, Options
from cae_jax.types import Evidence, Method, Size, Variables

DISTANCES = ("unexplained",)
_MIDDLE = slice(1, 3)  # of a network's stages
_SHARES = {"maps": 0.9, "vectors": 0.97}  # kept variance
_ROUNDING = 1e-6  # of the largest variance: less is the rounding of float32 products
_product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError."""
    return of_features(options, extractor(options, size, channels, _MIDDLE))


def of_features(o: Head, found: Extractor) -> Method:
    """Returns the method on any features.

    The variables are "divide" [c], "mean" [h, w, c] or [c], and "components" [r, h, w, c] or
    [c, c]: those kept, of length 1, and zeros for the others.
    """
    share, whole = o.kept_variance or _SHARES[o.pca_of], o.pca_of == "maps"

    def fit(found: Extractor, key: jax.Array, images: jax.Array) -> Variables:
        divide = deviations(found, images)
        learn = map_components if whole else vector_components
        mean, rows, total = learn(found, images, divide, o.components)
        return {"params": {"divide": divide, "mean": mean, "components": kept(rows, total, share)}}

    def judge(variables: Variables, features: jax.Array) -> Evidence:
        learned = variables["params"]
        off = features / learned["divide"] - learned["mean"]
        basis = learned["components"]
        if whole:
            explained = _product("rhwc,br->bhwc", basis, _product("bhwc,rhwc->br", off, basis))
        else:
            explained = _product("rc,bhwr->bhwc", basis, _product("bhwc,rc->bhwr", off, basis))
        return Evidence({"unexplained": jnp.sum(jnp.square(off - explained), axis=-1)})

    return learned_of(found, fit, judge, DISTANCES)


def map_components(
    found: Extractor, images: jax.Array, divide: jax.Array, at_most: int, size: int = AT_ONCE
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the mean map, the first components, and the sum of all squares about the mean.

    In one pass: the components so far, as long as their singular values, and a chunk's deviations
    are rows whose own first components are the next ones, by the eigenvectors of the rows' products
    with each other, which are few where maps are long (incremental PCA: Ross et al., "Incremental
    learning for robust visual tracking", IJCV 2008). Exact where images are no more than `at_most`.

    Args:
      found: the features.
      images: float32 [n, H, W, C].
      divide: [c], what channels are divided by.
      at_most: how many components.
      size: images at a time.

    Returns:
      [h, w, c]; [r, h, w, c], r = min(n, at_most), the largest first, of the length of their
      singular values; and a number.
    """
    (h, w), c = found.grid, found.channels
    r = min(len(images), at_most)
    d = h * w * c

    def turn(held: tuple, chunk: jax.Array, new: jax.Array, before: jax.Array) -> tuple:
        mean, rows, total = held
        own = (found.of(chunk) / divide).reshape(len(chunk), d)
        mean, more = merged(mean, own, new, before)
        rows = jnp.concatenate([rows, more])
        _, vectors = jnp.linalg.eigh(_product("id,jd->ij", rows, rows))
        first = vectors[:, ::-1][:, :r]
        return mean, _product("ir,id->rd", first, rows), total + jnp.sum(jnp.square(more))

    start = jnp.zeros(d), jnp.zeros((r, d)), jnp.asarray(0.0)
    mean, rows, total = in_chunks(turn, start, images, size)
    return mean.reshape(h, w, c), rows.reshape(r, h, w, c), total


def vector_components(
    found: Extractor, images: jax.Array, divide: jax.Array, at_most: int = 0, size: int = AT_ONCE
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Returns the same of the features of all points: [c], [c, c] and a number.

    `at_most` is not looked at: they are no more than the channels.
    """
    c = found.channels
    (h, w), n = found.grid, len(images)

    def turn(held: tuple, chunk: jax.Array, new: jax.Array, before: jax.Array) -> tuple:
        mean, squares = held
        mean, rows = merged(mean, found.of(chunk) / divide, new, before)
        flat = rows.reshape(-1, c)
        return mean, squares + _product("ri,rj->ij", flat, flat)

    mean, squares = in_chunks(turn, (jnp.zeros((h, w, c)), jnp.zeros((c, c))), images, size)
    center = jnp.mean(mean, axis=(0, 1))
    among = (mean - center).reshape(-1, c)  # of the points' means, beside that within each point
    values, vectors = jnp.linalg.eigh(squares + n * _product("ri,rj->ij", among, among))
    values = jnp.maximum(values[::-1], 0)
    return center, vectors[:, ::-1].T * jnp.sqrt(values)[:, None], jnp.sum(values)


def kept(rows: jax.Array, total: jax.Array, share: float) -> jax.Array:
    """Returns the components that explain a share of the variance, of length 1, and zeros.

    As scikit-learn counts: the fewest whose sum is more than the share.

    Args:
      rows: [r, ...], the largest first, of the length of their singular values.
      total: of all squares, those of components that are not there included.
      share: in (0, 1].
    """
    flat = rows.reshape(len(rows), -1)
    squares = jnp.sum(jnp.square(flat), axis=1)
    before = jnp.concatenate([jnp.zeros(1), jnp.cumsum(squares)[:-1]])
    needed = (before <= share * total) & (squares > _ROUNDING * squares[0])
    unit = flat / jnp.sqrt(jnp.where(needed, squares, 1.0))[:, None]
    return jnp.where(needed[:, None], unit, 0.0).reshape(rows.shape)
