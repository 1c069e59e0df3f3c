"""The first nodes of a graph: images of any size at the model's, see `scoring.resize`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cae_jax.serving.onnx.program import Value
from cae_jax.serving.onnx.writer import Laid, Writer, graph


def fits(w: Writer, images: str, size: Sequence[int]) -> str:
    """Returns the name of a bool: images [B, H, W, C] are of that height and width already."""
    shape = w.op("Shape", images)
    same = [
        w.op("Equal", _side(w, shape, axis), w.const(side, np.int64))
        for axis, side in zip((1, 2), size, strict=True)
    ]
    return w.op("And", *same)


def kept(w: Writer, value: Value, image: str) -> None:
    """Says that a value, [1, S, T, C], is an image [S, T, C]."""
    _, height, width, channels = value.shape
    planes = w.reshape(w.op("Transpose", image, perm=[2, 0, 1]), (1, channels, height, width))
    w.lay(value, Laid(planes, value.shape, (0, 2, 3, 1)))


def resized(w: Writer, value: Value, image: str, as_it_is: str) -> None:
    """Says that a value, [1, S, T, C], is an image [H, W, C] resized, if it has to be."""
    _, height, width, channels = value.shape
    planes = w.op("Transpose", image, perm=[2, 0, 1])
    shape = (channels, height, width)
    same, other = w.inner(), w.inner()
    kept, size = same.op("Identity", planes), other.op("Shape", planes)
    down = _weights(other, _side(other, size, 1), height)
    across = other.op("Transpose", _weights(other, _side(other, size, 2), width), perm=[1, 0])
    made = other.op("MatMul", other.op("MatMul", down, planes), across)
    branches = [
        graph(inner, name, [], [(output, value.dtype, shape)])
        for inner, name, output in ((same, "as_it_is", kept), (other, "resized", made))
    ]
    found = w.ops("If", [as_it_is], 1, then_branch=branches[0], else_branch=branches[1])[0]
    w.lay(value, Laid(w.reshape(found, (1, *shape)), value.shape, (0, 2, 3, 1)))


def _side(w: Writer, shape: str, axis: int) -> str:
    return w.op("Gather", shape, w.const(axis, np.int64), axis=0)


def _weights(w: Writer, inside: str, out: int) -> str:
    """`scoring.resize.weights`, the numbers whole until the last step."""
    zero, one, two = (w.const(n, np.int64) for n in (0, 1, 2))
    wanted = w.const(out, np.int64)
    at = w.op("Add", w.op("Mul", w.op("Range", zero, inside, one), two), one)
    to = w.const(2 * np.arange(out)[:, None] + 1, np.int64)
    apart = w.op("Abs", w.op("Sub", w.op("Mul", at, wanted), w.op("Mul", to, inside)))
    reach = w.op("Mul", w.op("Max", inside, wanted), two)
    shares = w.cast(w.op("Max", w.op("Sub", reach, apart), zero), "float32")
    return w.op("Div", shares, w.op("ReduceSum", shares, w.ints([1]), keepdims=1))
