"""Nearest neighbours among vectors, exact and by matrix products, and a coreset that covers them.

Distances of products, |q|^2 - 2 q.m + |m|^2, find the neighbours; those that are returned are of
the differences, to the last digits also where a query is its own neighbour.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

# TF32, a GPU's default, would keep three digits where near ones must be told apart
_product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
_AT_ONCE = 1024  # queries, or members of the memory, in one product


def project(key: jax.Array, vectors: jax.Array, size: int) -> jax.Array:
    """Returns vectors [n, d] in `size` dimensions, their distances nearly kept.

    A Gaussian random matrix, as Johnson and Lindenstrauss (1984) have it; with d no more than
    `size`, the vectors themselves.
    """
    d = vectors.shape[-1]
    if d <= size:
        return vectors
    matrix = jax.random.normal(key, (d, size)) / jnp.sqrt(size)
    return _product("nd,ds->ns", vectors, matrix)


def coreset(vectors: jax.Array, first: jax.Array, count: int) -> jax.Array:
    """Returns which vectors cover all: each next one is the farthest from those before.

    The greedy algorithm for k centers (Gonzalez, 1985; Sener and Savarese, 2018), whose largest
    distance from a vector to the next member is at most twice the smallest possible.

    Args:
      vectors: float32 [n, d].
      first: index of the first member.
      count: how many, from 1 to n.

    Returns:
      int32 [count], each once, in the order of their choice; of equals the first is taken.

    Raises:
      ValueError: a count that cannot be.
    """
    if not 1 <= count <= len(vectors):
        raise ValueError(f"{count} of {len(vectors)} vectors: must be from 1 to their number")
    vectors = jnp.asarray(vectors)
    norms = jnp.sum(jnp.square(vectors), axis=1)

    def turn(held: tuple[jax.Array, jax.Array], _: None) -> tuple:
        nearest, at = held
        to_it = norms - 2 * _product("nd,d->n", vectors, vectors[at]) + norms[at]
        # -1: a member is not taken again, even when all that are left equal one
        nearest = jnp.minimum(nearest, jnp.maximum(to_it, 0)).at[at].set(-1.0)
        return (nearest, jnp.argmax(nearest).astype(jnp.int32)), at

    start = jnp.full(len(vectors), jnp.inf), jnp.asarray(first, jnp.int32)
    return lax.scan(turn, start, None, length=count)[1]


def nearest(
    queries: jax.Array, memory: jax.Array, k: int = 1, at_once: int = _AT_ONCE
) -> tuple[jax.Array, jax.Array]:
    """Returns the k nearest members of a memory for every query, the nearest first.

    Args:
      queries: float32 [q, d].
      memory: float32 [m, d].
      k: from 1 to m.
      at_once: queries in one product, whose distances to all of the memory are held.

    Returns:
      Distances float32 [q, k], true and not squared, and indices int32 [q, k].

    Raises:
      ValueError: a k that cannot be.
    """
    if not 1 <= k <= len(memory):
        raise ValueError(f"{k} neighbours of {len(memory)} vectors: must be from 1 to their number")
    memory = jnp.asarray(memory)
    center = jnp.mean(memory, axis=0)  # large common parts would cost digits of the products
    around = memory - center
    norms = jnp.sum(jnp.square(around), axis=1)

    def of_part(part: jax.Array) -> tuple[jax.Array, jax.Array]:
        # |q|^2 is the same for all members
        apart = norms - 2 * _product("qd,md->qm", part - center, around)
        if k == 1:
            found = jnp.argmin(apart, axis=1)[:, None].astype(jnp.int32)
        else:
            found = lax.top_k(-apart, k)[1]
        off = part[:, None] - memory[found]
        return jnp.sqrt(jnp.sum(jnp.square(off), axis=-1)), found

    n = len(queries)
    if n <= at_once:
        return of_part(queries)
    parts = -(-n // at_once)
    filled = jnp.pad(queries, ((0, parts * at_once - n), (0, 0)))
    found = lax.map(of_part, filled.reshape(parts, at_once, -1))
    distances, indices = (each.reshape(-1, k)[:n] for each in found)
    return distances, indices
