"""Mixtures of Gaussians, fitted by expectation and maximisation.

Dempster, Laird and Rubin, "Maximum likelihood from incomplete data via the EM algorithm" (Journal
of the Royal Statistical Society B 39, 1977), as scikit-learn's GaussianMixture does it: densities
in logarithms, a floor added to variances, and a stop where the mean log likelihood changes by less
than a tolerance.

Sums are of whitened vectors, L^-1 (x - m) with the mean and the covariance L L^T of before. They
are about 1 and their new mean is about 0, so that float32 loses no digits in squares, and a round
needs no second pass. A pass holds one chunk of vectors.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular

from cae_jax.methods.clusters import kmeans

_AT_ONCE = 4096  # vectors in a turn: what comes of them stays in a CPU's cache
_START = 4096  # vectors that k-means sorts
_FEW = 10 * 2.0**-23  # added to a component's count, so that one without vectors divides
# TF32, a GPU's default, would keep three digits
_product = functools.partial(jnp.einsum, precision=lax.Precision.HIGHEST)
_Sums: TypeAlias = tuple[jax.Array, jax.Array, jax.Array, jax.Array]


class Mixture(NamedTuple):
    """K Gaussians of d numbers."""

    weights: jax.Array  # float32 [K], their sum is 1
    means: jax.Array  # float32 [K, d]
    # roots of the covariances: full, their Cholesky factors L, float32 [K, d, d]; diagonal,
    # standard deviations, float32 [K, d]
    roots: jax.Array


class Rounds(NamedTuple):
    """When to stop."""

    at_most: int = 100
    tolerance: float = 1e-3  # of the mean log likelihood, in nats; 0: all rounds
    floor: float = 1e-6  # added to every variance


def log_likelihood(
    mixture: Mixture,
    x: jax.Array,
    chunk_size: int = _AT_ONCE,
    solved: jax.Array | None = None,
) -> jax.Array:
    """Returns the logarithm of a mixture's density at vectors [n, d]: float32 [n], in nats.

    `solved` is what `inverses` says of it, where that is there already.
    """
    chunks, _ = _chunked(x, chunk_size)
    solved = inverses(mixture) if solved is None else solved
    found = lax.map(lambda chunk: _densities(mixture, solved, chunk)[1], chunks)
    return found.reshape(-1)[: len(x)]


def fit(start: Mixture, x: jax.Array, rounds: Rounds, chunk_size: int = _AT_ONCE) -> Mixture:
    """Returns the mixture that EM comes to from a start.

    Args:
      start: where it begins; the shape of its roots says which covariances.
      x: float32 [n, d], best of about unit scale: `rounds.floor` is in their unit squared.
      rounds: when to stop.
      chunk_size: vectors at a time.
    """
    chunks, counts = _chunked(x, chunk_size)

    def pass_over(mixture: Mixture) -> _Sums:
        solved = inverses(mixture)

        def turn(before: _Sums, at: tuple[jax.Array, jax.Array]) -> tuple[_Sums, None]:
            return jax.tree.map(jnp.add, before, _sums(mixture, solved, *at)), None

        weights, means, roots = (jnp.zeros_like(each) for each in mixture)
        nothing = jnp.zeros(()), weights, means, roots
        return lax.scan(turn, nothing, (chunks, counts))[0]

    def more(held: tuple) -> jax.Array:
        return (held[0] < rounds.at_most) & ~(jnp.abs(held[-1]) < rounds.tolerance)

    def turn(held: tuple) -> tuple:
        i, mixture, last, _ = held
        total, shares, sums, squares = pass_over(mixture)
        now = total / len(x)
        better = _maximised(mixture, shares, sums, squares, rounds.floor)
        return i + 1, better, now, now - last

    never = jnp.asarray(-jnp.inf), jnp.asarray(jnp.inf)
    return lax.while_loop(more, turn, (jnp.asarray(0), start, *never))[1]


def start(key: jax.Array, x: jax.Array, k: int, covariance: str, floor: float) -> Mixture:
    """Returns the Gaussians of groups of vectors [n, d], n at least k, that k-means finds.

    It sorts a few thousand, evenly spread over them. Covariances are "full" or "diagonal", with
    `floor` added to every variance.
    """
    few = x[:: math.ceil(len(x) / _START)]
    share = jax.nn.one_hot(kmeans(key, few, k), k)
    counts = jnp.sum(share, axis=0) + _FEW
    means = _product("nk,nd->kd", share, few) / counts[:, None]
    away = few - _product("nk,kd->nd", share, means)
    if covariance == "full":
        squares = _product("nk,nd,ne->kde", share, away, away)
    else:
        squares = _product("nk,nd->kd", share, jnp.square(away))
    variances = squares / counts.reshape(-1, *(1,) * (squares.ndim - 1))
    return Mixture(counts / jnp.sum(counts), means, _roots(variances, floor))


def _roots(variances: jax.Array, floor: float) -> jax.Array:
    if variances.ndim == 2:
        return jnp.sqrt(variances + floor)
    return jnp.linalg.cholesky(variances + floor * jnp.eye(variances.shape[-1]))


def inverses(mixture: Mixture) -> jax.Array:
    """Returns L^-1 of every Gaussian, [K, d, d], or one over the deviations, [K, d]."""
    if mixture.roots.ndim == 2:
        return 1 / mixture.roots
    eyes = jnp.broadcast_to(jnp.eye(mixture.roots.shape[-1]), mixture.roots.shape)
    return solve_triangular(mixture.roots, eyes, lower=True)


def _densities(
    mixture: Mixture, solved: jax.Array, x: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Whitened vectors [K, d, n], the log density [n], and each one's share in it [K, n].

    Vectors lie along the last axis, which no product has to turn.
    """
    weights, means, roots = mixture
    if roots.ndim == 2:
        white = (x.T - means[:, :, None]) * solved[:, :, None]
        sizes = jnp.sum(jnp.log(roots), axis=1)
    else:
        k, d = means.shape
        white = _product("fd,nd->fn", solved.reshape(k * d, d), x).reshape(k, d, len(x))
        white -= _product("kde,ke->kd", solved, means)[:, :, None]
        sizes = jnp.sum(jnp.log(jnp.diagonal(roots, axis1=1, axis2=2)), axis=1)
    constant = jnp.log(weights) - sizes - 0.5 * means.shape[1] * math.log(2 * math.pi)
    logs = constant[:, None] - 0.5 * jnp.sum(jnp.square(white), axis=1)
    highest = jnp.max(logs, axis=0)
    shares = jnp.exp(logs - highest)
    total = jnp.sum(shares, axis=0)
    return white, highest + jnp.log(total), shares / total


