"""An autoencoder learns to reconstruct good patches: the thesis's training (Sec. 4.1.3)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from cae_jax.methods import losses
from cae_jax.types import Method, Metrics, Reconstruction, State, Variables

# What --precision calls it -> jax's name for it. bfloat16 also casts what the model computes with.
_MATMUL = {"float32": "float32", "tf32": "tensorfloat32", "bfloat16": "bfloat16"}
PRECISIONS = tuple(_MATMUL)
_CHUNKS_AT_ONCE = 2  # in a turn of the loop over them, so that one's layers fill the other's gaps


def optimizer(
    learning_rate: float, weight_decay: float, decoupled: bool = False
) -> optax.GradientTransformation:
    """Adam with L2 in the gradient, as PyTorch's Adam(weight_decay=...); or decoupled AdamW."""
    if decoupled:
        return optax.adamw(learning_rate, weight_decay=weight_decay)
    return optax.chain(optax.add_decayed_weights(weight_decay), optax.adam(learning_rate))


def autoencoder(
    model: nn.Module,
    tx: optax.GradientTransformation,
    chunk_size: int | None = None,
    patch_loss: Callable[[jax.Array, jax.Array], jax.Array] = losses.l2,
    precision: str = "float32",
) -> Method:
    """Returns the method that trains `model` by `tx` on the mean of `patch_loss`.

    Args:
      model: a module with `channels` and `patch_size`; `model(patches, train)` gives a
        Reconstruction, whose aux may hold "penalty" [N], added to the loss of each patch.
      tx: the optimiser.
      chunk_size: the gradient of a batch is summed over chunks of this many patches, so that a
        chunk's activations stay in a CPU's cache; None takes the batch at once. A model with
        batch statistics always sees its whole batch.
      patch_loss: (output, patches) [N, p, p, C] -> [N], see `losses`.
      precision: of the model's products, one of PRECISIONS: "float32"; "tf32", which rounds their
        factors to 10 bits where the device has it (a CPU has not); "bfloat16", which also keeps
        activations in it. Parameters, losses, gradients' sums and distances stay float32.
    """

    apply = _application(model, precision)

    def each(made: Reconstruction, patches: jax.Array) -> jax.Array:
        return patch_loss(made.output, patches) + made.aux.get("penalty", 0.0)

    def init(key: jax.Array) -> State:
        sample = jnp.zeros((1, model.patch_size, model.patch_size, model.channels))
        variables = model.init(key, sample)
        return State(jnp.zeros((), jnp.int32), key, variables, tx.init(variables["params"]))

    def loss(params: Any, rest: Variables, patches: jax.Array) -> tuple[jax.Array, Any]:
        made, rest = apply({"params": params, **rest}, patches, train=True, mutable=list(rest))
        return jnp.mean(each(made, patches)), (rest, _used(made))

    def step(state: State, patches: jax.Array) -> tuple[State, Metrics]:
        rest = {name: value for name, value in state.variables.items() if name != "params"}
        params = state.variables["params"]
        value, rest, used, gradient = _mean_gradient(loss, params, rest, patches, chunk_size)
        updates, opt_state = tx.update(gradient, state.opt_state, params)
        variables = {"params": optax.apply_updates(params, updates), **rest}
        return State(state.step + 1, state.key, variables, opt_state), {"loss": value, **used}

    def reconstruct(variables: Variables, patches: jax.Array) -> Reconstruction:
        return apply(variables, patches)

    def evaluate(variables: Variables, patches: jax.Array) -> Metrics:
        made = reconstruct(variables, patches)
        used = {name: jnp.sum(which) for name, which in _used(made).items()}
        return {"loss": jnp.mean(each(made, patches)), **used}

    return Method(init, *(_within(precision, f) for f in (step, evaluate, reconstruct)))


def _application(model: nn.Module, precision: str) -> Callable:
    """`model.apply`, in bfloat16 where that is the precision."""
    if precision != "bfloat16":
        return model.apply

    def apply(variables: Variables, patches: jax.Array, **how: Any) -> Any:
        # statistics stay float32: a running mean would not move by steps that bfloat16 rounds off
        variables = {**variables, "params": _cast(variables["params"], jnp.bfloat16)}
        return _cast(model.apply(variables, _cast(patches, jnp.bfloat16), **how), jnp.float32)

    return apply


def _within(precision: str, function: Callable) -> Callable:
    """The function with its products, and their gradients', traced in that precision."""

    @functools.wraps(function)
    def traced(*args: Any) -> Any:
        with jax.default_matmul_precision(_MATMUL[precision]):
            return function(*args)

    return traced


def _cast(tree: Any, dtype: Any) -> Any:
    """Casts what is a float32 or bfloat16 array."""
    floats = (jnp.float32, jnp.bfloat16)
    return jax.tree.map(lambda x: x.astype(dtype) if x.dtype in floats else x, tree)


def _used(made: Reconstruction) -> dict[str, jax.Array]:
    """Which parts any of the patches made use of, bool [K] by name."""
    return {k: jnp.any(v, axis=0) for k, v in made.aux.items() if k.endswith("_used")}


def _mean_gradient(
    loss: Any, params: Any, rest: Variables, patches: jax.Array, chunk_size: int | None
) -> tuple[jax.Array, Variables, Metrics, Any]:
    """The loss, its gradient and the parts used, over all chunks; each patch weighs the same."""
    n = len(patches)
    size = n if rest or not chunk_size else min(chunk_size, n)
    count = n // size

    value_and_grad = jax.value_and_grad(loss, has_aux=True)

    def add(carry: tuple[Any, Variables], chunk: jax.Array) -> tuple[Any, Metrics]:
        total, rest = carry
        (value, (rest, used)), gradient = value_and_grad(params, rest, chunk)
        weight = len(chunk) / n
        total = jax.tree.map(lambda sum, x: sum + weight * x, total, (value, gradient))
        return (total, rest), used

    # every chunk takes its share of each device's patches, where the batch lies on several
    chunks = patches[: count * size].reshape(size, count, *patches.shape[1:]).swapaxes(0, 1)
    nothing = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), params))
    carry, uses = jax.lax.scan(add, (nothing, rest), chunks, unroll=_CHUNKS_AT_ONCE)
    if count * size < n:
        carry, used = add(carry, patches[count * size :])
        uses = jax.tree.map(lambda some, last: jnp.concatenate([some, last[None]]), uses, used)
    (value, gradient), rest = carry
    return value, rest, {k: jnp.sum(jnp.any(v, axis=0)) for k, v in uses.items()}, gradient
