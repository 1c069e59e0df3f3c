"""The layers of a model's tables, one by one at their true shapes, ready to be timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from cae_jax.models.layers.memory import Memory
from cae_jax.models.layers.table import Cost, Table, costs
from cae_jax.types import UsageError, Variables

Apply = Callable[[Variables, jax.Array], jax.Array]


class Layer(NamedTuple):
    """A layer and its calls, which wait: forward, input_gradient, kernel_gradient."""

    name: str  # PART/ROW
    op: str
    input: tuple[int, ...]  # (H, W, C) of one patch
    output: tuple[int, ...]
    macs: int  # multiply-accumulates of one patch, forward; each gradient has as many
    calls: dict[str, Callable[[], object]]


def layers(model: Any, batch: int, seed: int) -> list[Layer]:
    """Returns the layers of a model that compute, without their activation, on random input.

    The first has no input gradient, which training does not need either; pooling has no kernel.
    A memory's gradients and a pooling's hold the forward pass that they cannot do without.
    Raises UsageError for a model without tables.
    """
    if not hasattr(model, "tables"):
        raise UsageError(f"{type(model).__name__} has no layer tables, so no layers to time")
    rng, found = np.random.default_rng(seed), []
    shape = (model.patch_size, model.patch_size, model.channels)
    for part, rows in model.tables().items():
        for cost in costs(rows, shape, model.channels):
            row = cost.row
            if cost.macs or row.op == "max_pool":
                calls = _calls(_module(model, cost), (batch, *shape), rng)
                if not found:
                    del calls["input_gradient"]
                made = Layer(f"{part}/{row.name}", row.op, shape, cost.output, cost.macs, calls)
                found.append(made)
            shape = cost.output
    return found


def _module(model: Any, cost: Cost) -> Any:  # a Flax module
    if cost.row.op != "memory":
        return Table((cost.row._replace(linear=True),), model.channels)
    threshold = None if model.threshold < 0 else model.threshold
    return Memory(cost.row.kernel, model.addressing, threshold)


def _calls(
    module: Any, shape: tuple[int, ...], rng: np.random.Generator
) -> dict[str, Callable[[], object]]:
    x = jax.device_put(rng.standard_normal(shape, np.float32))
    variables = jax.jit(module.init)(jax.random.key(0, impl="rbg"), x)

    def apply(variables: Variables, x: jax.Array) -> jax.Array:
        made = module.apply(variables, x)
        return made if isinstance(made, jax.Array) else made.code  # a memory's

    y = jax.eval_shape(apply, variables, x)
    dy = jax.device_put(rng.standard_normal(y.shape, np.float32))

    @jax.jit
    def input_gradient(variables: Variables, x: jax.Array, dy: jax.Array) -> Any:
        return jax.vjp(lambda x: apply(variables, x), x)[1](dy)

    @jax.jit
    def kernel_gradient(variables: Variables, x: jax.Array, dy: jax.Array) -> Any:
        return jax.vjp(lambda variables: apply(variables, x), variables)[1](dy)

    forward = jax.jit(apply)
    calls = {
        "forward": lambda: jax.block_until_ready(forward(variables, x)),
        "input_gradient": lambda: jax.block_until_ready(input_gradient(variables, x, dy)),
        "kernel_gradient": lambda: jax.block_until_ready(kernel_gradient(variables, x, dy)),
    }
    if not variables:
        del calls["kernel_gradient"]
    return calls
