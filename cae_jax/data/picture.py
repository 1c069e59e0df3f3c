"""An image as its file holds it: true values, which value is white, and what is transparent."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from cae_jax.data.frame import MAX_SIDE
from cae_jax.types import DataError

MAX_PIXELS = 2**27

_ORIENTATION = 0x0112  # EXIF 2.3, section 4.6.4


class Picture(NamedTuple):
    """What was decoded, as a viewer shows it: upright, black is 0."""

    values: np.ndarray  # [H, W] gray or [H, W, 3] RGB; integers, or float whose white is 1
    white: int  # the value of white; 0 where neither the file nor the type of its values says
    stated: bool = True  # False: 16 bits of which the file does not say how many are used
    alpha: np.ndarray | None = None  # float32 [H, W] in [0, 1], straight; None: opaque
    entries: np.ndarray | None = None  # [H, W] entries of a palette, where it has one
    lossy: bool = False  # compressed so that levels are near the true ones, not equal
    without: str = ""  # what of the file is not here, in words


class Opened(NamedTuple):
    """A file whose header is read: (height, width) as stored, and how to get at the rest."""

    height: int
    width: int
    orientation: int  # of EXIF, 1 to 8
    load: Callable[[], Picture]  # as stored, not upright

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels, upright."""
        turned = self.orientation >= 5
        return (self.width, self.height) if turned else (self.height, self.width)

    def picture(self) -> Picture:
        """Decodes the pixels; raises nearly anything where they are damaged."""
        found = self.load()
        if self.orientation == 1:
            return found

        def turned(array: np.ndarray | None) -> np.ndarray | None:
            return None if array is None else upright(array, self.orientation)

        return found._replace(
            values=upright(found.values, self.orientation),
            alpha=turned(found.alpha),
            entries=turned(found.entries),
        )


def check_limits(height: int, width: int, limit: int = MAX_PIXELS) -> None:
    """Raises DataError for a header that promises no pixels, or too many."""
    if min(width, height) < 1:
        raise DataError(f"has no pixels: {width} x {height}")
    if max(width, height) > MAX_SIDE or width * height > limit:
        raise DataError(
            f"is {width} x {height} pixels; the limits are {MAX_SIDE} a side and {limit} in all"
        )


def upright(array: np.ndarray, orientation: int) -> np.ndarray:
    """Returns an array [H, W, ...] turned as EXIF's orientation (1 to 8) says."""
    if orientation >= 5:
        array = array.swapaxes(0, 1)
    down = -1 if orientation in (3, 4, 7, 8) else 1
    right = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(array[::down, ::right])


def orientation(exif: bytes | None) -> int:
    """Returns the orientation that EXIF metadata gives; 1 without any, or of damaged metadata.

    Read here, since Pillow warns of much that is odd in the rest of it.
    """
    exif = (exif or b"").removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", exif, 4)
        (count,) = struct.unpack_from(order + "H", exif, start)
        for i in range(count):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", exif, start + 2 + 12 * i)
            if tag == _ORIENTATION:
                return value if kind == 3 and 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def opaque(alpha: np.ndarray, full: float) -> np.ndarray | None:
    """Returns alpha [H, W] as float32 in [0, 1]; None where every pixel is opaque."""
    return None if (alpha >= full).all() else (alpha / full).astype(np.float32)


def differs(values: np.ndarray, color: int | tuple[int, ...]) -> np.ndarray | None:
    """Returns alpha where one color of `values` [H, W] or [H, W, 3] is the transparent one."""
    same = values == np.array(color).astype(values.dtype)
    same = same.all(axis=-1) if same.ndim == 3 else same
    return opaque(~same, 1)
