"""What is written of an ONNX graph so far: nodes, constants, and where each value of a program is.

A transposition or a spreading over a larger shape is not written at once but kept with the value:
most operators take their operands as they lie, so that an image keeps the layout that convolutions
want from the first layer to the last.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

from cae_jax.serving.onnx.program import Body, Known, Value, shown
from cae_jax.types import CaeError

TYPES = {
    "float32": onnx.TensorProto.FLOAT,
    "float64": onnx.TensorProto.DOUBLE,
    "int8": onnx.TensorProto.INT8,
    "uint8": onnx.TensorProto.UINT8,
    "int32": onnx.TensorProto.INT32,
    "uint32": onnx.TensorProto.UINT32,
    "int64": onnx.TensorProto.INT64,
    "bool": onnx.TensorProto.BOOL,
}


class Laid(NamedTuple):
    """Where a value is: its axis a is axis perm[a] of the tensor of that name; a side of `shape`,
    which is the value's, may be 1 where the value only repeats itself."""

    name: str
    shape: tuple[int, ...]
    perm: tuple[int, ...]


@dataclasses.dataclass(eq=False)
class Constants:
    """The constants of a whole model, equal ones once."""

    tensors: dict[str, onnx.TensorProto] = dataclasses.field(default_factory=dict)
    names: int = 0  # that nodes have so far
    most: int = 2**31 - 2**24  # bytes: protobuf's limit, and room for the nodes
    _bytes: int = 0

    def add(self, array: np.ndarray) -> str:
        """Returns the name of a constant; raises CaeError where a file would be too large."""
        array = np.ascontiguousarray(array).reshape(array.shape)
        about = f"{array.dtype}{array.shape}".encode()
        name = "c_" + hashlib.sha256(about + array.tobytes()).hexdigest()[:16]
        if name not in self.tensors:
            self._bytes += array.nbytes
            if self._bytes > self.most:
                raise CaeError(
                    f"ONNX: {self._bytes / 1e9:.3g} GB of weights; a model holds at most "
                    f"{self.most / 1e9:.3g} GB"
                )
            self.tensors[name] = numpy_helper.from_array(array, name)
        return name


@dataclasses.dataclass(eq=False)
class Writer:
    """A graph, or one within a loop, which may use what is around it."""

    constants: Constants
    around: Writer | None = None
    nodes: list[onnx.NodeProto] = dataclasses.field(default_factory=list)
    _at: dict[int, Laid] = dataclasses.field(default_factory=dict)
    _made: dict[tuple, str] = dataclasses.field(default_factory=dict)
    _by: dict[str, tuple[str, tuple[str, ...]]] = dataclasses.field(default_factory=dict)
    _shown: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def new(self, hint: str) -> str:
        """Returns a name that nothing has."""
        self.constants.names += 1
        return f"{hint}_{self.constants.names}"

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Returns the output of a node; of an equal one, if there is one."""
        key = (kind, inputs, tuple(sorted((k, str(v)) for k, v in attributes.items())))
        found = self._before(key)
        if found is None:
            found = self._made[key] = self.ops(kind, inputs, 1, **attributes)[0]
            self._by[found] = (kind, inputs)
        return found

    def made_by(self, name: str) -> tuple[str, tuple[str, ...]] | None:
        """Returns the kind and the inputs of the node that `op` made of that output."""
        return self._by.get(name)

    def ops(self, kind: str, inputs: Sequence[str], count: int, **attributes: Any) -> list[str]:
        """Returns the outputs of a new node."""
        names = [self.new(kind) for _ in range(count)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, **attributes))
        return names

    def const(self, array: Any, dtype: Any = None) -> str:
        """Returns the name of a constant."""
        return self.constants.add(np.asarray(array, dtype))

    def ints(self, values: Sequence[int]) -> str:
        """Returns the name of a constant int64 [n]."""
        return self.const(np.array(values, np.int64))

    def put(self, value: Value, name: str) -> None:
        """Says that a value is the tensor of that name, whole and as it is."""
        self._at[id(value)] = plain(name, value.shape)

    def lay(self, value: Value, laid: Laid) -> None:
        """Says where a value is."""
        self._at[id(value)] = laid

    def known(self, value: Value) -> np.ndarray | None:
        """Returns a constant, which broadcasts to its value's shape; None of what is none."""
        if not isinstance(value, Known):
            return None
        if id(value) not in self._shown:
            type_of(value.dtype)
            self._shown[id(value)] = shown(value)
        return self._shown[id(value)]

    def laid(self, value: Value) -> Laid:
        """Returns where a value is."""
        array = self.known(value)
        if array is not None:
            return plain(self.const(array), array.shape)
        writer: Writer | None = self
        while writer is not None:
            if id(value) in writer._at:
                return writer._at[id(value)]
            writer = writer.around
        raise KeyError(value)

    def small(self, value: Value, perm: Sequence[int]) -> str:
        """Returns a tensor that broadcasts to a value, laid out so: axis a at perm[a]."""
        array = self.known(value)
        if array is not None:
            if array.size == 1:
                return self.const(array.reshape(()))
            return self.const(array.transpose(inverse(perm)))
        at = self.laid(value)
        if not at.shape or at.perm == tuple(perm):
            return at.name
        return self.transpose(at.name, [at.perm[a] for a in inverse(perm)])

    def ordered(self, value: Value, order: Sequence[int]) -> str:
        """Returns a value whole, its axes in that order."""
        array = self.known(value)
        if array is not None:
            return self.const(np.broadcast_to(array, value.shape).transpose(order))
        at = self.laid(value)
        name = self.transpose(at.name, [at.perm[a] for a in order])
        if at.shape == value.shape:
            return name
        return self.op("Expand", name, self.ints([value.shape[a] for a in order]))

    def full(self, value: Value) -> str:
        """Returns a value whole and as it is."""
        return self.ordered(value, range(len(value.shape)))

    def transpose(self, name: str, perm: Sequence[int]) -> str:
        """Returns a tensor transposed."""
        if list(perm) == list(range(len(perm))):
            return name
        return self.op("Transpose", name, perm=list(perm))

    def reshape(self, name: str, shape: Sequence[int]) -> str:
        """Returns a tensor of another shape."""
        return self.op("Reshape", name, self.ints(shape))

    def cast(self, name: str, dtype: Any) -> str:
        """Returns a tensor of another type."""
        return self.op("Cast", name, to=type_of(np.dtype(dtype)))

    def inner(self) -> Writer:
        """Returns what a graph within this one is written with."""
        return Writer(self.constants, self, _shown=self._shown)

    def _before(self, key: tuple) -> str | None:
        writer: Writer | None = self
        while writer is not None:
            if key in writer._made:
                return writer._made[key]
            writer = writer.around
        return None


