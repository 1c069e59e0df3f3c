"""Primitives that move elements without looking at them, in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cae_jax.serving.onnx.program import Step, Value
from cae_jax.serving.onnx.writer import Laid, Writer, inverse, plain
from cae_jax.types import CaeError

_FAR = 2**62


def broadcast(w: Writer, step: Step) -> list[Laid]:
    """Returns broadcast_in_dim: axes of side 1 put between, nothing repeated yet."""
    (value,), out = step.ins, step.outs[0]
    axes = step.params["broadcast_dimensions"]
    at = w.laid(value)
    sides = [1] * len(out.shape)
    for axis, n in zip(axes, at.shape, strict=True):
        sides[axis] = n
    if tuple(sides) == at.shape:
        return [at]
    return [plain(w.reshape(_as_is(w, at), sides), sides)]


def reshape(w: Writer, step: Step) -> list[Laid]:
    """Returns reshape, squeeze and expand_dims."""
    return [plain(w.reshape(w.full(step.ins[0]), step.outs[0].shape), step.outs[0].shape)]


def squeeze(w: Writer, step: Step) -> list[Laid]:
    """Returns a value without some axes of side 1, laid out as it was."""
    at = w.laid(step.ins[0])
    kept = [a for a in range(len(at.shape)) if a not in step.params["dimensions"]]
    sides = [at.shape[a] for a in inverse(at.perm) if a in kept]  # as they lie
    perm = inverse(inverse([at.perm[a] for a in kept]))  # ranks, from 0 on
    return [Laid(w.reshape(at.name, sides), tuple(at.shape[a] for a in kept), perm)]


def transpose(w: Writer, step: Step) -> list[Laid]:
    """Returns a value whose axes have another order; nothing is moved yet."""
    at, order = w.laid(step.ins[0]), step.params["permutation"]
    return [Laid(at.name, tuple(at.shape[a] for a in order), tuple(at.perm[a] for a in order))]


def reverse(w: Writer, step: Step) -> list[Laid]:
    """Returns a value with axes turned round."""
    at = w.laid(step.ins[0])
    axes = [a for a in step.params["dimensions"] if at.shape[a] > 1]
    ends = [-1] * len(axes), [-_FAR] * len(axes), [-1] * len(axes)
    return [at._replace(name=_slice(w, at.name, ends, [at.perm[a] for a in axes]))]


def cut(w: Writer, step: Step) -> list[Laid]:
    """Returns slice."""
    p = step.params
    return [sliced(w, step.ins[0], p["start_indices"], p["limit_indices"], p["strides"])]


def sliced(
    w: Writer,
    value: Value,
    starts: Sequence[int],
    limits: Sequence[int],
    strides: Sequence[int] | None = None,
) -> Laid:
    """Returns value[start:limit:stride, ...]."""
    at, steps = w.laid(value), strides or [1] * len(value.shape)
    spread = [n == 1 and at.shape[a] == 1 for a, n in enumerate(value.shape)]
    axes, sides = [], []
    for a, n in enumerate(value.shape):
        side = -(-(limits[a] - starts[a]) // steps[a])
        if side != n and at.shape[a] == n and not spread[a]:
            axes.append(a)
        sides.append(1 if at.shape[a] == 1 and side > 1 else min(side, at.shape[a]))
    ends = [starts[a] for a in axes], [limits[a] for a in axes], [steps[a] for a in axes]
    return Laid(_slice(w, at.name, ends, [at.perm[a] for a in axes]), tuple(sides), at.perm)


def _slice(w: Writer, name: str, ends: tuple[list[int], ...], axes: Sequence[int]) -> str:
    if not axes:
        return name
    starts, limits, steps = ends
    return w.op("Slice", name, w.ints(starts), w.ints(limits), w.ints(axes), w.ints(steps))


def concatenate(w: Writer, step: Step) -> list[Laid]:
    """Returns values one after the other along an axis."""
    axis, out = step.params["dimension"], step.outs[0]
    perm = _common(w, step.ins)
    names = [w.ordered(v, inverse(perm)) for v in step.ins if 0 not in v.shape]
    return [Laid(w.op("Concat", *names, axis=perm[axis]), out.shape, perm)]


def stack(w: Writer, step: Step) -> list[Laid]:
    """Returns values one after the other along a new axis."""
    axis, out = step.params["axis"], step.outs[0]
    sides = [1 if a == axis else n for a, n in enumerate(out.shape)]
    names = [w.reshape(w.full(v), sides) for v in step.ins]
    return [plain(w.op("Concat", *names, axis=axis), out.shape)]


def depth_to_space(w: Writer, step: Step) -> list[Laid]:
    """Returns maps of every phase, row by row, put together pixel by pixel."""
    order, out = (0, 3, 1, 2), step.outs[0]
    whole = w.op("Concat", *(w.ordered(v, order) for v in step.ins), axis=1)
    found = w.op("DepthToSpace", whole, blocksize=step.params["side"], mode="DCR")
    return [Laid(found, out.shape, inverse(order))]


def split(w: Writer, step: Step) -> list[Laid]:
    """Returns the parts of a value along an axis, of given sizes."""
    (value,), axis, first, found = step.ins, step.params["axis"], 0, []
    for n in step.params["sizes"]:
        starts, limits = [0] * len(value.shape), list(value.shape)
        starts[axis], limits[axis] = first, first + n
        found.append(sliced(w, value, starts, limits))
        first += n
    return found


def tile(w: Writer, step: Step) -> list[Laid]:
    """Returns a value repeated along axes."""
    (value,), reps = step.ins, step.params["reps"]
    return [plain(w.op("Tile", w.full(value), w.ints(reps)), step.outs[0].shape)]


def pad(w: Writer, step: Step) -> list[Laid]:
    """Returns a value with others around it and between; a negative number crops."""
    value, filling = step.ins
    config = step.params["padding_config"]
    array = w.known(filling)
    if array is None:
        raise CaeError("ONNX: pad with a value that is not a constant")
    return [padded(w, value, config, array.reshape(()))]


def padded(
    w: Writer, value: Value, config: Sequence[tuple[int, int, int]], filling: np.ndarray
) -> Laid:
    """Returns `pad` by a constant; `config` has (before, after, between) of every axis."""
    perm = _common(w, [value])
    order = inverse(perm)
    name, sides = w.ordered(value, order), [value.shape[a] for a in order]
    lying = [config[a] for a in order]
    for axis, (_, _, between) in enumerate(lying):
        if between:
            name, sides = _dilated(w, name, sides, axis, between, filling)
    crop = [
        (max(-low, 0), n - max(-high, 0)) for (low, high, _), n in zip(lying, sides, strict=True)
    ]
    axes = [a for a, n in enumerate(sides) if crop[a] != (0, n)]
    ends = [crop[a][0] for a in axes], [crop[a][1] for a in axes], [1] * len(axes)
    name = _slice(w, name, ends, axes)
    pads = [max(low, 0) for low, _, _ in lying] + [max(high, 0) for _, high, _ in lying]
    if any(pads):
        name = w.op("Pad", name, w.ints(pads), w.const(filling))
    shape = [
        low + high + n + max(n - 1, 0) * between
        for n, (low, high, between) in zip(value.shape, config, strict=True)
    ]
    return Laid(name, tuple(shape), perm)


def _dilated(
    w: Writer, name: str, sides: list[int], axis: int, between: int, filling: np.ndarray
) -> tuple[str, list[int]]:
    """A tensor with `between` more elements after each of an axis but the last."""
    apart = [*sides[: axis + 1], 1, *sides[axis + 1 :]]
    pads = [0] * (2 * len(apart))
    pads[len(apart) + axis + 1] = between
    name = w.op("Pad", w.reshape(name, apart), w.ints(pads), w.const(filling))
    whole = list(sides)
    whole[axis] *= between + 1
    name = w.reshape(name, whole)
    n = whole[axis] - between
    whole[axis] = n
    return _slice(w, name, ([0], [n], [1]), [axis]), whole


def _common(w: Writer, values: Sequence[Value]) -> tuple[int, ...]:
    """The layout of the largest of some values."""
    unknown = [v for v in values if w.known(v) is None]
    return w.laid(max(unknown, key=lambda v: int(np.prod(v.shape)))).perm


def _as_is(w: Writer, at: Laid) -> str:
    return w.transpose(at.name, at.perm)


RULES: dict[str, Callable[[Writer, Step], list[Laid]]] = {
    **{"broadcast_in_dim": broadcast, "reshape": reshape, "expand_dims": reshape},
    **{"squeeze": squeeze, "transpose": transpose, "rev": reverse, "slice": cut, "pad": pad},
    **{"concatenate": concatenate, "stack": stack, "split": split, "tile": tile},
    **{"depth_to_space": depth_to_space},
}
