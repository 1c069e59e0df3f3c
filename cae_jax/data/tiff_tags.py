"""The directories of TIFF 6.0 and BigTIFF: what a page says of its own pixels.

Only the tags that pixels depend on are read, so that nothing else in a file can refuse it or have
a word said of it.
"""

from __future__ import annotations

import dataclasses
import struct
from typing import Any, BinaryIO

from cae_jax.types import DataError

_FORMS = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i", 13: "I", 16: "Q", 17: "q", 18: "Q"}
_BYTES = (2, 7)  # ASCII, UNDEFINED
_SIZES = {2: 1, 7: 1} | {kind: struct.calcsize(form) for kind, form in _FORMS.items()}
_MOST_PAGES = 64
_FIELDS = {
    "subfile": 254,
    "width": 256,
    "height": 257,
    "bits": 258,
    "compression": 259,
    "photometric": 262,
    "fill_order": 266,
    "description": 270,
    "strip_offsets": 273,
    "orientation": 274,
    "samples": 277,
    "rows_per_strip": 278,
    "strip_counts": 279,
    "max_sample": 281,
    "planar": 284,
    "t4_options": 292,
    "t6_options": 293,
    "predictor": 317,
    "color_map": 320,
    "tile_width": 322,
    "tile_height": 323,
    "tile_offsets": 324,
    "tile_counts": 325,
    "inner": 330,
    "ink_set": 332,
    "extra": 338,
    "sample_format": 339,
    "largest": 341,
    "jpeg_tables": 347,
    "subsampling": 530,
}
_LISTS = frozenset(
    [*("bits", "strip_offsets", "strip_counts", "tile_offsets", "tile_counts", "color_map"),
     *("extra", "sample_format", "max_sample", "largest", "subsampling")]
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Page:
    """One directory, with the defaults of the specification; names are its tags'."""

    width: int
    height: int
    subfile: int = 0
    bits: tuple[int, ...] = (1,)
    compression: int = 1
    photometric: int = -1
    fill_order: int = 1
    description: bytes = b""
    strip_offsets: tuple[int, ...] = ()
    orientation: int = 1
    samples: int = 1
    rows_per_strip: int = 2**32 - 1
    strip_counts: tuple[int, ...] = ()
    max_sample: tuple[int, ...] = ()
    planar: int = 1
    t4_options: int = 0
    t6_options: int = 0
    predictor: int = 1
    color_map: tuple[int, ...] = ()
    tile_width: int = 0
    tile_height: int = 0
    tile_offsets: tuple[int, ...] = ()
    tile_counts: tuple[int, ...] = ()
    inner: int = 0  # where a directory of its own, not in the row of pages, begins
    ink_set: int = 1
    extra: tuple[int, ...] = ()
    sample_format: tuple[int, ...] = (1,)
    largest: tuple[int, ...] = ()
    jpeg_tables: bytes = b""
    subsampling: tuple[int, ...] = (2, 2)

    @property
    def tiled(self) -> bool:
        """Whether its pixels are in tiles, not in strips."""
        return bool(self.tile_width and self.tile_height)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where the strips or tiles begin in the file."""
        return self.tile_offsets or self.strip_offsets

    @property
    def counts(self) -> tuple[int, ...]:
        """How many bytes each has."""
        return self.tile_counts or self.strip_counts


def pages(file: BinaryIO) -> tuple[str, list[Page]]:
    """Returns the byte order, "<" or ">", and the pages of a file.

    Raises DataError for more than 64 pages or a directory that is cut off.
    """
    file.seek(0)
    head = file.read(16)
    order = "<" if head[:2] == b"II" else ">"
    big = head[2:4] in (b"+\0", b"\0+")
    at = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)[0]
    found: list[Page] = []
    seen = set()
    while at and at not in seen:  # a damaged file may point back
        if len(found) == _MOST_PAGES:
            raise DataError(f"has more than {_MOST_PAGES} pages; one picture is expected")
        seen.add(at)
        page, at = _directory(file, at, order, big)
        found.append(page)
    return order, found


def _directory(file: BinaryIO, at: int, order: str, big: bool) -> tuple[Page, int]:
    word, entry, inside = ("Q", 20, 8) if big else ("I", 12, 4)
    file.seek(at)
    (count,) = struct.unpack(order + ("Q" if big else "H"), _read(file, 8 if big else 2))
    if count > 4096:
        raise DataError("is a TIFF whose directory is damaged")
    block = _read(file, count * entry)
    after = struct.unpack(order + word, file.read(inside).ljust(inside, b"\0"))[0]
    raw = {}
    for i in range(count):
        tag, kind, n = struct.unpack_from(f"{order}HH{word}", block, i * entry)
        raw[tag] = (kind, n, block[i * entry + entry - inside : (i + 1) * entry])
    values: dict[str, Any] = {}
    for name, tag in _FIELDS.items():
        kind, n, content = raw.get(tag, (0, 0, b""))
        if kind not in _SIZES or not n:
            continue
        size = n * _SIZES[kind]
        if size > inside:
            file.seek(struct.unpack(order + word, content)[0])
            content = file.read(size)
            if len(content) < size:
                if name == "description":
                    continue
                raise DataError(f"is cut off or damaged: TIFF tag {tag} lies behind its end")
        content = content[:size]
        numbers = content if kind in _BYTES else struct.unpack(f"{order}{n}{_FORMS[kind]}", content)
        as_bytes = name in ("description", "jpeg_tables")
        if as_bytes != isinstance(numbers, bytes):
            numbers = bytes(numbers) if as_bytes and kind == 1 else tuple(numbers)
        values[name] = numbers if as_bytes or name in _LISTS else numbers[0]
    if "width" not in values or "height" not in values:
        raise DataError("is a TIFF whose directory has no size of a picture")
    return Page(**values), after


def _read(file: BinaryIO, size: int) -> bytes:
    content = file.read(size)
    if len(content) < size:
        raise DataError("is a TIFF that is cut off before its directory ends")
    return content
