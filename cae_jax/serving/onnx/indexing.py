"""Primitives that read or write at given places, in ONNX; nothing of it scatters.

A graph that scatters runs slowly, or not at all, outside of a CPU. So a sum of parts at known
places is one of padded parts, and any other is read: of every element, what is added to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cae_jax.serving.onnx.program import Step, Value
from cae_jax.serving.onnx.shaping import padded, sliced
from cae_jax.serving.onnx.writer import Laid, Writer, plain, size
from cae_jax.types import CaeError

_I64 = np.dtype(np.int64)


def dynamic_slice(w: Writer, step: Step) -> list[Laid]:
    """Returns a window whose first corner is given, moved inside where it is not."""
    value, *corner = step.ins
    sizes = step.params["slice_sizes"]
    room = [n - k for n, k in zip(value.shape, sizes, strict=True)]
    first = _known_corner(w, corner, room)
    if first is not None:
        return [sliced(w, value, first, [f + k for f, k in zip(first, sizes, strict=True)])]
    at = _within(w, _corner(w, corner), room)
    ends = w.op("Add", at, w.ints(sizes))
    axes = w.ints(range(len(sizes)))
    return [plain(w.op("Slice", w.full(value), at, ends, axes), sizes)]


def _known_corner(w: Writer, corner: list[Value], room: list[int]) -> list[int] | None:
    arrays = [w.known(v) for v in corner]
    if any(array is None for array in arrays):
        return None
    return [int(np.clip(a, 0, r)) for a, r in zip(arrays, room, strict=True) if a is not None]


def _corner(w: Writer, corner: list[Value]) -> str:
    """Scalars as one int64 [n]."""
    names = [w.reshape(w.cast(w.full(v), _I64), [1]) for v in corner]
    return w.op("Concat", *names, axis=0)


def _within(w: Writer, at: str, room: Any) -> str:
    return w.op("Min", w.op("Max", at, w.const(0, _I64)), w.const(room, _I64))


def dynamic_update_slice(w: Writer, step: Step) -> list[Laid]:
    """Returns a value with a window replaced, at a place that is known."""
    value, part, *corner = step.ins
    room = [n - k for n, k in zip(value.shape, part.shape, strict=True)]
    first = _known_corner(w, corner, room)
    if first is None:
        return [_replaced(w, value, part, corner)]
    config = [(f, r - f, 0) for f, r in zip(first, room, strict=True)]
    inside = np.zeros(value.shape, bool)
    inside[tuple(slice(f, f + k) for f, k in zip(first, part.shape, strict=True))] = True
    around = padded(w, part, config, np.zeros((), part.dtype))
    name = w.transpose(around.name, around.perm)
    return [plain(w.op("Where", w.const(inside), name, w.full(value)), value.shape)]


def _replaced(w: Writer, value: Value, part: Value, corner: list[Value]) -> Laid:
    """The same at a place that is not known: of every element, which of the part's it is."""
    room = [n - k for n, k in zip(value.shape, part.shape, strict=True)]
    at = _within(w, _corner(w, corner), room)
    rank, found, inside = len(room), w.full(part), None
    for axis, (n, k) in enumerate(zip(value.shape, part.shape, strict=True)):
        first = w.op("Gather", at, w.const(axis, _I64), axis=0)
        place = w.op("Sub", w.const(np.arange(n), _I64), first)
        there = w.op("And", w.op("GreaterOrEqual", place, w.const(0, _I64)),
                     w.op("Less", place, w.const(k, _I64)))  # fmt: skip
        found = w.op("Gather", found, _within(w, place, k - 1), axis=axis)
        there = w.reshape(there, [n if a == axis else 1 for a in range(rank)])
        inside = there if inside is None else w.op("And", inside, there)
    if inside is None:
        return plain(found, value.shape)
    return plain(w.op("Where", inside, found, w.full(value)), value.shape)


