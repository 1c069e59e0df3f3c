"""Products of matrices, convolutions, and what is done to the elements of a window, in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cae_jax.serving.onnx.program import Step, Value
from cae_jax.serving.onnx.shaping import padded
from cae_jax.serving.onnx.writer import Laid, Writer, inverse, plain, size
from cae_jax.types import CaeError

_MAPS = 4  # axes: images, channels, rows, columns


def dot_general(w: Writer, step: Step) -> list[Laid]:
    """Returns sums of products over any axes, as a product of matrices."""
    left, right = step.ins
    (lc, rc), (lb, rb) = (tuple(map(tuple, axes)) for axes in step.params["dimension_numbers"])
    out = step.outs[0]
    if left.dtype != right.dtype or out.dtype != left.dtype:
        raise CaeError(f"ONNX: a product of {left.dtype} and {right.dtype} to {out.dtype}")
    lf = [a for a in range(len(left.shape)) if a not in lc + lb]
    rf = [a for a in range(len(right.shape)) if a not in rc + rb]
    if not lb and w.known(right) is not None:
        return [_by_constant(w, left, right, (lc, rc), (lf, rf), False)]
    if not lb and w.known(left) is not None:
        return [_by_constant(w, right, left, (rc, lc), (rf, lf), True)]
    if (
        w.known(left) is not None
    ):  # a single row times a matrix is fast, a matrix times one column not
        turned = {"dimension_numbers": ((rc, lc), (rb, lb))}
        shape = tuple(out.shape[a] for a in (*range(len(lb)), *_swapped(len(lb), lf, rf)))
        turned_out = Value(shape, out.dtype)
        at = dot_general(w, Step(step.name, turned, [right, left], [turned_out]))[0]
        back = inverse((*range(len(lb)), *_swapped(len(lb), lf, rf)))
        return [Laid(at.name, out.shape, tuple(at.perm[a] for a in back))]
    batch = [left.shape[a] for a in lb]
    contracted = size([left.shape[a] for a in lc])
    one = w.ordered(left, [*lb, *lf, *lc])
    other = w.ordered(right, [*rb, *rc, *rf])
    rows, columns = [left.shape[a] for a in lf], [right.shape[a] for a in rf]
    if len(lf) != 1 or len(lc) != 1:
        one = w.reshape(one, [*batch, size(rows), contracted])
    if len(rf) != 1 or len(rc) != 1:
        other = w.reshape(other, [*batch, contracted, size(columns)])
    found = w.op("MatMul", one, other)
    if len(rows) != 1 or len(columns) != 1:
        found = w.reshape(found, out.shape)
    return [plain(found, out.shape)]


def _swapped(batch: int, one: list[int], other: list[int]) -> list[int]:
    """The axes of a product behind the batch's, the second factor's first."""
    return [*range(batch + len(one), batch + len(one) + len(other)),
            *range(batch, batch + len(one))]  # fmt: skip


def _by_constant(
    w: Writer,
    value: Value,
    matrix: Value,
    contracted: tuple[Sequence[int], Sequence[int]],
    free: tuple[list[int], list[int]],
    first: bool,
) -> Laid:
    """A product with a constant: of the value's last axis, or its last but one, as it lies, the
    others left where they are. The result's axes are those of the value that are left, then those
    of the constant, or with `first` the other way round."""
    (vc, mc), (vf, mf) = contracted, free
    columns = [matrix.shape[a] for a in mf]
    k, n = size([value.shape[a] for a in vc]), size(columns)
    array = np.broadcast_to(_array(w, matrix), matrix.shape).transpose(*mc, *mf).reshape(k, n)
    lying = inverse(w.laid(value).perm) if len(value.shape) else ()
    lines = [value.shape[a] for a in vf]
    if len(vc) == 1 and len(mf) == 1 and len(lying) == _MAPS and lying[1] == vc[0]:
        # as it lies between two convolutions: pixels' products are a convolution of one tap
        kernel = w.const(array.T.reshape(n, k, 1, 1))
        found = w.op("Conv", w.ordered(value, lying), kernel, kernel_shape=[1, 1])
        tensor = [lying[0], -1, *lying[2:]]
    elif len(vc) == 1 and len(mf) == 1 and len(lying) > 1 and lying[-2] == vc[0]:
        # axes before | contracted | last: the constant comes from the left
        found = w.op("MatMul", w.const(array.T), w.ordered(value, lying))
        tensor = [*(a for a in lying[:-2]), -1, lying[-1]]
    else:
        order = [*(a for a in lying if a in vf), *vc]
        name = w.ordered(value, order)
        if len(vc) != 1:
            name = w.reshape(name, [*(value.shape[a] for a in order[: len(vf)]), k])
        found = w.op("MatMul", name, w.const(array))
        tensor = [*order[: len(vf)], -1]
        if len(mf) != 1:
            found = w.reshape(found, [*(value.shape[a] for a in order[: len(vf)]), *columns])
            tensor = [*order[: len(vf)], *range(-1, -1 - len(mf), -1)]
    own = list(range(-1, -1 - len(mf), -1))
    axes = [*own, *vf] if first else [*vf, *own]
    shape = [*columns, *lines] if first else [*lines, *columns]
    return Laid(found, tuple(shape), tuple(tensor.index(a) for a in axes))


def convolution(w: Writer, step: Step) -> list[Laid]:
    """Returns conv_general_dilated; zeros between the input's pixels are written out."""
    x, kernel = step.ins
    p, numbers = step.params, step.params["dimension_numbers"]
    if p["batch_group_count"] != 1:
        raise CaeError("ONNX: conv_general_dilated with batch_group_count")
    lhs, rhs, out = numbers.lhs_spec, numbers.rhs_spec, numbers.out_spec
    space = len(lhs) - 2
    given = list(p["padding"])
    before = [(min(low, 0), min(high, 0)) for low, high in given]
    config = [(0, 0, 0)] * len(x.shape)
    for i, axis in enumerate(lhs[2:]):
        config[axis] = (*before[i], p["lhs_dilation"][i] - 1)
    name = _at(w, x, config, lhs)
    weights = w.ordered(kernel, rhs)
    pads = [max(low, 0) for low, _ in given] + [max(high, 0) for _, high in given]
    found = w.op(
        "Conv",
        name,
        weights,
        strides=list(p["window_strides"]),
        dilations=list(p["rhs_dilation"]),
        pads=pads,
        group=p["feature_group_count"],
        kernel_shape=[kernel.shape[a] for a in rhs[2:]],
    )
    if space > 3:
        raise CaeError(f"ONNX: a convolution over {space} axes")
    return [Laid(found, step.outs[0].shape, inverse(out))]


