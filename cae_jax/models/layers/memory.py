"""The memory of Gong et al. (MemAE, ICCV 2019, arXiv 1904.02639): a code is read, not passed on."""

from __future__ import annotations

import math
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cae_jax.types import unknown_name

ADDRESSING = ("dot", "cosine")
_EPSILON = 1e-12


class Recalled(NamedTuple):
    """What a memory makes of a code."""

    code: jax.Array  # [N, H, W, C], the shape of the query
    entropy: jax.Array  # [N]: of the addressing weights, mean over positions, in nats
    used: jax.Array  # bool [N, K]: items with a weight above 0 at any position


def shrink(weights: jax.Array, threshold: float) -> jax.Array:
    """Hard shrinkage and L1 renormalisation of addressing weights (eqs. 6 and 7 of the paper).

    Args:
      weights: [..., K], not negative, rows summing to 1.
      threshold: weights at or below it become 0; 0 shrinks nothing.

    Returns:
      [..., K], rows summing to 1. A row that would lose every weight stays as it is.
    """
    kept = nn.relu(weights - threshold) * weights / (jnp.abs(weights - threshold) + _EPSILON)
    total = jnp.sum(kept, axis=-1, keepdims=True)
    dead = total <= 0
    return jnp.where(dead, weights, kept / jnp.where(dead, 1, total))


class Memory(nn.Module):
    """K items of C numbers; every position of a code becomes a sparse mean of items."""

    items: int
    addressing: str = "dot"  # as the authors' code; "cosine" as the paper
    threshold: float | None = None  # None: 0.0025 for dot, 1 / K for cosine

    @nn.compact
    def __call__(self, code: jax.Array) -> Recalled:
        """Reads codes [N, H, W, C] from the memory; nothing is written."""
        if self.addressing not in ADDRESSING:
            raise unknown_name("addressing", self.addressing, ADDRESSING)
        n, channels = code.shape[0], code.shape[-1]
        bound = 1 / math.sqrt(channels)

        def init(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
            return jax.random.uniform(key, shape, minval=-bound, maxval=bound)

        memory = self.param("memory", init, (self.items, channels))
        query = code.reshape(n, -1, channels)
        cosine = self.addressing == "cosine"
        logits = _unit(query) @ _unit(memory).T if cosine else query @ memory.T
        # Cosine logits lie in -1..1: no weight can pass about e / K, so 0.0025 would cut them all.
        default = 0.0025 if self.addressing == "dot" else 1 / self.items
        threshold = default if self.threshold is None else self.threshold
        weights = shrink(nn.softmax(logits), threshold)
        entropy = -jnp.sum(weights * jnp.log(weights + _EPSILON), axis=-1)
        used = jnp.any(weights > 0, axis=1)
        return Recalled((weights @ memory).reshape(code.shape), jnp.mean(entropy, axis=1), used)


def _unit(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + _EPSILON)
