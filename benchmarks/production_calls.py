"""The calls that runs compile, as they are handed to the compiler; nothing is computed for it."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp

from cae_jax import methods
from cae_jax.runs import build
from cae_jax.runs.config import Config, configure, flags_of
from cae_jax.runs.train import whole
from cae_jax.training.members import Plan, compile_step, stack
from cae_jax.types import Fit, height_width

Lower: TypeAlias = Callable[[], Any]
THESIS = ("bergmann", "chow", "oh_yun", "gong")
_BATCHES, _MEMBERS, _SIDE, _GOOD = (1, 8), 2, 64, 8
_SMALL = {  # of the flags that a method has, those that make it small: sizes add no operation
    **{"image_size": _SIDE, "patch_size": 32, "stride": 16},
    **{"features": "filter_bank"},
}
_OPERATION = re.compile(r"^\s+(?:%\S+ = )?\"?(?:stablehlo|chlo|func|call)\b", re.MULTILINE)


def lowerings() -> dict[str, Lower]:
    """Returns by name what lowers each call: scoring and the training step of the thesis' models
    and of two members at once, and the scoring call of every method that learns in one pass."""
    found: dict[str, Lower] = {}
    for model in THESIS:
        s = configure(model=model, stride=128).resolved()  # four patches an image
        for batch in _BATCHES:
            found[f"{model}, scoring {batch}"] = functools.partial(_scoring, s, batch)
        found[f"{model}, step"] = functools.partial(_step, s, Plan(), 1)
    s = configure(model=THESIS[0], stride=128).resolved()
    for strategy in ("unroll", "vmap"):
        name = f"{THESIS[0]}, step of {_MEMBERS} by {strategy}"
        found[name] = functools.partial(_step, s, Plan(strategy), _MEMBERS)
    return found | dict(_others())


def reference() -> Any:
    """Lowers a program that no change of ours touches: a step of a plain network."""

    def loss(kernels: list[jax.Array], x: jax.Array) -> jax.Array:
        for kernel in kernels:
            x = jnp.tanh(jax.lax.conv(x, kernel, (1, 1), "SAME"))
        return jnp.square(x).mean()

    kernels = [jax.ShapeDtypeStruct((8, 8, 3, 3), jnp.float32)] * 6
    return jax.jit(jax.value_and_grad(loss)).lower(kernels, _floats(4, 8, 32, 32))


def operations(lowered: Any) -> int:
    """Returns how many operations of StableHLO a program has, its functions counted once."""
    return len(_OPERATION.findall(lowered.as_text()))


def _others() -> Iterator[tuple[str, Lower]]:
    for name in methods.names():
        if name == methods.DEFAULT:
            continue
        known = flags_of(name)
        own = {flag: value for flag, value in _SMALL.items() if flag in known}
        s = configure(method=name, **own).resolved()
        if isinstance(s.build().learn, Fit):
            yield f"{name}, scoring", functools.partial(_scoring, s, 2)


def _scoring(s: Config, batch: int) -> Any:
    variables = whole(s.build(), build.shapes(s, _GOOD)[1])
    images = _floats(batch, *height_width(s.image_size), s.channels)
    return build.scoring_call(s).lower(variables, images)


def _step(s: Config, plan: Plan, n: int) -> Any:
    learn, (state, _) = s.build().learn, build.shapes(s, _GOOD)
    if plan.stacked:
        state = jax.eval_shape(lambda *states: stack(states), *[state] * n)
    images = _floats(_GOOD * n, *height_width(s.image_size), s.channels)
    shape = (*([n] if plan.stacked else []), s.options.batch_size, 3)
    return compile_step(learn, plan).lower(state, images, jax.ShapeDtypeStruct(shape, jnp.int32))


def _floats(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)
