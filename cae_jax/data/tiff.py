"""TIFF: every layout of its samples, to their true values.

Pillow knows pixels of few layouts and misreads planes of 16 bits; tifffile unpacks neither LZW nor
12-bit words without the 26 MB of imagecodecs. So samples are put together here from strips and
tiles, and what is compressed is handed to Pillow's libtiff one strip at a time, as a small TIFF of
its own: bytes for LZW and its kin, pixels for JPEG and fax.
"""

from __future__ import annotations

import dataclasses
import io
import lzma
import re
import struct
import zlib
from collections.abc import Sequence
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cae_jax.data import tiff_tags
from cae_jax.data.picture import Opened, Picture, check_limits, opaque
from cae_jax.data.tiff_tags import Page
from cae_jax.types import DataError

_WHITE_IS_ZERO, _BLACK_IS_ZERO, _RGB, _PALETTE, _CMYK, _YCBCR, _LAB = 0, 1, 2, 3, 5, 6, 8
_NONE, _JPEG, _WEBP = 1, 7, 50001
_DEFLATE, _LZMA = (8, 32946), (34925,)
_BYTES = (5, 32773, 50000)  # LZW, PackBits, Zstandard
_FAX = (2, 3, 4)  # by CCITT
_PICTURES = (*_FAX, _JPEG, _WEBP)
_CHANNELS = {_RGB: 3, _CMYK: 4, _YCBCR: 3, _LAB: 3}  # without alpha; any other has 1
_MODES = {_CMYK: "CMYK", _YCBCR: "YCbCr", _LAB: "LAB"}
_NAMES = {  # of what is refused
    "compression": {
        **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
        **dict.fromkeys((50002, 52546), "JPEG XL"),
        **{6: "JPEG of the old kind", 34887: "LERC", 34892: "lossy JPEG of DNG"},
        **{34933: "PNG", 34934: "JPEG XR"},
    },
    "photometric": {
        4: "a transparency mask",
        32803: "a camera's raw ones (CFA)",
        34892: "raw ones",
    },
}
_UINT, _INT, _FLOAT, _UNDEFINED = 1, 2, 3, 4  # SampleFormat
_PREMULTIPLIED, _STRAIGHT = 1, 2  # ExtraSamples
_REDUCED, _MASK = 1, 4  # bits of NewSubfileType

# Tags of a TIFF to be written: by code, their type (3: 16 bits, 4: 32, 7: bytes) and values.
_Tags = dict[int, tuple[int, Sequence[int] | bytes]]


def open_tiff(file: BinaryIO) -> Opened:
    """Reads the directories; what `load` cannot decode it refuses by name.

    Of several pages the picture is the one that is not marked as a preview or a mask, or the first
    if it is larger than each of the others.

    Raises:
      DataError: pages that could all be meant, or none; a damaged directory.
    """
    order, pages = tiff_tags.pages(file)
    page = _only(pages)
    if page.photometric < 0:  # not said, though it must be: as libtiff takes it
        of_one = _WHITE_IS_ZERO if page.compression in _FAX else _BLACK_IS_ZERO
        color = _RGB if page.samples - len(page.extra) == 3 else of_one
        page = dataclasses.replace(page, photometric=color)
    turn = page.orientation if 1 <= page.orientation <= 8 else 1
    return Opened(page.height, page.width, turn, lambda: _load(file, page, order))


def encoded(array: np.ndarray) -> bytes:
    """Returns an array [H, W] or [H, W, 1 to 4] as a TIFF, bit for bit: gray or RGB, and alpha as a
    second or fourth channel. Raises DataError for what are no pixels."""
    array = array[..., None] if array.ndim == 2 else array
    forms = {"u": _UINT, "i": _INT, "f": _FLOAT}
    if array.ndim != 3 or array.shape[-1] not in (1, 2, 3, 4) or array.dtype.kind not in forms:
        raise DataError(f"an array of {array.dtype} {list(array.shape)} is no image")
    rows, width, samples = array.shape
    each = [8 * array.dtype.itemsize, forms[array.dtype.kind]]
    tags: _Tags = {code: (3, [of] * samples) for code, of in zip((258, 339), each, strict=True)}
    tags |= {262: (3, [_RGB if samples > 2 else _BLACK_IS_ZERO]), 277: (3, [samples])}
    if samples in (2, 4):
        tags[338] = (3, [_STRAIGHT])
    content = np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return _written(content, _NONE, width, rows, tags)


