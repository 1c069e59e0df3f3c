"""Files that are whole or absent, and arrays that memory may not hold."""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import json
import math
import mmap
import os
import re
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import numpy as np

from cae_jax.types import DataError, Images, Levels

if TYPE_CHECKING:  # half a second to import, which loading a model need not wait
    import pandas as pd

BOM = "\ufeff"  # the mark by which Excel knows UTF-8
_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")
HELD = AUTO, MEMORY, DISK = ("auto", "memory", "disk")  # where a large array lies
_PART = 8  # of the memory that is free: a larger array lies in a file
_UNKNOWN = 2**33  # bytes that are taken to be free where the system does not say
_WINDOWS = os.name == "nt"
_WAITS = (0.01, 0.03, 0.1, 0.3, 1.0)  # seconds before another try, on Windows alone
_LONGEST = 255  # bytes of a file's name
_AT_ONCE = 16  # images copied at a time
_ALIGNED = 64  # bytes: of an array that begins at a multiple of it JAX makes no copy on a CPU


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file so that `path` holds all of `content` or what it held before.

    Text is written as UTF-8. Raises DataError where the file cannot be written (no such folder,
    no permission, no space left).
    """
    path = Path(path)
    # surrogateescape: a file name that is no UTF-8 reads back as the same name
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    begin = _beginning(path.name, _LONGEST - 64)  # the whole may be as long as a name can be
    beside = path.with_name(f".{begin}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        replace(beside, path)
    except OSError as error:
        raise DataError(f"{str(path)!r}: cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def replace(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Gives a file or a folder another name; a file replaces a file of that name.

    Windows refuses it while a program has either open, a reader or a virus scanner, mostly for a
    moment: there it is tried again for a second or so. Raises OSError where it cannot be done.
    """
    for wait in _WAITS if _WINDOWS else ():
        try:
            os.replace(source, target)
            return
        except PermissionError:
            time.sleep(wait)
    os.replace(source, target)


def not_utf8(path: str | os.PathLike[str]) -> str:
    """Returns what to do about a path that is not UTF-8, as checkpoints need; "" for one that is.

    Bytes that are not are lone surrogates to Python, as all beyond ASCII are in some locales.
    """
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        encoding = sys.getfilesystemencoding()
        what = f"file names are taken as {encoding} here, which PYTHONUTF8=1 changes"
        what = "rename the folder" if encoding == "utf-8" else what
        return f"the name is not UTF-8; {what}"
    return ""


def encoding(content: bytes) -> str:
    """Returns how text that begins with ASCII is written, "utf-16", "utf-16-be", "utf-16-le" or
    "utf-8-sig": by its mark; without one, what has a zero in its first character is UTF-16."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if content[:1] == b"\0":
        return "utf-16-be"
    return "utf-16-le" if content[1:2] == b"\0" else "utf-8-sig"


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Writes nested dicts, sequences, NumPy arrays and scalars as JSON.

    JSON knows no such numbers: NaN is null, infinity the text "inf" or "-inf", as `float` reads it.
    Raises DataError where the file cannot be written.
    """
    write_whole(path, json.dumps(_plain(value), indent=2, allow_nan=False) + "\n")