def _at(w: Writer, x: Value, config: list[tuple[int, int, int]], order: Sequence[int]) -> str:
    """A value padded, or cropped, and its axes in that order."""
    if all(each == (0, 0, 0) for each in config):
        return w.ordered(x, order)
    at = padded(w, x, config, np.zeros((), x.dtype))
    return w.transpose(at.name, [at.perm[a] for a in order])


def window_sum(w: Writer, step: Step) -> list[Laid]:
    """Returns the sums of windows: what ONNX calls an average, times their size."""
    name, shape, perm = _window(w, step, "AveragePool", count_include_pad=1)
    n = size(step.params["window_dimensions"])
    return [Laid(w.op("Mul", name, w.const(n, step.outs[0].dtype)), shape, perm)]


def window_max(w: Writer, step: Step) -> list[Laid]:
    """Returns the maxima of windows; what lies outside does not count."""
    return [_window(w, step, "MaxPool")]


def window_min(w: Writer, step: Step) -> list[Laid]:
    """Returns the minima of windows."""
    found = _window(w, step, "MaxPool", negative=True)
    return [found._replace(name=w.op("Neg", found.name))]


def _window(w: Writer, step: Step, kind: str, negative: bool = False, **attributes: Any) -> Laid:
    p, value = step.params, step.ins[0]
    rank = len(value.shape)
    axes = [a for a, n in enumerate(p["window_dimensions"]) if n > 1 or p["window_strides"][a] > 1]
    if len(axes) > 3 or any(n != 1 for n in (*p["base_dilation"], *p["window_dilation"])):
        raise CaeError(f"ONNX: {step.name} over {len(axes)} axes, or dilated")
    axes = axes or [rank - 1]
    rest = [a for a in range(rank) if a not in axes]
    order = [*rest, *axes]
    name = w.ordered(value, order)
    if len(rest) != 2:
        lines = size([value.shape[a] for a in rest])
        name = w.reshape(name, [1, lines, *(value.shape[a] for a in axes)])
    name = w.op("Neg", name) if negative else name
    pads = [p["padding"][a][side] for side in (0, 1) for a in axes]
    found = w.op(
        kind,
        name,
        kernel_shape=[p["window_dimensions"][a] for a in axes],
        strides=[p["window_strides"][a] for a in axes],
        pads=pads,
        **attributes,
    )
    out = step.outs[0].shape
    if len(rest) != 2:
        found = w.reshape(found, [out[a] for a in order])
    return Laid(found, out, inverse(order))


def _array(w: Writer, value: Value) -> np.ndarray:
    array = w.known(value)
    assert array is not None
    return array


RULES: dict[str, Callable[[Writer, Step], list[Laid]]] = {
    **{"dot_general": dot_general, "conv_general_dilated": convolution},
    **{"reduce_window_sum": window_sum, "reduce_window_max": window_max},
    **{"reduce_window_min": window_min},
}
