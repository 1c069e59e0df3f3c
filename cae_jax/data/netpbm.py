"""PBM, PGM and PPM, whose header names the value of white (https://netpbm.sourceforge.net/doc/)."""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np

from cae_jax.data.picture import Opened, Picture
from cae_jax.types import DataError

_SPACE = rb"(?:\s|#[^\r\n]*[\r\n])+"
_HEADER = 4096  # bytes that a header with its comments may take


def open_netpbm(file: BinaryIO) -> Opened:
    """Reads the header of P1 to P6; `load` raises DataError for too few pixels or one over white.

    Raises:
      DataError: a damaged header.
    """
    head = file.read(_HEADER)
    kind = int(head[1:2])
    bitmap = kind in (1, 4)
    fields = _SPACE + _SPACE.join([rb"(\d{1,9})"] * (2 if bitmap else 3))
    found = re.match(rb"P[1-6]" + fields + rb"(?:#[^\r\n]*)?\s", head)
    if found is None:
        raise DataError("is a PBM, PGM or PPM whose header is damaged")
    width, height, white = (int(group) for group in [*found.groups(), b"1"][:3])
    if not 1 <= white <= 65535:
        raise DataError(f"is a PGM or PPM whose white is {white}; it must be 1 to 65535")
    channels = 3 if kind in (3, 6) else 1
    shape = (height, width, 3) if channels == 3 else (height, width)

    def load() -> Picture:
        file.seek(found.end())
        if kind == 4:
            rows = _binary(file, (height, -(-width // 8)), np.dtype(np.uint8))
            values = 1 - np.unpackbits(rows, axis=1)[:, :width]  # 1 is black
        elif kind >= 5:
            values = _binary(file, shape, np.dtype(np.uint8 if white < 256 else ">u2"))
        else:
            values = _plain(file.read(), shape, bitmap)
        if values.max() > white:
            raise DataError(f"has a value of {values.max()}, and its header says white is {white}")
        return Picture(values.astype(np.uint8 if white < 256 else np.uint16), white)

    return Opened(height, width, 1, load)


def _binary(file: BinaryIO, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    count = int(np.prod(shape))
    content = file.read(count * dtype.itemsize)
    if len(content) < count * dtype.itemsize:
        raise DataError(f"is cut off: {len(content)} of {count * dtype.itemsize} bytes of pixels")
    return np.frombuffer(content, dtype).reshape(shape)


def _plain(text: bytes, shape: tuple[int, ...], bitmap: bool) -> np.ndarray:
    text = re.sub(rb"#[^\r\n]*", b"", text)
    count = int(np.prod(shape))
    # the digits of a bitmap may stand without spaces
    words = re.findall(rb"[01]", text) if bitmap else text.split()
    if len(words) < count or (not bitmap and not all(word.isdigit() for word in words[:count])):
        raise DataError(f"is cut off or damaged: {count} numbers are expected")
    values = np.array(words[:count]).astype(np.int64).reshape(shape)
    return 1 - values if bitmap else values
