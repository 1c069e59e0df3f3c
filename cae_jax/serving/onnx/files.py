"""ONNX models in a folder, weights that are many in a file of their own, once for all models."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx

from cae_jax.files import write_whole

WEIGHTS = "weights.bin"
LARGE = 64 * 2**20  # bytes of models together, above which their weights go to a file
_SMALLEST = 1024  # bytes of a constant that leaves its model
_ALIGNED = 4096  # bytes: a constant begins at a page, to be mapped from the file


def save(
    models: Mapping[str, onnx.ModelProto], folder: str | os.PathLike[str], large: int = LARGE
) -> list[str]:
    """Writes models, as NAME.onnx, each file whole or absent.

    Models of more than `large` bytes together share a file `weights.bin`, which must stay beside
    them; of smaller ones each holds its own weights.

    Returns:
      The names of the files.

    Raises:
      DataError: a file cannot be written.
    """
    folder, names = Path(folder), []
    if sum(model.ByteSize() for model in models.values()) > large:
        models, weights = _apart(models)
        write_whole(folder / WEIGHTS, weights)
        names.append(WEIGHTS)
    for name, model in models.items():
        write_whole(folder / f"{name}.onnx", model.SerializeToString(deterministic=True))
        names.append(f"{name}.onnx")
    return names


def _apart(models: Mapping[str, onnx.ModelProto]) -> tuple[dict[str, onnx.ModelProto], bytes]:
    """Copies of models without their larger constants, and these; equal ones have one name."""
    found: dict[str, onnx.ModelProto] = {}
    at: dict[str, int] = {}
    weights = bytearray()
    for name, model in models.items():
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        for tensor in _constants(copy.graph):
            if len(tensor.raw_data) < _SMALLEST:
                continue
            if tensor.name not in at:
                weights.extend(bytes(-len(weights) % _ALIGNED))
                at[tensor.name] = len(weights)
                weights.extend(tensor.raw_data)
            place = {
                "location": WEIGHTS,
                "offset": at[tensor.name],
                "length": len(tensor.raw_data),
            }
            tensor.ClearField("raw_data")
            tensor.data_location = onnx.TensorProto.EXTERNAL
            for key, value in place.items():
                tensor.external_data.add(key=key, value=str(value))
        found[name] = copy
    return found, bytes(weights)


def _constants(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Those of a graph and of its loops."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _constants(attribute.g)