def gather(w: Writer, step: Step) -> list[Laid]:
    """Returns windows whose first corners are given."""
    value, indices = step.ins
    p, numbers, out = step.params, step.params["dimension_numbers"], step.outs[0]
    sizes, filled = p["slice_sizes"], "FILL" in str(p["mode"]) and w.known(indices) is None
    single = len(numbers.start_index_map) == 1 and not numbers.operand_batching_dims
    if single and numbers.start_index_map == numbers.collapsed_slice_dims and not filled:
        axis = numbers.start_index_map[0]
        whole = all(k == n for a, (k, n) in enumerate(zip(sizes, value.shape, strict=True))
                    if a != axis)  # fmt: skip
        lines = indices.shape[:-1]
        wanted = tuple(range(axis)) + tuple(range(axis + len(lines), len(out.shape)))
        if whole and tuple(numbers.offset_dims) == wanted:
            if _all_in_order(w.known(indices), value.shape[axis]):
                return [w.laid(value)]
            at = _indices(w, indices, value.shape[axis] - 1, lines)
            return [plain(w.op("Gather", w.full(value), at, axis=axis), out.shape)]
    linear, valid = _linear(w, step)
    flat = w.reshape(w.full(value), [-1])
    found = w.op("Gather", flat, linear, axis=0)
    if filled:
        fill = p["fill_value"]
        fill = _nothing(out.dtype) if fill is None else fill
        found = w.op("Where", valid, found, w.const(fill, out.dtype))
    return [plain(found, out.shape)]


def _all_in_order(indices: np.ndarray | None, n: int) -> bool:
    return indices is not None and indices.size == n and bool((indices.ravel() == range(n)).all())


def _nothing(dtype: Any) -> Any:
    if np.dtype(dtype).kind == "f":
        return np.nan
    return np.iinfo(dtype).min if np.dtype(dtype).kind == "i" else True


def _indices(w: Writer, indices: Value, last: int, shape: tuple[int, ...]) -> str:
    array = w.known(indices)
    if array is not None:
        array = np.broadcast_to(array, indices.shape)
        return w.ints(np.clip(array, 0, last).reshape(shape))
    return _within(w, w.cast(w.reshape(w.full(indices), shape), _I64), last)


def _linear(w: Writer, step: Step) -> tuple[str, str]:
    """Of every element of a gather's output, where it is in the flattened operand, and whether its
    window lies inside."""
    value, indices = step.ins
    numbers, out = step.params["dimension_numbers"], step.outs[0]
    sizes, rank = step.params["slice_sizes"], len(out.shape)
    strides = [size(value.shape[a + 1 :]) for a in range(len(value.shape))]
    batch = [a for a in range(rank) if a not in numbers.offset_dims]
    gone = set(numbers.collapsed_slice_dims) | set(numbers.operand_batching_dims)
    offsets = [a for a in range(len(value.shape)) if a not in gone]
    constant = np.zeros(out.shape, _I64)
    for axis, at in zip(offsets, numbers.offset_dims, strict=True):
        constant += strides[axis] * _along(at, out.shape)
    for axis, at in zip(
        numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True
    ):
        constant += strides[axis] * _along(batch[at], out.shape)
    lines = [out.shape[a] if a in batch else 1 for a in range(rank)]
    known, total, valid = w.known(indices), w.const(constant), w.const(True)
    whole = None if known is not None else w.cast(w.full(indices), _I64)
    for i, axis in enumerate(numbers.start_index_map):
        room = value.shape[axis] - sizes[axis]
        if known is not None:
            start = np.broadcast_to(known, indices.shape)[..., i].reshape(lines)
            total = w.op(
                "Add", total, w.const(np.clip(start, 0, room).astype(_I64) * strides[axis])
            )
            continue
        assert whole is not None
        one = w.reshape(w.op("Gather", whole, w.const(i, _I64), axis=-1), lines)
        inside = _within(w, one, room)
        valid = w.op("And", valid, w.op("Equal", inside, one))
        total = w.op("Add", total, w.op("Mul", inside, w.const(strides[axis], _I64)))
    return total, valid


def _along(axis: int, shape: tuple[int, ...]) -> np.ndarray:
    """Of every element, its index along an axis."""
    sides = [n if a == axis else 1 for a, n in enumerate(shape)]
    return np.arange(shape[axis], dtype=_I64).reshape(sides)


def scatter(w: Writer, step: Step) -> list[Laid]:
    """Returns a value with parts added, or put, at places that are known."""
    value, indices, updates = step.ins
    known, adds = w.known(indices), step.name in ("scatter-add", "scatter_add")
    if known is None:
        raise CaeError(f"ONNX: {step.name} at places that are not known beforehand")
    known = np.broadcast_to(known, indices.shape)
    numbers = step.params["dimension_numbers"]
    if adds and known.ndim == 1 and not numbers.inserted_window_dims:
        return [_added(w, value, updates, known, numbers)]
    targets = _targets(value.shape, known, updates.shape, step.params)
    return [_read(w, value, updates, targets, adds)]