def _sums(mixture: Mixture, solved: jax.Array, x: jax.Array, count: jax.Array) -> _Sums:
    """Of the first `count` of the vectors: log likelihoods, shares, shares times whitened vectors
    and times their squares, in the shapes of a mixture."""
    white, logs, shares = _densities(mixture, solved, x)
    counts = jnp.arange(len(x)) < count
    shares *= counts
    shared = shares[:, None] * white
    if mixture.roots.ndim == 2:
        squares = jnp.sum(shared * white, axis=2)
    else:
        squares = _product("kdn,ken->kde", shared, white)
    total = jnp.sum(jnp.where(counts, logs, 0))
    return total, jnp.sum(shares, axis=1), jnp.sum(shared, axis=2), squares


def _maximised(
    before: Mixture, shares: jax.Array, sums: jax.Array, squares: jax.Array, floor: float
) -> Mixture:
    """The mixture of the vectors' sums, which are in the coordinates whitened by the one before."""
    counts = shares + _FEW
    moved = sums / counts[:, None]
    if before.roots.ndim == 2:
        means = before.means + before.roots * moved
        within = squares / counts[:, None] - jnp.square(moved)
        variances = jnp.square(before.roots) * jnp.maximum(within, 0)
    else:
        means = before.means + _product("kde,ke->kd", before.roots, moved)
        within = squares / counts[:, None, None] - moved[:, :, None] * moved[:, None, :]
        variances = _product("kde,kef,kgf->kdg", before.roots, within, before.roots)
    return Mixture(counts / jnp.sum(counts), means, _roots(variances, floor))


def _chunked(x: jax.Array, chunk_size: int) -> tuple[jax.Array, jax.Array]:
    """Vectors [n, d] as chunks [c, size, d], zeros at the end, and how many count in each [c]."""
    n, size = len(x), min(chunk_size, len(x))
    chunks = -(-n // size)
    filled = jnp.pad(x, ((0, chunks * size - n), (0, 0))).reshape(chunks, size, -1)
    return filled, jnp.minimum(size, n - size * jnp.arange(chunks))