def graph(
    writer: Writer, name: str, inputs: Sequence[tuple], outputs: Sequence[tuple]
) -> onnx.GraphProto:
    """Returns a graph within another, of (name, dtype, shape) of its inputs and outputs."""
    made = [helper.make_tensor_value_info(n, type_of(t), s) for n, t, s in inputs]
    given = [helper.make_tensor_value_info(n, type_of(t), s) for n, t, s in outputs]
    return helper.make_graph(live(writer.nodes, [n for n, _, _ in outputs]), name, made, given)


def live(nodes: Sequence[onnx.NodeProto], outputs: Sequence[str]) -> list[onnx.NodeProto]:
    """Returns the nodes that an output comes from."""
    wanted, kept = set(outputs), []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted |= read_by([node])
    return kept[::-1]


def read_by(nodes: Sequence[onnx.NodeProto]) -> set[str]:
    """Returns the names of all that nodes read, also within loops; not what these hold."""
    found: set[str] = set()
    for node in nodes:
        found.update(node.input)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                inner = attribute.g
                own = {tensor.name for tensor in inner.initializer}
                found |= (read_by(inner.node) | {output.name for output in inner.output}) - own
    return found


def of_body(
    writer: Writer, body: Body, name: str, more: Sequence[tuple] = (), first: Sequence[tuple] = ()
) -> onnx.GraphProto:
    """Returns the graph of a body that `writer` has the steps of; every output gets its own name.

    `more` and `first` are (name, dtype, shape) of inputs and outputs before the body's own.
    """
    ins = [(writer.laid(v).name, v.dtype, v.shape) for v in body.ins]
    outs = [(writer.ops("Identity", [writer.full(v)], 1)[0], v.dtype, v.shape) for v in body.outs]
    return graph(writer, name, [*more, *ins], [*first, *outs])


def plain(name: str, shape: Sequence[int]) -> Laid:
    """Returns that a value is a tensor as it is."""
    return Laid(name, tuple(shape), tuple(range(len(shape))))


def inverse(perm: Sequence[int]) -> tuple[int, ...]:
    """Returns the inverse of a permutation."""
    return tuple(int(i) for i in np.argsort(perm))


def size(shape: Sequence[int]) -> int:
    """Returns how many elements an array has."""
    return math.prod(shape)


def type_of(dtype: Any) -> int:
    """Returns ONNX's number of a type; raises CaeError for one that graphs cannot hold."""
    name = getattr(dtype, "name", str(dtype))
    if name not in TYPES:
        raise CaeError(f"ONNX: no arrays of {name} in a graph, of these only: {', '.join(TYPES)}")
    return TYPES[name]
