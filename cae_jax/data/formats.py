"""The one door to image files: which format a file is in, by its first bytes, and how it opens.

Each format's class of Pillow is called by itself, not through `Image.open`: this asks nobody's
`Image.MAX_IMAGE_PIXELS`, which is the host program's own, and takes the first picture of a JPEG
of several (MPO). Of a PNG Pillow sees the chunks that make its pixels alone, so that odd metadata
can neither warn nor refuse. What Pillow keeps 8 bits of is read once for the upper 8, once for
the lower 8. TIFF is in `tiff`, PGM and its kin in `netpbm`.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
import struct
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImagePalette
from PIL.BmpImagePlugin import BmpImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from cae_jax.data import netpbm, picture, tiff, unreadable
from cae_jax.data.picture import MAX_PIXELS, Opened, Picture, differs, opaque
from cae_jax.types import DataError

SUFFIXES = frozenset(
    [*(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff"),
     *(".webp", ".avif", ".pbm", ".pgm", ".ppm", ".pnm")]
)  # fmt: skip
Source = str | os.PathLike[str] | bytes | BinaryIO

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_AVIF = (b"avif", b"avis")
_FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
_JPEGS = {0xF7: "JPEG-LS image", 0xC3: "lossless JPEG"} | dict.fromkeys(
    (0xC5, 0xC6, 0xC7, 0xCB, 0xCD, 0xCE, 0xCF), "JPEG of a hierarchical or arithmetic kind"
)
_ENTRIES = {1: "P;1", 4: "P;4", 8: "P"}  # Pillow's names of a BMP's palette, by its bits
_LEVELS = (("1", 1), ("L", 8))  # of which its own reading is right
_GRAY, _COLOR, _PALETTE, _GRAY_ALPHA = 0, 2, 3, 4  # color types of PNG


@contextlib.contextmanager
def opened(source: Source, name: str | None = None, limit: int = MAX_PIXELS) -> Iterator[Opened]:
    """Yields the opened image, pixels not decoded yet; what fails in the body is a DataError.

    Args:
      source: a path, a file's bytes, or a seekable binary file.
      name: what errors call the image; by default its path.
      limit: of pixels, applied to the header.
    """
    with named(name_of(source) if name is None else name), _file(source) as file:
        found = _open(file)
        picture.check_limits(found.height, found.width, limit)
        yield found


@contextlib.contextmanager
def named(name: str) -> Iterator[None]:
    """What fails in the body is a DataError that names the image."""
    try:
        yield
    # Damaged bytes make Pillow raise nearly anything: OSError, SyntaxError, ValueError, EOFError,
    # struct.error, zlib.error, OverflowError, MemoryError, IndexError, KeyError ...
    except Exception as error:
        raise DataError(f"{name!r}: {_cause(error)}") from error


def name_of(source: Source) -> str:
    """Returns what errors call a source: its path, or "<bytes>"."""
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "<bytes>"


def of_pillow(image: Image.Image) -> Picture:
    """Returns the pixels of one of Pillow's images, as stored: its values are 8 bits of most files.

    Raises DataError for a mode whose white is not known.
    """
    mode: str = image.mode
    clear: Any = image.info.get("transparency")
    if mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint16)
        alpha = None if clear is None else differs(values, clear)
        return Picture(values, 65535, stated=False, alpha=alpha)
    if mode in ("I", "F"):
        return Picture(np.asarray(image), 0 if mode == "I" else 1)
    if mode in ("P", "PA"):
        plain = image.convert("RGBA" if clear is not None or mode == "PA" else "RGB")
        entries = np.asarray(image if mode == "P" else image.getchannel(0))
        return of_pillow(plain)._replace(entries=entries)
    if mode in ("LA", "La", "RGBA", "RGBa"):
        array = np.asarray(image.convert(mode.upper()))
        values = array[..., 0] if array.shape[-1] == 2 else array[..., :3]
        return Picture(np.ascontiguousarray(values), 255, alpha=opaque(array[..., -1], 255.0))
    if mode in ("1", "L"):
        values = np.asarray(image.convert("L"))
    else:
        values = np.asarray(image if mode == "RGB" else image.convert("RGB"))
    known = isinstance(clear, int | tuple)
    return Picture(values, 255, alpha=differs(values, clear) if known else None)


def _open(file: BinaryIO) -> Opened:
    head = file.read(512)
    file.seek(0)
    if not head:
        raise DataError("is empty (0 bytes)")
    if head.startswith(_PNG):
        return _open_png(file)
    if head.startswith(_TIFF):
        return tiff.open_tiff(file)
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in b" \t\r\n#":
        return netpbm.open_netpbm(file)
    if head.startswith(b"\xff\xd8"):
        return _open_jpeg(file)
    if head.startswith(b"BM"):
        return _open_bmp(file)
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        lossy = b"VP8L" not in file.read()
        file.seek(0)
        return _opened_by(WebPImageFile(file), lossy)
    if head[4:8] == b"ftyp" and _is_avif(head):
        return _open_avif(file)
    raise DataError(unreadable.what(head))


def _opened_by(image: ImageFile.ImageFile, lossy: bool = False) -> Opened:
    if getattr(image, "is_animated", False):
        raise DataError("has several frames; one is expected")
    turn = picture.orientation(image.info.get("exif"))
    return Opened(image.height, image.width, turn, lambda: of_pillow(image)._replace(lossy=lossy))


def _open_bmp(file: BinaryIO) -> Opened:
    image = BmpImageFile(file)
    file.seek(14)
    head = file.read(16)
    bits = head[10] if head[0] == 12 else head[14]
    if image.mode in ("1", "L") and bits in _ENTRIES and (image.mode, bits) not in _LEVELS:
        # Where a palette is gray Pillow takes it for levels, and reads them by the palette's length
        levels = (0, 255) if image.mode == "1" else range(256)
        image._mode = "P"
        image.palette = ImagePalette.raw("RGB", bytes(v for v in levels for _ in range(3)))
        tile = image.tile[0]
        assert isinstance(tile.args, tuple)
        image.tile = [tile._replace(args=(_ENTRIES[bits], *tile.args[1:]))]
    return _opened_by(image)


def _open_jpeg(file: BinaryIO) -> Opened:
    if (kind := _JPEGS.get(_frame_of(file))) is not None:
        raise DataError(f"is a {kind}; save it as PNG or TIFF")
    try:
        image = JpegImageFile(file)
    except SyntaxError as error:
        if "bit layers" not in str(error):
            raise
        bits = str(error).split("-")[0].split()[-1]
        raise DataError(f"is a JPEG of {bits} bits a channel; those of 8 are read") from error
    if image.mode == "CMYK" and "adobe" not in image.info:
        # Pillow turns ink round, as Adobe's files need; no other program writes it so.
        return _opened_by(image, lossy=True)._replace(load=lambda: _as_inked(image))
    return _opened_by(image, lossy=True)


def _frame_of(file: BinaryIO) -> int:
    """The marker of a JPEG's frame, which says how it is coded (ITU-T T.81, Table B.1); 0 where
    there is none. The file is where it was."""
    at, marker = 2, 0
    while marker not in _FRAMES:
        file.seek(at)
        head = file.read(4)
        if len(head) < 4 or head[0] != 0xFF or head[1] == 0xDA:
            marker = 0
            break
        marker = head[1]
        at += 1 if marker == 0xFF else 2 + int.from_bytes(head[2:])  # bytes that fill up
    file.seek(0)
    return marker


def _as_inked(image: Image.Image) -> Picture:
    ink = Image.fromarray(255 - np.asarray(image), "CMYK")
    return of_pillow(ink)._replace(lossy=True)


def _open_avif(file: BinaryIO) -> Opened:
    try:
        from PIL.AvifImagePlugin import SUPPORTED, AvifImageFile
    except ImportError:
        SUPPORTED = False
    if not SUPPORTED:
        raise DataError("is an AVIF image, and this Pillow cannot read them: install Pillow 11.3")
    bits = _avif_bits(file.read())
    file.seek(0)
    opened = _opened_by(AvifImageFile(file), lossy=True)
    if bits == 8:
        return opened
    lost = f"the lower {bits - 8} of AVIF's {bits} bits, which Pillow does not give"
    return opened._replace(load=lambda: opened.load()._replace(without=lost))


def _is_avif(head: bytes) -> bool:
    """Whether AVIF is the brand of a file, or among those that it is compatible with."""
    end = int.from_bytes(head[:4])
    brands = [head[at : at + 4] for at in (8, *range(16, min(end, len(head)), 4))]
    return any(brand in _AVIF for brand in brands)


def _avif_bits(content: bytes) -> int:
    """The bits a channel of the first picture, by its box av1C (AV1-ISOBMFF, section 2.3.3)."""
    at = content.find(b"av1C")
    flags = content[at + 6] if 0 <= at < len(content) - 6 else 0
    return (12 if flags & 0x20 else 10) if flags & 0x40 else 8


def _open_png(file: BinaryIO) -> Opened:
    """Walks the chunks of a PNG (ISO/IEC 15948) and keeps what makes its pixels."""
    end = file.seek(0, io.SEEK_END)
    at, kept = len(_PNG), []
    exif, clear, significant = b"", b"", b""
    while at < end:
        file.seek(at)
        length, kind = struct.unpack(">I4s", (file.read(8) + bytes(8))[:8])
        if kind in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            kept.append((at, 12 + length))
        elif kind == b"acTL" and int.from_bytes(file.read(min(length, 4))) > 1:
            raise DataError("has several frames; one is expected")
        elif kind == b"eXIf":
            exif = file.read(length)
        elif kind == b"sBIT":
            significant = file.read(length)
        elif kind == b"tRNS":
            clear = file.read(length)
            kept.append((at, 12 + length))
        at += 12 + length
        if kind == b"IEND":
            break
    file.seek(len(_PNG))
    header = file.read(25)
    if len(header) < 25 or header[4:8] != b"IHDR":
        raise DataError("is a PNG whose header is damaged or cut off")
    width, height, depth, color = struct.unpack_from(">IIBB", header, 8)

    def load() -> Picture:
        content = [_PNG]
        for start, length in kept:
            file.seek(start)
            content.append(file.read(length))
        if depth < 16 or color == _GRAY:
            image = PngImageFile(io.BytesIO(b"".join(content)))
            if color == _GRAY and len(clear) == 2 and depth < 8:  # Pillow scales levels alone
                (level,) = struct.unpack(">H", clear)
                image.info["transparency"] = level * 255 // (2**depth - 1)
            found = of_pillow(image)
        else:
            found = _wide_png(content, color, clear)
        return _significant(found, significant) if depth == 16 and significant else found

    return Opened(height, width, picture.orientation(exif), load)


def _wide_png(chunks: list[bytes], color: int, clear: bytes) -> Picture:
    """A PNG of 16 bits a channel and more than gray, of which Pillow keeps the upper 8."""
    if color == _GRAY_ALPHA:
        # Its bytes are those of an 8-bit RGBA image, rows and filters too: upper, lower, twice.
        header = chunks[1][:16] + bytes([8, 6]) + chunks[1][18:-4]
        header += struct.pack(">I", zlib.crc32(header[4:]))
        upper, lower, alpha_upper, alpha_lower = np.moveaxis(
            np.asarray(PngImageFile(io.BytesIO(b"".join([_PNG, header, *chunks[2:]])))), -1, 0
        )
        values, alpha = _words(upper, lower), _words(alpha_upper, alpha_lower)
        return Picture(values, 65535, stated=False, alpha=opaque(alpha, 65535.0))
    halves = []
    for order in "BL":  # of big-endian words, Pillow's reading as little-endian has the lower byte
        image = PngImageFile(io.BytesIO(b"".join(chunks)))
        image.tile = [image.tile[0]._replace(args=f"{image.mode};16{order}")]
        halves.append(np.asarray(image))
    array = _words(*halves)
    values, see_through = np.ascontiguousarray(array[..., :3]), None
    if array.shape[-1] == 4:
        see_through = opaque(array[..., 3], 65535.0)
    elif len(clear) == 6:
        see_through = differs(values, struct.unpack(">3H", clear))
    return Picture(values, 65535, stated=False, alpha=see_through)


def _words(upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    return upper.astype(np.uint16) << 8 | lower


def _significant(found: Picture, bits: bytes) -> Picture:
    """Applies sBIT, the bits that are significant.

    PNG has values spread over all 16 bits whatever the chunk says; cameras' software writes them
    as they are. What is spread has zeros below, or repeats its upper bits.
    """
    used = max(bits)
    if not 8 <= used < 16 or found.values.max() >= 2**used:
        return found
    spread = not (found.values & (2 ** (16 - used) - 1)).any()
    return found if spread else found._replace(white=2**used - 1, stated=True)


def _file(source: Source) -> BinaryIO:
    if not isinstance(source, str | os.PathLike):
        if not isinstance(source, bytes):
            source.seek(0)
            source = source.read()
            if isinstance(source, str):
                raise DataError("is opened as text: open it with mode 'rb'")
        return io.BytesIO(source)
    if os.path.islink(source) and not os.path.lexists(os.path.realpath(source)):
        raise DataError(f"is a broken link to {os.readlink(source)!r}")
    mode = os.stat(source).st_mode
    if stat.S_ISDIR(mode):
        raise DataError("is a folder, not an image file")
    if not stat.S_ISREG(mode):  # opening a named pipe would wait for ever
        raise DataError("is a pipe, socket or device, not an image file")
    return open(source, "rb")


def _cause(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"