def _only(pages: list[Page]) -> Page:
    whole = [page for page in pages if not page.subfile & (_REDUCED | _MASK)] or pages
    if not whole:
        raise DataError("is a TIFF without a picture")
    if all(page.subfile & _REDUCED for page in pages) and any(page.inner for page in pages):
        raise DataError(
            "is a camera's raw file (DNG or its kin), of which only previews can be read"
        )
    areas = [page.width * page.height for page in whole]
    if len(whole) > 1 and areas[0] <= max(areas[1:]):
        sizes = ", ".join(f"{page.width} x {page.height}" for page in whole[:4])
        more = ", ..." if len(whole) > 4 else ""
        raise DataError(
            f"has {len(whole)} pages ({sizes}{more}), none of them marked as a preview; one "
            "picture is expected: save each as a file"
        )
    stack = re.search(rb"ImageJ=.*\nimages=(\d{1,9})\n", whole[0].description, re.DOTALL)
    if len(pages) == 1 and stack and int(stack[1]) > 1:  # all of a stack under one directory
        raise DataError(f"has {int(stack[1])} pages of equal size; one picture is expected")
    return whole[0]


def _load(file: BinaryIO, page: Page, order: str) -> Picture:
    _check(page)
    planes = page.samples if page.planar == 2 else 1
    samples = page.samples // planes
    rows, width = min(page.rows_per_strip, page.height) or page.height, page.width
    if page.tiled:
        rows, width = page.tile_height, page.tile_width
        check_limits(rows, width)
    down, across = -(-page.height // rows), -(-page.width // width)
    n = planes * down * across
    if len(page.offsets) < n:
        raise DataError(f"is a TIFF of {n} strips or tiles, and lists {len(page.offsets)}")
    counts = page.counts if len(page.counts) >= n else (2**31,) * n  # up to the file's end
    array: np.ndarray | None = None
    for i in range(n):
        plane, y, x = i // (down * across), i // across % down * rows, i % across * width
        # a strip, unlike a tile, ends with the image
        high = rows if page.tiled else min(rows, page.height - y)
        file.seek(page.offsets[i])
        part = _segment(page, file.read(counts[i]), (high, width, samples), order)
        if array is None:
            array = np.empty((page.height, page.width, page.samples), part.dtype)
        into = array[y : y + high, x : x + width, plane * samples : (plane + 1) * samples]
        into[:] = part[: into.shape[0], : into.shape[1]]
    assert array is not None
    return _picture(page, array)


def _check(page: Page) -> None:
    """Raises DataError for what is not read."""
    color, samples, bits = page.photometric, page.samples, page.bits[0]
    for name, known in (
        ("compression", (_NONE, *_DEFLATE, *_LZMA, *_BYTES, *_PICTURES)),
        ("photometric", (_WHITE_IS_ZERO, _BLACK_IS_ZERO, _PALETTE, *_CHANNELS)),
    ):
        value = getattr(page, name)
        if value not in known:
            said = _NAMES[name].get(value, f"number {value}")
            if name == "compression":
                cause = f"compressed by {said}, which is not read; save it by LZW or deflate"
            else:
                cause = f"whose colors are {said}, which is not read; save it as gray or RGB"
            raise DataError(f"is a TIFF {cause}")
    if set(page.bits) != {bits} or len(set(page.sample_format)) > 1:
        raise DataError(f"has channels of {page.bits} bits; they are read if all are alike")
    channels = _CHANNELS.get(color, 1)
    gray = channels == 1 and color != _PALETTE
    unnamed = gray and samples == 2 and page.extra[:1] not in ((_PREMULTIPLIED,), (_STRAIGHT,))
    if samples > channels + 1 or unnamed:
        named = "gray and does not say that one is alpha" if unnamed else "gray"
        called = f", calls them {named}" if gray else ""
        raise DataError(
            f"has {samples} channels{called}, and 1 (gray) or 3 (color) with an alpha beside them "
            "are read; save those that matter as files"
        )
    if samples < channels or (samples > channels and not page.extra):
        raise DataError(f"has {samples} channels, and its colors need {channels}")
    if color in _MODES and ((bits != 8 and color != _CMYK) or page.sample_format[0] != _UINT):
        raise DataError(f"is a {_MODES[color]} TIFF of {bits} bits a channel; 8 are read")
    if color == _CMYK and page.ink_set != 1:
        raise DataError("is a TIFF of inks other than CMYK; save it as RGB")
    if color == _YCBCR and page.compression != _JPEG and page.subsampling != (1, 1):
        raise DataError("is a YCbCr TIFF with fewer samples of color; save it as RGB")
    if page.compression in (_JPEG, _WEBP) and bits != 8:
        raise DataError(f"is a TIFF compressed by JPEG with {bits} bits a channel; 8 are read")


def _segment(page: Page, content: bytes, shape: tuple[int, int, int], order: str) -> np.ndarray:
    """Returns a strip or tile [rows, width, samples] as native numbers."""
    rows, width, samples = shape
    compression, bits = page.compression, page.bits[0]
    if compression in _PICTURES:
        return _pixels_by_libtiff(page, content, shape)
    row = -(-width * samples * bits // 8)
    if not content:  # a sparse file's
        content = bytes(rows * row)
    elif compression in _DEFLATE:
        content = zlib.decompressobj().decompress(content, rows * row)
    elif compression in _LZMA:
        content = lzma.decompress(content)
    elif compression != _NONE:
        content = _bytes_by_libtiff(content, compression, row, rows)
    if page.fill_order == 2 and compression in (_NONE, *_DEFLATE, *_LZMA):
        flat = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
        content = np.packbits(flat).tobytes()
    if len(content) < rows * row:
        raise DataError(f"is cut off: a strip has {len(content)} of {rows * row} bytes")
    content = content[: rows * row]
    if page.predictor == 3:
        return _float_differences(content, shape, bits // 8)
    return _differences(page, _numbers(content, shape, bits, page.sample_format[0], order))


def _numbers(
    content: bytes, shape: tuple[int, int, int], bits: int, form: int, order: str
) -> np.ndarray:
    rows, width, samples = shape
    if form == _FLOAT and bits in (16, 32, 64):
        return np.frombuffer(content, f"{order}f{bits // 8}").reshape(shape).astype(f"f{bits // 8}")
    if form not in (_UINT, _INT, _UNDEFINED) or (form == _INT and bits not in (8, 16, 32, 64)):
        raise DataError(f"is a TIFF whose numbers (SampleFormat {form}, {bits} bits) are not read")
    if bits in (8, 16, 32, 64):
        kind = "i" if form == _INT else "u"
        array = np.frombuffer(content, f"{order}{kind}{bits // 8}").reshape(shape)
        return array.astype(array.dtype.newbyteorder("="))
    if bits > 16:
        raise DataError(f"has integer pixels of {bits} bits; up to 16 are read")
    # Packed words: bits from the highest on, each row from a new byte on, whatever the byte order.
    flat = np.unpackbits(np.frombuffer(content, np.uint8).reshape(rows, -1), axis=1)
    words = flat[:, : width * samples * bits].reshape(*shape, bits)
    weights = (1 << np.arange(bits - 1, -1, -1)).astype(np.uint16)
    values = np.zeros(shape, np.uint16)
    for i, weight in enumerate(weights):  # a product would take 16 times the memory
        values += words[..., i] * weight
    return values.astype(np.uint8) if bits <= 8 else values


def _differences(page: Page, array: np.ndarray) -> np.ndarray:
    if page.predictor == 1:
        return array
    if page.predictor != 2:
        raise DataError(f"is a TIFF with predictor {page.predictor}, which is not read")
    whole = array.view(f"u{array.dtype.itemsize}")
    total = np.cumsum(whole, axis=1, dtype=whole.dtype)
    if page.bits[0] < 8 * array.dtype.itemsize:
        total &= (1 << page.bits[0]) - 1
    return total.view(array.dtype)


def _float_differences(content: bytes, shape: tuple[int, int, int], size: int) -> np.ndarray:
    """Predictor 3 (Adobe's TIFF technical note 3): differences of bytes, highest bytes first."""
    rows, width, samples = shape
    flat = np.frombuffer(content, np.uint8).reshape(rows, -1, samples)
    flat = np.cumsum(flat, axis=1, dtype=np.uint8)
    planes = flat.reshape(rows, size, width * samples).swapaxes(1, 2)
    return np.ascontiguousarray(planes).view(f">f{size}").reshape(shape).astype(f"f{size}")


def _bytes_by_libtiff(content: bytes, compression: int, row: int, rows: int) -> bytes:
    tags: _Tags = {258: (3, [8]), 262: (3, [_BLACK_IS_ZERO]), 277: (3, [1])}
    with _one_strip(content, compression, row, rows, tags) as image:
        return image.tobytes()


def _pixels_by_libtiff(page: Page, content: bytes, shape: tuple[int, int, int]) -> np.ndarray:
    if page.compression == _WEBP:  # a strip is a file of its own
        with WebPImageFile(io.BytesIO(content)) as image:
            return _shaped(np.asarray(image), shape)
    rows, width, samples = shape
    color = page.photometric if samples == page.samples else _BLACK_IS_ZERO  # or one plane
    color = _BLACK_IS_ZERO if color in (_WHITE_IS_ZERO, _PALETTE) else color  # values as stored
    tags: _Tags = {258: (3, page.bits[:1] * samples), 262: (3, [color]), 277: (3, [samples])}
    tags |= {266: (3, [page.fill_order]), 292: (4, [page.t4_options]), 293: (4, [page.t6_options])}
    if samples == page.samples and page.extra:
        tags[338] = (3, page.extra)
    if color == _YCBCR:
        tags[530] = (3, page.subsampling)
    if page.jpeg_tables:
        tags[347] = (7, page.jpeg_tables)
    with _one_strip(content, page.compression, width, rows, tags) as strip:
        return _shaped(np.asarray(strip).astype(np.uint8), shape)


def _shaped(array: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    array = array[..., None] if array.ndim == 2 else array
    if array.shape != shape:
        raise DataError(f"is a TIFF whose strip decodes to {array.shape}, not {shape}")
    return array


def _one_strip(
    content: bytes, compression: int, width: int, rows: int, tags: _Tags
) -> TiffImageFile:
    """A TIFF of one strip, opened by Pillow."""
    return TiffImageFile(io.BytesIO(_written(content, compression, width, rows, tags)))


def _written(content: bytes, compression: int, width: int, rows: int, tags: _Tags) -> bytes:
    """A TIFF of one strip."""
    longs = {256: width, 257: rows, 259: compression, 273: 0, 278: rows, 279: len(content)}
    tags = tags | {code: (4, (value,)) for code, value in longs.items()}
    tail = bytearray()
    after = 8 + 2 + 12 * len(tags) + 4
    entries = []
    start = after + sum(_room(kind, values) for kind, values in tags.values())
    for code in sorted(tags):
        kind, values = tags[code]
        if code == 273:
            values = [start]
        form = f"<{len(values)}{'H' if kind == 3 else 'I'}"
        packed = values if isinstance(values, bytes) else struct.pack(form, *values)
        if len(packed) > 4:
            offset = after + len(tail)
            tail += packed + bytes(len(packed) % 2)
            packed = struct.pack("<I", offset)
        entries.append(struct.pack("<HHI", code, kind, len(values)) + packed.ljust(4, b"\0"))
    head = struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + b"".join(entries) + bytes(4)
    return head + bytes(tail) + content


def _room(kind: int, values: Sequence[int] | bytes) -> int:
    """Bytes that a tag's values take behind the directory."""
    size = len(values) * {3: 2, 4: 4, 7: 1}[kind]
    return size + size % 2 if size > 4 else 0


def _picture(page: Page, array: np.ndarray) -> Picture:
    """Colors as they are shown, and alpha, of samples [H, W, C]."""
    color, bits = page.photometric, page.bits[0]
    channels = _CHANNELS.get(color, 1)
    white, stated = _white(page, array)
    values, alpha, entries = array[..., :channels], None, None
    if page.samples > channels and page.extra[0] in (_PREMULTIPLIED, _STRAIGHT) and white:
        over = array[..., channels]
        alpha = opaque(over, float(white))
        if page.extra[0] == _PREMULTIPLIED and alpha is not None:
            values = _straight(values, over[..., None], white)
    if color == _PALETTE:
        entries = values[..., 0]
        table = np.array(page.color_map, np.uint16).reshape(3, -1) >> 8  # as Pillow takes it
        values, white, stated = table.astype(np.uint8).T[entries], 255, True
    elif color == _CMYK and bits != 8:
        ink = values.astype(np.float64) / white
        values = np.rint((1 - ink[..., :3]) * (1 - ink[..., 3:]) * white).astype(values.dtype)
    elif (color in _MODES and page.compression != _JPEG) or color == _CMYK:
        mode = _MODES[color]  # libtiff has turned JPEG's
        flat = np.ascontiguousarray(values).tobytes()
        image = Image.frombytes(mode, values.shape[1::-1], flat, "raw", mode)
        values = np.asarray(image.convert("RGB"))
    elif color == _WHITE_IS_ZERO and white:
        values = (white - values).astype(values.dtype)
    if white in (1, 3, 15) and values.dtype == np.uint8:  # as 8 bits, where luma is rounded
        values, white = values * np.uint8(255 // white), 255
    values = values[..., 0] if values.shape[-1] == 1 else np.ascontiguousarray(values)
    lossy = page.compression in (_JPEG, _WEBP)
    named = page.samples == channels or page.extra[0] in (_PREMULTIPLIED, _STRAIGHT)
    unread = "" if named else f"channel {page.samples} of a TIFF that does not say what it holds"
    return Picture(values, white, stated, alpha, entries, lossy, unread)


def _white(page: Page, array: np.ndarray) -> tuple[int, bool]:
    """The value of white, 0 for unknown, and whether the file says so itself.

    Of 16 bits MaxSampleValue or SMaxSampleValue says it, where it is the end of a range of bits:
    some writers put an image's own largest value there, which is no white.
    """
    bits = page.bits[0]
    if array.dtype.kind == "f":
        return 1, True
    if array.dtype.kind == "i" or bits > 16:
        return 0, True
    if bits == 16:
        for value in (*page.max_sample[:1], *page.largest[:1]):
            if 255 <= value < 65535 and value & (value + 1) == 0 and array.max() <= value:
                return value, True
    return 2**bits - 1, bits != 16


def _straight(values: np.ndarray, alpha: np.ndarray, white: int) -> np.ndarray:
    """Takes alpha out of colors that were multiplied by it."""
    if values.dtype.kind == "f":
        found = np.divide(values, alpha, out=np.zeros_like(values), where=alpha > 0)
        return np.minimum(found, 1)
    wide = values.astype(np.int64) * white // np.maximum(alpha, 1)
    return np.where(alpha > 0, np.minimum(wide, white), 0).astype(values.dtype)
