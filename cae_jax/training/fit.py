"""Learning in one pass over the good images."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cae_jax import files
from cae_jax.jit import jit
from cae_jax.training import memory
from cae_jax.types import (
    Array,
    CaeError,
    DataError,
    Fit,
    Images,
    Levels,
    Method,
    Seen,
    Variables,
)

HELD = 2**35  # bytes, in memory or a file: more features are not kept, but computed in each pass
_AT_ONCE = 8  # images that are looked at in one call


def fit(method: Method, images: Array | Images, seed: int) -> Variables:
    """Returns what a method learns of good images [n, H, W, C].

    Raises CaeError where one of the variables is not finite; the first is named.
    """
    learn, found = examples(method, images)
    return of(learn, found, seed)


def examples(
    method: Method, images: Array | Images
) -> tuple[Callable[[jax.Array, jax.Array], Variables], Array | Images]:
    """Returns how a method that learns in one pass learns, and what of: the images' features where
    it has them apart and they can be held, or the images [n, H, W, C] themselves."""
    learn = method.learn
    assert isinstance(learn, Fit)
    if learn.seen and (features := look(learn.seen, images, method.frozen)) is not None:
        return learn.seen.fit, features
    return learn.fit, images


def of(
    learn: Callable[[jax.Array, jax.Array], Variables], examples: Array | Images, seed: int
) -> Variables:
    """Returns what a function learns of images, or of their features, [n, ...].

    Raises CaeError as `fit`, and DataError where memory does not hold what it takes.
    """
    examples = files.real(examples) if isinstance(examples, Levels) else examples
    key = jax.random.key(seed, impl="rbg")
    fitting = program(learn, key.aval, tuple(examples.shape))
    memory.check(fitting, "the fit")
    variables = fitting(key, examples)
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        if jnp.issubdtype(leaf.dtype, jnp.floating) and not np.isfinite(jax.device_get(leaf)).all():
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise CaeError(f"the fit gave a {name} that is not finite")
    return variables


def look(
    seen: Seen,
    images: Array | Images,
    frozen: Mapping[str, Any] = MappingProxyType({}),
    at_most: int | None = None,
) -> np.ndarray | None:
    """Returns the features of images [n, H, W, C], float32 [n, ...].

    None for no image, and where they would take more than `at_most` bytes, HELD unless told, or
    more than there is room for.
    """
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), jnp.float32)
    shape = jax.eval_shape(seen.look, {"frozen": dict(frozen)}, one).shape[1:]
    n = len(images)
    if not 0 < 4 * n * math.prod(shape) <= (HELD if at_most is None else at_most):
        return None
    try:
        found = files.large_array((n, *shape))
    except DataError:
        return None
    variables = jax.device_put({"frozen": dict(frozen)})
    size = min(_AT_ONCE, n)
    for i in range(0, n, size):
        first = min(i, n - size)  # the last calls may look at some again: all have one shape
        chunk = images[first : first + size]
        found[first : first + size] = _compiled(seen.look)(variables, chunk)
    return found


@functools.lru_cache
def program(function: Callable[..., Any], key: Any, shape: tuple[int, ...]) -> Any:
    """Returns the compiled program for examples float32 of that shape; of all folds it is one."""
    given = jax.ShapeDtypeStruct(key.shape, key.dtype), jax.ShapeDtypeStruct(shape, np.float32)
    return _compiled(function).lower(*given).compile()


@functools.lru_cache
def _compiled(function: Callable[..., Any]) -> Any:
    return jit(function)
