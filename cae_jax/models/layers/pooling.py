"""Max pooling whose gradient is fast on XLA:CPU.

Its own, a scatter of the cotangent to the place of each window's maximum, took 20 times as long
as all else: 90 ms for 16 maps of 128 x 128 x 16, and 4 ms as it is done here.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool(x: jax.Array, side: int) -> jax.Array:
    """Returns the maxima of windows that do not overlap: [N, H, W, C] -> [N, H // s, W // s, C].

    What no whole window covers is left out. Of equal values the first, row by row, takes the
    gradient, as in `flax.linen.max_pool` and in PyTorch.
    """
    return _pool(x, side)[0]


def _pool(x: jax.Array, side: int) -> tuple[jax.Array, jax.Array]:
    """The maxima, and which place of its window each one came from: int8 0 .. s^2 - 1."""
    height, width = (n // side * side for n in x.shape[1:3])
    places = [x[:, i:height:side, j:width:side] for i in range(side) for j in range(side)]
    value, place = places[0], jnp.zeros(places[0].shape, jnp.int8)
    for k, other in enumerate(places[1:], 1):
        place = jnp.where(other > value, jnp.int8(k), place)
        value = jnp.maximum(value, other)
    return value, place


def _forward(x: jax.Array, side: int) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    value, place = _pool(x, side)
    return value, (place, jnp.zeros((0, *x.shape[1:3])))  # its shape alone is needed


def _backward(side: int, saved: tuple[jax.Array, jax.Array], g: jax.Array) -> tuple[jax.Array]:
    place, (_, height, width) = saved[0], saved[1].shape
    n, h, w, c = g.shape
    k = jnp.arange(side**2, dtype=jnp.int8).reshape(side, 1, side, 1)
    here = place[:, :, None, :, None] == k
    spread = jnp.where(here, g[:, :, None, :, None], 0).reshape(n, h * side, w * side, c)
    rest = ((0, 0), (0, height - h * side), (0, width - w * side), (0, 0))
    return (jnp.pad(spread, rest),)


max_pool.defvjp(_forward, _backward)