def _added(w: Writer, value: Value, part: Value, corner: np.ndarray, numbers: Any) -> Laid:
    """A single window added: a sum with the padded part."""
    first = [0] * len(value.shape)
    for axis, at in zip(numbers.scatter_dims_to_operand_dims, corner, strict=True):
        first[axis] = int(at)
    outside = [f < 0 or f + k > n for f, k, n in zip(first, part.shape, value.shape, strict=True)]
    if any(outside):
        return w.laid(value)
    config = [(f, n - f - k, 0) for f, k, n in zip(first, part.shape, value.shape, strict=True)]
    around = padded(w, part, config, np.zeros((), part.dtype))
    array = w.known(value)
    if array is not None and not array.any():
        return around
    perm = around.perm
    return Laid(w.op("Add", around.name, w.small(value, perm)), value.shape, perm)


def _targets(
    shape: tuple[int, ...], indices: np.ndarray, updates: tuple[int, ...], params: dict[str, Any]
) -> np.ndarray:
    """Of every element of the updates, where it goes in the flattened operand; -1: nowhere."""
    numbers = params["dimension_numbers"]
    rank = len(shape)
    strides = [size(shape[a + 1 :]) for a in range(rank)]
    windows = numbers.update_window_dims
    batch = [a for a in range(len(updates)) if a not in windows]
    gone = set(numbers.inserted_window_dims) | set(numbers.operand_batching_dims)
    offsets = [a for a in range(rank) if a not in gone]
    places = [np.zeros(updates, _I64) for _ in shape]
    sides = dict.fromkeys(range(rank), 1)
    for axis, at in zip(offsets, windows, strict=True):
        places[axis] += _along(at, updates)
        sides[axis] = updates[at]
    for axis, at in zip(
        numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True
    ):
        places[axis] += _along(batch[at], updates)
    lines = [n if a in batch else 1 for a, n in enumerate(updates)]
    inside = np.ones(updates, bool)
    for i, axis in enumerate(numbers.scatter_dims_to_operand_dims):
        start = indices[..., i].reshape(lines).astype(_I64)
        room = shape[axis] - sides[axis]
        if "CLIP" in str(params["mode"]):
            start = np.clip(start, 0, room)
        inside &= (start >= 0) & (start <= room)
        places[axis] += start
    linear = sum((s * p for s, p in zip(strides, places, strict=True)), np.zeros(updates, _I64))
    return np.where(inside, linear, -1)


def _read(w: Writer, value: Value, updates: Value, targets: np.ndarray, adds: bool) -> Laid:
    """Of every element, the updates that go there: in layers, each of at most one."""
    flat = targets.ravel()
    order = np.argsort(flat, kind="stable")
    order = order[flat[order] >= 0]
    into = flat[order]
    turn = np.arange(len(into)) - np.searchsorted(into, into)
    layers = int(turn.max()) + 1 if len(turn) else 0
    if not layers:
        return w.laid(value)
    table = np.full((layers, size(value.shape)), flat.size, _I64)  # the zero behind all of them
    table[turn, into] = order
    zero = w.const(np.zeros(1), updates.dtype)
    source = w.op("Concat", w.reshape(w.full(updates), [-1]), zero, axis=0)
    if not adds:
        last = np.where(table < flat.size, table, -1).max(axis=0)
        found = w.op("Gather", source, w.const(np.where(last < 0, flat.size, last)), axis=0)
        put = w.const((last >= 0).reshape(value.shape))
        whole = w.reshape(found, value.shape)
        return plain(w.op("Where", put, whole, w.full(value)), value.shape)
    found = w.op("Gather", source, w.const(table), axis=0)
    total = w.op("ReduceSum", found, w.ints([0]), keepdims=0)
    return plain(w.op("Add", w.reshape(total, value.shape), w.full(value)), value.shape)


RULES: dict[str, Callable[[Writer, Step], list[Laid]]] = {
    **{"dynamic_slice": dynamic_slice, "dynamic_update_slice": dynamic_update_slice},
    **{"gather": gather, "scatter-add": scatter, "scatter_add": scatter, "scatter": scatter},
}
