"""Gradients: the optimiser, the precision they are computed in, and their mean over chunks."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cae_jax.methods.options import PRECISIONS
from cae_jax.types import Metrics, State, Variables

# What --precision calls it -> jax's name for it. bfloat16 also casts what the model computes with.
_MATMUL = dict(zip(PRECISIONS, ("float32", "tensorfloat32", "bfloat16"), strict=True))
_CHUNKS_AT_ONCE = 2  # in a turn of the loop over them, so that one's layers fill the other's gaps


def optimizer(
    learning_rate: float, weight_decay: float, decoupled: bool = False
) -> optax.GradientTransformation:
    """Adam with L2 in the gradient, as PyTorch's Adam(weight_decay=...); or decoupled AdamW."""
    if decoupled:
        return optax.adamw(learning_rate, weight_decay=weight_decay)
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))


def default_chunk_size(patch_size: int) -> int | None:
    """Patches whose gradient is taken at a time, see `mean_gradient`; None for all of them.

    On a CPU their activations should stay in its cache, so there are fewer of larger ones.
    """
    if jax.default_backend() != "cpu":
        return None
    return max(1, 16 * 128**2 // max(128, patch_size) ** 2)


def application(model: nn.Module, precision: str) -> Callable[..., Any]:
    """Returns `model.apply`, in bfloat16 where that is the precision.

    Of PRECISIONS, "tf32" rounds the factors of products to 10 bits where the device has it (a CPU
    has not); "bfloat16" also keeps activations in it. Parameters, losses, gradients' sums and
    distances stay float32.
    """
    if precision != "bfloat16":
        return model.apply

    def apply(variables: Variables, patches: jax.Array, **how: Any) -> Any:
        # statistics stay float32: a running mean would not move by steps that bfloat16 rounds off
        variables = {**variables, "params": _cast(variables["params"], jnp.bfloat16)}
        return _cast(model.apply(variables, _cast(patches, jnp.bfloat16), **how), jnp.float32)

    return apply


def within(precision: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the function with its products, and their gradients', traced in that precision."""

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with jax.default_matmul_precision(_MATMUL[precision]):
            return function(*args)

    return traced


def step_key(state: State) -> jax.Array:
    """Returns the random key of the step that `state` is about to take.

    It is of threefry, whatever the state's own is: under vmap JAX draws all of "rbg" from the first
    member's key, so that a member would train otherwise together than alone.
    """
    key = jax.random.fold_in(state.key, state.step)
    return jax.random.wrap_key_data(jax.random.key_data(key)[:2], impl="threefry2x32")


def mean_gradient(
    loss: Callable[..., Any],
    params: Any,
    rest: Variables,
    patches: jax.Array,
    key: jax.Array,
    chunk_size: int | None,
) -> tuple[jax.Array, Variables, Metrics, Any]:
    """Returns a batch's loss, the other variables, the parts used, and the gradient.

    It is summed over chunks of `chunk_size` patches, so that a chunk's activations stay in a CPU's
    cache; None takes the batch at once. A model with batch statistics always sees its whole batch.
    Each patch weighs the same, each chunk has a key of its own.

    Args:
      loss: (params, rest, patches, key) -> loss [], (rest, used), of the mean over its patches;
        used is bool [K] by name.
      params: what the gradient is taken by.
      rest: the model's other variables.
      patches: [N, p, p, C].
      key: of this step.
      chunk_size: patches a chunk.
    """
    n = len(patches)
    size = n if rest or not chunk_size else min(chunk_size, n)
    count = n // size

    value_and_grad = jax.value_and_grad(loss, has_aux=True)

    def add(carry: tuple[Any, Variables], chunk: tuple[Any, Any]) -> tuple[Any, Metrics]:
        (total, rest), (i, chunk) = carry, chunk
        (value, (rest, used)), gradient = value_and_grad(
            params, rest, chunk, jax.random.fold_in(key, i)
        )
        weight = len(chunk) / n
        total = jax.tree.map(lambda sum, x: sum + weight * x, total, (value, gradient))
        return (total, rest), used

    # every chunk takes its share of each device's patches, where the batch lies on several
    chunks = patches[: count * size].reshape(size, count, *patches.shape[1:]).swapaxes(0, 1)
    nothing = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params))
    turns = (jnp.arange(count), chunks)
    carry, uses = jax.lax.scan(add, (nothing, rest), turns, unroll=_CHUNKS_AT_ONCE)
    if count * size < n:
        carry, used = add(carry, (count, patches[count * size :]))
        uses = jax.tree.map(lambda some, last: jnp.concatenate([some, last[None]]), uses, used)
    (value, gradient), rest = carry
    return value, rest, {k: jnp.sum(jnp.any(v, axis=0)) for k, v in uses.items()}, gradient


def _cast(tree: Any, dtype: Any) -> Any:
    """Casts what is a float32 or bfloat16 array."""
    floats = (jnp.float32, jnp.bfloat16)
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype in floats else x, tree)
