"""`jax.jit` for programs of which a user waits for the compiler."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
from jax import lax

_LEVEL = "xla_backend_optimization_level"


def jit(function: Callable[..., Any], **how: Any) -> Callable[..., Any]:
    """Returns `jax.jit(function, **how)`, on a CPU compiled at LLVM's first level of optimisation.

    What takes time in these programs are products and convolutions, of libraries that are compiled
    already: at the third, XLA's own, the thesis's training steps and scoring calls give the same
    bits at the same speed and take 1.1 to 1.4 times as long to compile. An optimisation level or
    JAX_DISABLE_MOST_OPTIMIZATIONS of the user's own stands.
    """
    own = (
        _LEVEL in os.environ.get("XLA_FLAGS", "")
        or jax.config.values["jax_disable_most_optimizations"]
    )
    if own or jax.default_backend() != "cpu":
        return jax.jit(function, **how)
    return _Jitted(function, how)


class _Jitted:
    """May be called while another function is traced, too, which JAX refuses a program that has
    compiler options: that other one's count then."""

    def __init__(self, function: Callable[..., Any], how: dict[str, Any]) -> None:
        self._top = jax.jit(function, compiler_options={_LEVEL: 1}, **how)
        self._nested = jax.jit(function, **how)
        self.lower = self._top.lower

    def __call__(self, *args: Any) -> Any:
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(args))
        return (self._nested if traced else self._top)(*args)


def one_by_one(call: Callable[[jax.Array], Any], images: jax.Array) -> Any:
    """Returns what a call makes of images [N, ...], arrays that lead with N; a network's, mostly.

    On a CPU they go through it one after the other, in a loop: the maps of one image stay in its
    cache, and memory does not grow with N. A number of images that is open, as in an exported
    program, is one call.
    """
    n = images.shape[0]
    if jax.default_backend() != "cpu" or not isinstance(n, int) or n == 1:
        return call(images)
    found = lax.map(lambda one: call(one[None]), images)
    return jax.tree.map(lambda each: each.reshape(n, *each.shape[2:]), found)
