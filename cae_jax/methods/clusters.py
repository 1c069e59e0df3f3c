"""Images sorted into groups that look alike, without labels: k-means.

Lloyd, "Least squares quantization in PCM" (IEEE Transactions on Information Theory 28, 1982), from
the starts of Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding" (SODA 2007).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

_STARTS = 8  # of which the one with the least sum of squares counts
_ROUNDS = 50  # of each
_product = functools.partial(jnp.matmul, precision=lax.Precision.HIGHEST)


def kmeans(key: jax.Array, vectors: jax.Array, k: int) -> jax.Array:
    """Returns the group of each of vectors [n, c], int32 [n] in 0..k-1, k at most n.

    A group is empty only where there are fewer different vectors than groups. The key decides the
    groups' order, and which of several local optima is found.
    """
    x = vectors - jnp.mean(vectors, axis=0)  # so that no digits are lost in squares

    def one(key: jax.Array) -> tuple[jax.Array, jax.Array]:
        centers = lax.fori_loop(0, _ROUNDS, lambda _, at: _moved(x, at), _spread(key, x, k))
        squares = _squares(x, centers)
        return jnp.sum(jnp.min(squares, axis=1)), jnp.argmin(squares, axis=1)

    sums, groups = lax.map(one, jax.random.split(key, _STARTS))
    return groups[jnp.argmin(sums)].astype(jnp.int32)


def _squares(x: jax.Array, centers: jax.Array) -> jax.Array:
    """Squared distances of [n, c] from [k, c]: [n, k]."""
    lengths = jnp.sum(jnp.square(x), axis=1)[:, None] + jnp.sum(jnp.square(centers), axis=1)
    return jnp.maximum(lengths - 2 * _product(x, centers.T), 0)


def _spread(key: jax.Array, x: jax.Array, k: int) -> jax.Array:
    """k of the vectors, each drawn by its squared distance from the nearest one before: [k, c]."""
    keys = jax.random.split(key, k)
    first = x[jax.random.randint(keys[0], (), 0, len(x))]

    def draw(nearest: jax.Array, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        center = x[jax.random.categorical(key, jnp.log(nearest))]
        return jnp.minimum(nearest, _squares(x, center[None])[:, 0]), center

    _, others = lax.scan(draw, _squares(x, first[None])[:, 0], keys[1:])
    return jnp.concatenate([first[None], others])


def _moved(x: jax.Array, centers: jax.Array) -> jax.Array:
    """The means of the vectors nearest to each center; one without any stays."""
    member = jax.nn.one_hot(jnp.argmin(_squares(x, centers), axis=1), len(centers))
    count = jnp.sum(member, axis=0)[:, None]
    return jnp.where(count > 0, _product(member.T, x) / jnp.maximum(count, 1), centers)
