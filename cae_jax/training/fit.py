"""Learning in one pass over the good images."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cae_jax.types import Array, CaeError, Fit, Variables


def fit(learn: Fit, images: Array, seed: int) -> Variables:
    """Returns what `learn` makes of good images [n, H, W, C].

    Raises CaeError naming the first of the variables that is not finite.
    """
    variables = _compiled(learn)(jax.random.key(seed, impl="rbg"), images)
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not bool(jnp.isfinite(leaf).all()):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise CaeError(f"the fit gave a {name} that is not finite")
    return variables


@functools.lru_cache
def _compiled(learn: Fit) -> Callable[[jax.Array, Array], Variables]:
    return jax.jit(learn.fit)