def write_csv(path: str | os.PathLike[str], frame: pd.DataFrame, excel: bool = False) -> None:
    """Writes a table without its index; floats read back to the last bit, NaN is an empty field.

    With `excel` it begins with a byte order mark, by which Excel knows UTF-8, and text that a
    spreadsheet would take for a formula has an apostrophe before it, see `no_formula`; `read_csv`
    takes both away. Raises DataError where the file cannot be written.
    """
    if excel:
        frame = frame.map(lambda each: no_formula(each) if isinstance(each, str) else each)
    text = frame.to_csv(index=False, lineterminator="\n")
    if "\r" in text:  # a bare one ends the line for a reader; Python below 3.13 does not quote it
        text = frame.to_csv(index=False, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    write_whole(path, BOM + text if excel else text)


def read_csv(path: str | os.PathLike[str]) -> pd.DataFrame:
    """Returns a table of `write_csv` as text, an empty field as "".

    Raises OSError where it cannot be read, ValueError where it is no table.
    """
    import pandas as pd

    frame = pd.read_csv(
        path,
        dtype=object,
        keep_default_na=False,  # a name may be "none"
        encoding="utf-8",
        encoding_errors="surrogateescape",
    )
    with open(path, "rb") as file:
        excel = file.read(3) == BOM.encode()
    return frame.map(as_it_was) if excel else frame


def no_formula(text: str) -> str:
    """Returns text with an apostrophe before it where a spreadsheet would compute what it says: it
    begins with = + - @, a tab or a line's end, or with apostrophes and then one of these."""
    return f"'{text}" if _FORMULA.match(text) else text


def as_it_was(cell: str) -> str:
    """Returns what `no_formula` was given."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def fitting(name: str, suffix: str) -> str:
    """Returns `name` with a suffix as a file's name, which has no more than 255 bytes: of a longer
    one as many letters as fit, ~, and 16 digits of its SHA-256, so that it stays one of its own."""
    if len(os.fsencode(name + suffix)) <= _LONGEST:
        return name + suffix
    end = f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{suffix}"
    return _beginning(name, _LONGEST - len(os.fsencode(end))) + end


def large_array(shape: Sequence[int], dtype: Any = np.float32, held: str = AUTO) -> np.ndarray:
    """Returns an array to write to, its values unset, which may be larger than memory.

    One of more than an eighth of the memory that is free lies in a file, which the system writes
    and reads in pieces as it needs memory. The file has no name and ends with the array. It is in
    the folder that TMPDIR names, or in /var/tmp, which unlike /tmp is never kept in memory.

    Args:
      shape: of the array.
      dtype: of its values.
      held: where it lies, one of HELD: as above, or in any case in memory, or in a file.

    Raises:
      DataError: that folder has too little room, or memory.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    if in_a_file(size, held):
        return np.frombuffer(_mapped(size), dtype).reshape(shape)
    if size > (free := free_memory()):
        raise DataError(
            f"no memory for {size / 1e9:.3g} GB of images or their features, {free / 1e9:.3g} GB "
            "are free; --images_in=disk keeps them in a file, a smaller --image_size needs less"
        )
    whole = np.empty(size + _ALIGNED, np.uint8)
    begin = -whole.ctypes.data % _ALIGNED
    return whole[begin : begin + size].view(dtype).reshape(shape)


def in_a_file(size: int, held: str = AUTO) -> bool:
    """Whether a `large_array` of so many bytes lies in a file; of none it never does."""
    return bool(size) and (held == DISK or (held == AUTO and size > free_memory() // _PART))


def where(array: Images) -> str:
    """Returns where an array or `Levels` lie, MEMORY or DISK."""
    base: Any = array.values if isinstance(array, Levels) else array
    while isinstance(base, np.ndarray):
        base = base.base
    base = base.obj if isinstance(base, memoryview) else base
    return DISK if isinstance(base, mmap.mmap) else MEMORY


def folder_of_arrays() -> str:
    """Returns the folder of such files."""
    folder = os.environ.get("TMPDIR") or "/var/tmp"
    return folder if os.access(folder, os.W_OK) else tempfile.gettempdir()


@overload
def rows(array: np.ndarray, which: np.ndarray) -> np.ndarray: ...
@overload
def rows(array: Images, which: np.ndarray) -> Images: ...
def rows(array: Images, which: np.ndarray) -> Images:
    """Returns array[which], of places or of bools [n], of the same kind, where that lies."""
    if isinstance(array, Levels):
        return Levels(rows(array.values, which), array.white)
    array = np.asarray(array)
    places = np.arange(len(array))[which]
    found = large_array((len(places), *array.shape[1:]), array.dtype, where(array))
    # all places are there; with mode="raise" NumPy would hold the rows a second time
    return np.take(array, places, axis=0, out=found, mode="clip")


@overload
def joined(arrays: Sequence[np.ndarray], held: str = AUTO) -> np.ndarray: ...
@overload
def joined(arrays: Sequence[Images], held: str = AUTO) -> Images: ...
def joined(arrays: Sequence[Images], held: str = AUTO) -> Images:
    """Returns arrays [n, ...], one after the other, as a `large_array`; one alone as it is, and
    `Levels` of one white as such."""
    if len(arrays) == 1:
        return arrays[0]
    levels = [each for each in arrays if isinstance(each, Levels)]
    kinds = {(each.white, each.values.dtype) for each in levels}
    if len(levels) == len(arrays) and len(kinds) == 1:
        return Levels(joined([each.values for each in levels], held), levels[0].white)
    shape = (sum(map(len, arrays)), *arrays[0].shape[1:])
    found, at = large_array(shape, getattr(arrays[0], "dtype", np.float32), held), 0
    for array in arrays:
        copy(array, found[at : at + len(array)])
        at += len(array)
    return found


def real(images: Images) -> np.ndarray:
    """Returns images as an array float32: of `Levels` a new one, where these lie."""
    if not isinstance(images, Levels):
        return np.asarray(images)
    found = large_array(images.shape, np.float32, where(images))
    copy(images, found)
    return found


def copy(images: Images, to: np.ndarray) -> None:
    """Writes images [n, ...] to an array, a few at a time."""
    for i in range(0, len(images), _AT_ONCE):
        to[i : i + _AT_ONCE] = images[i : i + _AT_ONCE]


def _mapped(size: int) -> mmap.mmap:
    folder = folder_of_arrays()
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # a hole in it could find no room later
                os.posix_fallocate(file.fileno(), 0, size)
            elif shutil.disk_usage(folder).free < size:
                raise OSError(0, "no room")
            else:
                file.truncate(size)
            return mmap.mmap(file.fileno(), size)
    except OSError as error:
        free = shutil.disk_usage(folder).free
        raise DataError(
            f"{folder}: no room for {size / 1e9:.3g} GB of images or their features, which memory "
            f"does not hold ({error.strerror}), {free / 1e9:.3g} GB are free; TMPDIR=FOLDER names "
            "another folder, a smaller --image_size needs less"
        ) from error


def free_memory() -> int:
    """Returns the bytes that may be taken without another program's loss."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        with open("/proc/meminfo", encoding="ascii") as lines:
            line = next(line for line in lines if line.startswith("MemAvailable:"))
        return min(int(line.split()[1]) * 1024, *_limits())
    return _UNKNOWN


def _limits() -> list[int]:
    """What a container grants, in bytes, by either kind of control group."""
    found = [2**63]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            found.append(int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii")))
    return found


def _beginning(name: str, size: int) -> str:
    """The letters that fit into so many bytes."""
    whole = os.fsencode(name)
    return name if len(whole) <= size else whole[:size].decode("utf-8", "ignore")


def _plain(value: Any) -> Any:
    """What json can write of `value`."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | np.ndarray):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else str(value)
    return value
