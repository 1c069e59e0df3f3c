"""Convolutions that were written as sums of shifted products, found again.

XLA fuses such a sum to one pass, and runs it faster than a convolution on a CPU: so the networks
have it for depthwise kernels, for images of one channel, and to few channels. ONNX Runtime would
make a pass for every tap; its convolutions are fast.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax import lax

from cae_jax.serving.onnx.program import Known, Step, Value, shown

_FEWEST = 3  # taps that make it worth a convolution
_LAYOUT = lax.ConvDimensionNumbers((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
_MAPS = 4  # axes: images, rows, columns, channels


class _Tap(NamedTuple):
    """One product: of a shifted view of `source`, by `kernel` [inputs, outputs]."""

    source: Value
    at: tuple[int, int]
    stride: tuple[int, int]
    kernel: np.ndarray
    groups: int


def convolution(step: Step, of: dict[int, Step]) -> Step | None:
    """Returns an addition as the convolution that it is the last step of, or None; `of` says by
    identity which step a value comes from."""
    if len(step.outs[0].shape) != _MAPS:
        return None
    taps: list[_Tap] = []
    for leaf in _leaves(step, of):
        tap = _tap(leaf, of)
        if tap is None or (taps and _differ(taps[0], tap)):
            return None
        taps.append(tap)
    if len(taps) < _FEWEST:
        return None
    source, stride, groups, out = taps[0].source, taps[0].stride, taps[0].groups, step.outs[0]
    first = [min(t.at[a] for t in taps) for a in (0, 1)]
    sides = [max(t.at[a] for t in taps) - first[a] + 1 for a in (0, 1)]
    kernel = np.zeros((*sides, *taps[0].kernel.shape), np.float32)
    for tap in taps:
        kernel[tap.at[0] - first[0], tap.at[1] - first[1]] += tap.kernel
    source, before = _unpadded(source, of)
    pads = []
    for a in (0, 1):
        low = before[a] - first[a]
        n = source.shape[1 + a]
        reach = (out.shape[1 + a] - 1) * stride[a] + sides[a]
        pads.append((low, reach - n - low))
    known = Known(kernel.shape, kernel.dtype, kernel)
    params = {
        **{"window_strides": stride, "padding": pads, "lhs_dilation": (1, 1)},
        **{"rhs_dilation": (1, 1), "dimension_numbers": _LAYOUT},
        **{"feature_group_count": groups, "batch_group_count": 1},
    }
    return Step("conv_general_dilated", params, [source, known], [out])


def _differ(one: _Tap, other: _Tap) -> bool:
    same = one.stride == other.stride and one.groups == other.groups
    return one.source is not other.source or not same or one.kernel.shape != other.kernel.shape


def _leaves(step: Step, of: dict[int, Step]) -> list[Value]:
    """What an addition, and those before it, add."""
    found, left = [], list(step.ins)
    while left:
        value = left.pop()
        before = of.get(id(value))
        if before is not None and before.name == "add":
            left += before.ins
        else:
            found.append(value)
    return found


def _tap(value: Value, of: dict[int, Step]) -> _Tap | None:
    step = of.get(id(value))
    if step is None or step.outs[0].dtype != np.float32:
        return None
    if step.name == "mul":
        for view, factor in (step.ins, step.ins[::-1]):
            if isinstance(factor, Known) and len(factor.shape) == _MAPS:
                return _of_product(view, factor, value.shape, of)
    if step.name in ("squeeze", "reshape"):
        return _of_matrix(step, of)
    return None


def _of_product(
    view: Value, factor: Known, shape: tuple[int, ...], of: dict[int, Step]
) -> _Tap | None:
    """A view of all channels times a number of each, or of the one channel times many."""
    array, step = shown(factor), of.get(id(view))
    outputs = shape[3]
    if any(n != 1 for n in array.shape[:3]):
        return None
    if step is not None and step.name == "broadcast_in_dim":
        if tuple(step.params["broadcast_dimensions"]) != (0, 1, 2, 3):
            return None
        view = step.ins[0]
        step = of.get(id(view))
    if step is None or step.name != "slice" or view.shape[:3] != shape[:3]:
        return None
    source = step.ins[0]
    if view.shape[3] not in (1, outputs) or view.shape[3] != source.shape[3]:
        return None
    cut = _cut(step)
    if cut is None:
        return None
    kernel = np.broadcast_to(array.reshape(1, -1), (1, outputs))
    return _Tap(source, *cut, kernel, view.shape[3])


def _of_matrix(step: Step, of: dict[int, Step]) -> _Tap | None:
    """What one tap's part of a product of all pixels with all taps gives."""
    shape, at, value = step.outs[0].shape, [0] * (_MAPS + 1), step.ins[0]
    if value.shape != (*shape[:3], 1, shape[3]):
        return None
    while (cut := of.get(id(value))) is not None and cut.name == "slice":
        if any(n != 1 for n in cut.params["strides"] or ()):
            return None
        at = [a + b for a, b in zip(at, cut.params["start_indices"], strict=True)]
        value = cut.ins[0]
    if value.shape[0] != shape[0] or value.shape[4] != shape[3]:
        return None
    whole, before = _unpadded(value, of)
    made = of.get(id(whole))
    product = of.get(id(made.ins[0])) if made and made.name == "reshape" else None
    if product is None or product.name != "dot_general":
        return None
    x, matrix = product.ins
    (lc, rc), (lb, _) = product.params["dimension_numbers"]
    if not isinstance(matrix, Known) or tuple(lc) != (3,) or lb or len(x.shape) != _MAPS:
        return None
    if x.shape[:3] != whole.shape[:3]:
        return None
    array = np.moveaxis(np.broadcast_to(shown(matrix), matrix.shape), rc[0], 0)
    kernel = array.reshape(x.shape[3], -1, shape[3])[:, at[3]]
    return _Tap(x, (at[1] - before[0], at[2] - before[1]), (1, 1), kernel, 1)


def _cut(step: Step) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Where a slice begins and its steps, down and right, if it is whole in images."""
    p, source = step.params, step.ins[0]
    strides = p["strides"] or (1,) * len(source.shape)
    whole = step.outs[0].shape[0] == source.shape[0] and strides[0] == strides[3] == 1
    if not whole:
        return None
    return tuple(p["start_indices"][1:3]), tuple(strides[1:3])


def _unpadded(value: Value, of: dict[int, Step]) -> tuple[Value, list[int]]:
    """What was padded with zeros, rows and columns alone, and by how many before."""
    before = [0, 0]
    while True:
        step = of.get(id(value))
        if step is None or step.name != "pad" or not _of_zeros(step):
            return value, before
        config = step.params["padding_config"]
        for a in (0, 1):
            before[a] += config[1 + a][0]
        value = step.ins[0]


def _of_zeros(step: Step) -> bool:
    filling, config = step.ins[1], step.params["padding_config"]
    spatial = all(c == (0, 0, 0) for a, c in enumerate(config) if a not in (1, 2))
    grows = all(low >= 0 and high >= 0 and not between for low, high, between in config)
    return isinstance(filling, Known) and not shown(filling).any() and spatial and grows
