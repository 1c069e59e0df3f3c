"""What a function does with its inputs, once all that asks for no input is computed.

The function's jaxpr is gone through once. Calls are inlined; what depends on constants alone
(weights prepared, random numbers drawn, indices counted) goes to a tape that JAX runs as one
program, so that only what depends on an image has to be written in ONNX.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from cae_jax.types import CaeError

# by primitive, where its jaxpr is
_CALLS = {
    "jit": "jaxpr",
    "pjit": "jaxpr",
    "closed_call": "call_jaxpr",
    "core_call": "call_jaxpr",
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "remat2": "jaxpr",
    "checkpoint": "jaxpr",
}
# what leaves numbers as they are: hints to a compiler
_SAME = frozenset(
    {"optimization_barrier", "stop_gradient", "copy", "copy_p", "sharding_constraint"}
)
_FEW = 16  # turns of a loop that are written one by one, for engines that run loops slowly
NAMED = frozenset({"counted_median"})  # jitted functions that ONNX has an operator for


@dataclasses.dataclass(eq=False)
class Value:
    """An array somewhere in the function: computed by the graph, unless it is Known."""

    shape: tuple[int, ...]
    dtype: Any


@dataclasses.dataclass(eq=False)
class Known(Value):
    """A constant: at hand, or an output of the tape."""

    array: Any = None  # None until the tape has run
    of: Step | None = None


@dataclasses.dataclass(eq=False)
class Step:
    """A primitive, applied."""

    name: str
    params: dict[str, Any]
    ins: list[Value]
    outs: list[Value]
    bodies: dict[str, Body] = dataclasses.field(default_factory=dict)
    primitive: Any = None


@dataclasses.dataclass(eq=False)
class Body:
    """A function within a loop or a choice; it may use values of what is around it."""

    ins: list[Value]
    steps: list[Step]
    outs: list[Value]


def trace(
    function: Callable[..., Sequence[jax.Array]], inputs: Sequence[jax.ShapeDtypeStruct]
) -> Body:
    """Returns what a function does with its inputs, constants computed and nothing unused.

    Raises:
      CaeError: a shape is not known.
    """
    closed = jax.make_jaxpr(function)(*inputs)
    ins = [Value(each.shape, each.dtype) for each in inputs]
    steps: list[Step] = []
    constants = [_constant(c) for c in closed.consts]
    outs = _walk(closed.jaxpr, constants, ins, steps)
    body = Body(ins, steps, outs)
    prune(body)
    _run_tape(_needed(body))
    return body


def prune(body: Body) -> None:
    """Leaves out the steps of whose outputs nothing comes."""
    live = {id(v) for v in body.outs}
    kept = []
    for step in reversed(body.steps):
        if any(id(v) in live for v in step.outs):
            kept.append(step)
            live |= {id(v) for v in uses(step)}
    body.steps[:] = kept[::-1]


def uses(step: Step) -> list[Value]:
    """Returns the values that a step reads, also within its bodies; pruning these on the way."""
    found = list(step.ins)
    for body in step.bodies.values():
        prune(body)
        found += body.outs
        for inner in body.steps:
            found += uses(inner)
    return found


def _walk(
    jaxpr: Any, constants: Sequence[Value], ins: Sequence[Value], steps: list[Step]
) -> list[Value]:
    """Appends the steps of a jaxpr that depend on unknown values; returns its outputs."""
    env: dict[Any, Value] = {}

    def read(atom: Any) -> Value:
        if isinstance(atom, core.Literal):
            return _constant(np.asarray(atom.val, getattr(atom.aval, "dtype", None)))
        return env[atom]

    env.update(zip(jaxpr.constvars, constants, strict=True))
    env.update(zip(jaxpr.invars, ins, strict=True))
    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        found = _apply(eqn, given, steps)
        env.update(zip(eqn.outvars, found, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _apply(eqn: Any, given: list[Value], steps: list[Step]) -> list[Value]:
    name, params = eqn.primitive.name, dict(eqn.params)
    avals = [var.aval for var in eqn.outvars]
    if all(isinstance(v, Known) for v in given):
        step = Step(name, params, given, [], primitive=eqn.primitive)
        step.outs = [Known(a.shape, a.dtype, of=step) for a in avals]
        return step.outs
    if name in _SAME or (name == "convert_element_type" and given[0].dtype == avals[0].dtype):
        return given
    if name in _CALLS and params.get("name") not in NAMED:
        return _inline(params[_CALLS[name]], given, steps)
    if name == "scan" and params["length"] in range(1, 2 if params["num_carry"] else _FEW + 1):
        return _turn_by_turn(params, given, steps)
    if name == "cond" and isinstance(given[0], Known):
        _run_tape([given[0]])
        index = int(np.clip(given[0].array, 0, len(params["branches"]) - 1))
        return _inline(params["branches"][index], given[1:], steps)
    for a in avals:
        if not all(isinstance(n, int) for n in a.shape):
            raise CaeError(f"ONNX: {name} has an output of an unknown shape {a.shape}")
    step = Step(params["name"] if name in _CALLS else name, params, given, [])
    step.outs = [Value(a.shape, a.dtype) for a in avals]
    if name == "scan":
        step.bodies = {"jaxpr": _body(params["jaxpr"], given[: params["num_consts"]])}
    elif name == "while":
        k = params["cond_nconsts"]
        j = k + params["body_nconsts"]
        step.bodies = {
            "cond_jaxpr": _body(params["cond_jaxpr"], given[:k]),
            "body_jaxpr": _body(params["body_jaxpr"], given[k:j]),
        }
    elif name == "cond":
        for i, branch in enumerate(params["branches"]):
            step.bodies[str(i)] = _body(branch, given[1:])
    steps.append(step)
    return step.outs


def _inline(closed: Any, given: list[Value], steps: list[Step]) -> list[Value]:
    jaxpr = getattr(closed, "jaxpr", closed)
    constants = [_constant(c) for c in getattr(closed, "consts", ())]
    return _walk(jaxpr, constants, given, steps)


def _body(closed: Any, outer: list[Value]) -> Body:
    """A jaxpr whose first inputs are values of what is around, and the others its own."""
    own = [Value(var.aval.shape, var.aval.dtype) for var in closed.jaxpr.invars[len(outer) :]]
    steps: list[Step] = []
    outs = _inline(closed, [*outer, *own], steps)
    return Body(own, steps, outs)


def _turn_by_turn(params: dict[str, Any], given: list[Value], steps: list[Step]) -> list[Value]:
    """A scan of a single turn, or of few that do not know each other, without a loop."""
    first, carry = params["num_consts"] + params["num_carry"], params["num_carry"]
    kept, found = given[:first], []
    for i in range(params["length"]):
        turn = [_part(v, i, steps) for v in given[first:]]
        found.append(_inline(params["jaxpr"], [*kept, *turn], steps))
    rows = [
        _joined([_reshaped(v, (1, *v.shape), steps) for v in each], steps)
        for each in list(zip(*found, strict=True))[carry:]
    ]
    return [*found[-1][:carry], *rows]


def _part(value: Value, i: int, steps: list[Step]) -> Value:
    """The i-th along the first axis, without that."""
    n, *shape = value.shape
    if n > 1:
        ends = {"start_indices": (i, *(0 for _ in shape)), "limit_indices": (i + 1, *shape)}
        cut = {**ends, "strides": None}
        value = _made(jax.lax.slice_p, cut, [value], (1, *shape), steps)
    return _reshaped(value, tuple(shape), steps)


def _joined(values: list[Value], steps: list[Step]) -> Value:
    """Values [1, ...] as one along the first axis."""
    shape = (len(values), *values[0].shape[1:])
    if len(values) == 1:
        return values[0]
    return _made(jax.lax.concatenate_p, {"dimension": 0}, values, shape, steps)


def _reshaped(value: Value, shape: tuple[int, ...], steps: list[Step]) -> Value:
    params = {"new_sizes": tuple(shape), "dimensions": None, "sharding": None}
    return _made(jax.lax.reshape_p, params, [value], shape, steps)


def _made(
    primitive: Any,
    params: dict[str, Any],
    ins: list[Value],
    shape: tuple[int, ...],
    steps: list[Step],
) -> Value:
    """What a primitive makes of values, by a step of it."""
    step = Step(primitive.name, params, ins, [], primitive=primitive)
    if all(isinstance(v, Known) for v in ins):
        step.outs = [Known(shape, ins[0].dtype, of=step)]
    else:
        step.outs = [Value(shape, ins[0].dtype)]
        steps.append(step)
    return step.outs[0]


def _constant(value: Any) -> Known:
    return Known(np.shape(value), getattr(value, "dtype", np.asarray(value).dtype), value)


def _needed(body: Body) -> list[Value]:
    """The constants that the graph reads; of one that is spread over a larger shape, what is
    spread, as operators do that themselves."""
    found = list(body.outs)
    for step in body.steps:
        found += uses(step)
    wanted = []
    for value in found:
        while isinstance(value, Known) and _spread(value):
            value = value.of.ins[0]  # type: ignore[union-attr]
        wanted.append(value)
    return wanted


def _spread(value: Known) -> bool:
    return value.array is None and value.of is not None and value.of.name == "broadcast_in_dim"


def shown(value: Known) -> np.ndarray:
    """Returns a constant as an array that broadcasts to its shape, of the same rank."""
    if _spread(value):
        assert value.of is not None
        inner = value.of.ins[0]
        assert isinstance(inner, Known)
        small = shown(inner)
        sides = [1] * len(value.shape)
        for axis, n in zip(value.of.params["broadcast_dimensions"], small.shape, strict=True):
            sides[axis] = n
        return small.reshape(sides)
    array = np.asarray(value.array)
    if array.size > 1 and array.dtype.kind in "fiub":
        for axis, n in enumerate(array.shape):
            first = np.take(array, [0], axis)
            if n > 1 and (array == first).all():
                array = first
    return array


def _bound(step: Step, given: list[Any]) -> list[Any]:
    """What a primitive gives of arrays."""
    how = step.primitive.get_bind_params(step.params)
    functions, params = how if isinstance(how, tuple) else ((), how)  # a tuple before JAX 0.10
    found = step.primitive.bind(*functions, *given, **params)
    return list(found) if step.primitive.multiple_results else [found]


def _run_tape(wanted: list[Value]) -> None:
    """Computes constants that are not at hand, in one compiled program."""
    targets = [v for v in wanted if isinstance(v, Known) and v.array is None]
    targets = list({id(v): v for v in targets}.values())
    if not targets:
        return
    order: list[Step] = []
    seen: set[int] = set()
    stack: list[tuple[Step, bool]] = [(v.of, False) for v in targets if v.of]
    while stack:
        step, ready = stack.pop()
        if ready:
            order.append(step)
        elif id(step) not in seen:
            seen.add(id(step))
            stack.append((step, True))
            pending = [v for v in step.ins if isinstance(v, Known) and v.array is None]
            stack += [(v.of, False) for v in pending if v.of and id(v.of) not in seen]
    leaves = {
        id(v): v for s in order for v in s.ins if isinstance(v, Known) and v.array is not None
    }

    def run(arrays: dict[int, jax.Array]) -> list[jax.Array]:
        env: dict[int, Any] = dict(arrays)
        for step in order:
            found = _bound(step, [env[id(v)] for v in step.ins])
            env.update((id(v), one) for v, one in zip(step.outs, found, strict=True))
        return [env[id(v)] for v in targets]

    found = jax.jit(run)({k: v.array for k, v in leaves.items()})
    for value, array in zip(targets, found, strict=True):
        value.array = np.asarray(array)
