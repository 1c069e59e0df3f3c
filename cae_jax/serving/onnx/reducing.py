"""Primitives that make one element of many, or order them, in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cae_jax.serving.onnx.program import Step
from cae_jax.serving.onnx.writer import Laid, Writer, plain
from cae_jax.types import CaeError

_KINDS = {
    **{"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax", "reduce_min": "ReduceMin"},
    **{"reduce_prod": "ReduceProd", "reduce_and": "ReduceMin", "reduce_or": "ReduceMax"},
}
_PLACES = {"argmax": "ArgMax", "argmin": "ArgMin"}


def reduce(w: Writer, step: Step) -> list[Laid]:
    """Returns the sum, maximum ... over some axes, the others laid out as they were."""
    (value,), axes = step.ins, step.params["axes"]
    at = w.laid(value)
    if any(at.shape[a] != value.shape[a] for a in axes):
        at = plain(w.full(value), value.shape)
    if not axes:
        return [at]
    logical = step.name in ("reduce_and", "reduce_or")
    name = w.cast(at.name, np.int32) if logical else at.name
    which = w.ints(sorted(at.perm[a] for a in axes))
    name = w.op(_KINDS[step.name], name, which, keepdims=0)
    name = w.cast(name, np.bool_) if logical else name
    kept = [a for a in range(len(at.shape)) if a not in axes]
    return [Laid(name, tuple(at.shape[a] for a in kept), ranks([at.perm[a] for a in kept]))]


def ranks(perm: Sequence[int]) -> tuple[int, ...]:
    """Returns numbers of any size as a permutation of the same order."""
    order = sorted(perm)
    return tuple(order.index(p) for p in perm)


def place(w: Writer, step: Step) -> list[Laid]:
    """Returns argmax and argmin: of equals, the first."""
    (value,), (axis,), out = step.ins, step.params["axes"], step.outs[0]
    found = w.op(_PLACES[step.name], w.full(value), axis=axis, keepdims=0)
    return [plain(w.cast(found, out.dtype), out.shape)]


def top_k(w: Writer, step: Step) -> list[Laid]:
    """Returns the k largest of the last axis, and where they were."""
    (value,), k = step.ins, step.params["k"]
    axis = step.params.get("axis", len(value.shape) - 1)
    values, places = w.ops("TopK", [w.full(value), w.ints([k])], 2, axis=axis)
    one, other = step.outs
    return [plain(values, one.shape), plain(w.cast(places, other.dtype), other.shape)]


def sort(w: Writer, step: Step) -> list[Laid]:
    """Returns values in the order of the first of them, equals as they were."""
    first, axis = step.ins[0], step.params["dimension"]
    if step.params["num_keys"] != 1:
        raise CaeError("ONNX: sort by more than one key")
    n = w.ints([first.shape[axis]])
    values, places = w.ops("TopK", [w.full(first), n], 2, axis=axis, largest=0)
    found = [values]
    for other in step.ins[1:]:
        found.append(w.op("GatherElements", w.full(other), places, axis=axis))
    return [plain(name, v.shape) for name, v in zip(found, step.outs, strict=True)]


def cumsum(w: Writer, step: Step) -> list[Laid]:
    """Returns sums of all elements so far."""
    (value,), p = step.ins, step.params
    axis = w.const(p["axis"], np.int64)
    name = w.op("CumSum", w.full(value), axis, reverse=int(p["reverse"]))
    return [plain(name, value.shape)]


def median(w: Writer, step: Step) -> list[Laid]:
    """Returns the median over the one axis that is gone."""
    (value,), out = step.ins, step.outs[0]
    sides = list(value.shape)
    axis = next(
        a for a in reversed(range(len(sides))) if (*sides[:a], *sides[a + 1 :]) == out.shape
    )
    n = sides[axis]
    many = n // 2 + 1
    half = w.ops("TopK", [w.full(value), w.ints([many])], 2, axis=axis, largest=0)[0]
    middle = [many - 1] if n % 2 else [many - 2, many - 1]
    found = w.op("Gather", half, w.ints(middle), axis=axis)
    name = w.op("ReduceMean", found, w.ints([axis]), keepdims=0)
    return [plain(name, out.shape)]


RULES: dict[str, Callable[[Writer, Step], list[Laid]]] = {
    **dict.fromkeys(_KINDS, reduce),
    **dict.fromkeys(_PLACES, place),
    **{"top_k": top_k, "sort": sort, "cumsum": cumsum, "counted_median": median},
}
