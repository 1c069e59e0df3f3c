"""Tensors of the Open Inference Protocol: out of a request's body, into an answer's.

A body is JSON, or by the binary tensor data extension JSON of the length that the header
Inference-Header-Content-Length says, with the tensors' bytes after it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from starlette.responses import Response

from cae_jax.data.frame import MAX_SIDE
from cae_jax.serving.service.answers import Answer, RefusedError
from cae_jax.serving.service.options import MAX_IMAGES, Options

LENGTH = "inference-header-content-length"
_DTYPES: dict[str, np.dtype[Any]] = {"UINT8": np.dtype(np.uint8), "FP32": np.dtype("<f4")}


class Asked(NamedTuple):
    """An inference request."""

    images: list[np.ndarray]  # [H, W, C], uint8 or float32
    outputs: list[tuple[str, bool]]  # names, and whether as binary data; [] for the usual ones
    binary: bool  # whether outputs are binary data where they do not say
    known: dict[str, str]  # what the answer repeats: the id


class Output(NamedTuple):
    """A tensor of an answer."""

    name: str
    datatype: str
    values: np.ndarray
    binary: bool


def json_length(headers: Mapping[str, str]) -> int | None:
    """Returns how much of a body is JSON, None for all; raises RefusedError for no number."""
    given = headers.get(LENGTH)
    if given is None:
        return None
    if not (given.isascii() and given.isdecimal()) or len(given) > 12:
        raise RefusedError(400, f"{LENGTH} is {given[:20]!r}, a number is expected")
    return int(given)


def parse(body: bytes, head: int | None, options: Options) -> Asked:
    """Returns what a body asks for; `head` is what `json_length` says of it.

    Raises RefusedError for everything that is no request of this protocol with one tensor `image`.
    """
    if head is not None and (head > len(body) or head > options.max_json):
        raise RefusedError(400, f"{LENGTH} is {head}; of the body's {len(body)} bytes at most "
                      f"{options.max_json} may be JSON")  # fmt: skip
    try:
        asked = json.loads(body if head is None else body[:head])
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
        raise RefusedError(400, f"the body is no JSON: {str(error)[:100]}") from None
    asked = _object("the body", asked)
    inputs = _list("inputs", asked.get("inputs"))
    if len(inputs) != 1:
        raise RefusedError(400, f"inputs has {len(inputs)} tensors, one named 'image' is expected")
    parameters = _object("parameters", asked.get("parameters", {}))
    binary = parameters.get("binary_data_output") is True
    outputs = []
    for each in _list("outputs", asked.get("outputs", [])):
        each = _object("an output", each)
        if not isinstance(name := each.get("name"), str):
            raise RefusedError(400, "an output without a name")
        given = _object("parameters", each.get("parameters", {}))
        outputs.append((name, given.get("binary_data", binary) is True))
    known = asked.get("id", "")
    if not isinstance(known, str) or len(known) > 1000:
        raise RefusedError(400, "id must be a string of at most 1000 characters")
    tail = b"" if head is None else body[head:]
    images = _images(_object("an input", inputs[0]), tail, options)
    return Asked(images, outputs, binary, {"id": known} if known else {})


def answer(known: Mapping[str, str], outputs: Sequence[Output]) -> Response:
    """Returns the response: JSON, and the bytes of outputs that are asked for as binary data."""
    described, tail = [], b""
    for name, datatype, values, binary in outputs:
        about: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if binary:
            little = values.astype(values.dtype.newbyteorder("<"))
            about["parameters"] = {"binary_data_size": little.nbytes}
            tail += little.tobytes()
        else:
            about["data"] = values.ravel().tolist()
        described.append(about)
    made = Answer({**known, "outputs": described})
    if not any(each.binary for each in outputs):
        return made
    head = bytes(made.body)
    return Response(
        head + tail, media_type="application/octet-stream", headers={LENGTH: str(len(head))}
    )


def _images(tensor: dict[str, Any], tail: bytes, options: Options) -> list[np.ndarray]:
    if tensor.get("name") != "image":
        raise RefusedError(400, "inputs must hold one tensor named 'image'")
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in _DTYPES:
        raise RefusedError(400, f"the datatype of 'image' must be one of {', '.join(_DTYPES)}")
    shape = _shape(tensor.get("shape"), options.max_pixels)
    size = _object("parameters", tensor.get("parameters", {})).get("binary_data_size")
    dtype = _DTYPES[datatype]
    n = math.prod(shape)
    if size is None:
        values = _numbers(tensor.get("data"), shape, dtype)
        if tail:
            raise RefusedError(400, f"{len(tail)} bytes behind the JSON that no tensor has")
    elif size != n * dtype.itemsize or len(tail) != size or isinstance(size, bool):
        raise RefusedError(
            400,
            f"binary_data_size, the {len(tail)} bytes behind the JSON and the shape {shape} "
            f"of {datatype} must agree",
        )
    else:
        values = np.frombuffer(tail, dtype)
    return list(values.reshape(shape if len(shape) == 4 else [1, *shape]))


def _shape(shape: Any, max_pixels: int) -> list[int]:
    sides = _list("shape", shape)
    whole = all(type(side) is int and 1 <= side <= MAX_SIDE for side in sides)
    if len(sides) not in (3, 4) or not whole or sides[-1] not in (1, 3):
        raise RefusedError(
            400,
            "the shape of 'image' must be [H, W, C] or [B, H, W, C], with C 1 or 3 and sides "
            f"from 1 to {MAX_SIDE}",
        )
    if len(sides) == 4 and sides[0] > MAX_IMAGES:
        raise RefusedError(413, f"{sides[0]} images in one request; {MAX_IMAGES} are the limit")
    if sides[-3] * sides[-2] > max_pixels:
        raise RefusedError(
            413, f"an image of {sides[-3] * sides[-2]} pixels; the limit is {max_pixels}"
        )
    return sides


def _numbers(data: Any, shape: list[int], dtype: np.dtype[Any]) -> np.ndarray:
    """The data of a tensor, flat or nested as the shape is."""
    try:
        nested = np.asarray(_list("data", data))
    except ValueError:  # ragged, or nested too deeply
        raise RefusedError(400, "data must be numbers, flat or nested evenly") from None
    values, n = nested.ravel(), math.prod(shape)
    if values.dtype.kind not in "iuf" or (dtype == np.uint8 and values.dtype.kind == "f"):
        raise RefusedError(400, f"data must be numbers of datatype {dtype.name}")
    if len(values) != n:
        raise RefusedError(400, f"data has {len(values)} numbers, the shape {n}")
    if nested.ndim > 1 and list(nested.shape) != shape:  # such as channels first
        raise RefusedError(400, f"data is nested as {list(nested.shape)}, the shape is {shape}")
    if dtype == np.uint8 and (values.min() < 0 or values.max() > 255):
        raise RefusedError(400, "data of UINT8 must lie within 0 and 255")
    with np.errstate(over="ignore"):  # infinite then, which is refused as any other
        return values.astype(dtype)


def _object(what: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(400, f"{what} must be an object")
    return value


def _list(what: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise RefusedError(400, f"{what} must be a list")
    return value
