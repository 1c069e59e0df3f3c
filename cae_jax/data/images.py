"""The one decoder: an image file becomes a float32 array [H, W, C] in [0, 1].

Nothing else opens image files. Gray is ITU-R 601 luma (Pillow's mode L). Resizing is Pillow's
antialiased bilinear filter on float pixels, after the conversion to gray or RGB, without rounding;
an image of another shape than the size asked is stretched to it. An alpha channel is dropped, not
blended. EXIF orientation is applied. 16-bit gray is divided by 65535 and 12-bit gray by 4095; of
16-bit color Pillow keeps the upper 8 bits. Files of several frames, of 32-bit integers, or above
the limits below are refused.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile  # also registers TIFF, before any thread needs it

from cae_jax import files
from cae_jax.data.frame import MAX_SIDE, Frame, placed, placed_mask
from cae_jax.types import DataError, LeftOut, UsageError, unknown_name, with_counts

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"})
MAX_PIXELS = 2**27

Source = str | os.PathLike[str] | bytes | BinaryIO

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF")
_UPRIGHT = {  # EXIF orientation -> what undoes it
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_BITS_PER_SAMPLE, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF 6.0, section 8

# Pillow's own limit only warns below twice its value, and catching a warning is not safe in
# threads: it is switched off for the process, and the limits above are applied to every file.
Image.MAX_IMAGE_PIXELS = None
# What Pillow warns or logs about (odd metadata) does not touch the pixels; a file whose pixels
# cannot be had raises. Set once, here, since filters belong to the process and not to a thread.
warnings.filterwarnings("ignore", module=r"PIL\.")
logging.getLogger("PIL").setLevel(logging.CRITICAL)


class Decoded(NamedTuple):
    """What came of many files."""

    pixels: np.ndarray  # float32 [n, H, W, channels] in [0, 1]
    kept: list[int]  # the indices of these n images into the files
    left_out: list[LeftOut]  # the other ones, in order
    sizes: list[tuple[int, int]]  # (height, width) of each of the n files, in pixels, upright


def decode(
    source: Source,
    frame: Frame,
    name: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> np.ndarray:
    """Decodes one image.

    Args:
      source: a path, a file's bytes, or a seekable binary file.
      frame: what it is brought to.
      name: what errors call the image; by default its path.
      max_pixels: more are refused by the header, before any is decoded.

    Returns:
      float32 [H, W, channels] in [0, 1].

    Raises:
      DataError: the file cannot be used; one line with its name and the cause.
    """
    with _opened(source, name, max_pixels) as image:
        return _pixels(image, frame)[0]


def seen(
    source: Source, frame: Frame, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes one image as `decode` does; where not all of a frame counts it has a last channel
    more, see `types.with_counts`."""
    with _opened(source, name, max_pixels) as image:
        return _counted(*_pixels(image, frame), frame)


def _counted(pixels: np.ndarray, size: tuple[int, int], frame: Frame) -> np.ndarray:
    counts = frame.counts(size)
    return pixels if counts is None else with_counts(pixels, counts)


def from_any(image: Any, frame: Frame, bgr: bool = False, counted: bool = False) -> np.ndarray:
    """Returns whatever holds an image as `decode` returns a file: float32 [H, W, channels].

    A path, bytes or a binary stream is decoded, an opened Pillow image treated as its file would
    be. Anything else is an array as `from_array` takes it, by `__array__` (NumPy, JAX, PyTorch on a
    CPU) or `__dlpack__`; with `bgr` its three channels are blue, green and red. Raises DataError
    for what is no image. With `counted` it is as `seen` returns it.
    """
    if isinstance(image, Image.Image):
        with _named("the image"):
            _check_limits(image)
            pixels, size = _pixels(image.copy(), frame)
            return _counted(pixels, size, frame) if counted else pixels
    if isinstance(image, bytearray | memoryview):
        image = bytes(image)
    if isinstance(image, str | os.PathLike | bytes) or hasattr(image, "seek"):
        return seen(image, frame) if counted else decode(image, frame)
    if not hasattr(image, "__array__") and hasattr(image, "__dlpack__"):
        image = np.from_dlpack(image)
    array = np.asarray(image)
    if array.dtype == object:
        raise DataError(f"an image is a file, its bytes or an array, not {type(image).__name__}")
    pixels = from_array(array[..., ::-1] if bgr and array.ndim == 3 else array, frame)
    return _counted(pixels, array.shape[:2], frame) if counted else pixels


def from_array(array: np.ndarray, frame: Frame) -> np.ndarray:
    """Returns an array as `decode` returns a file: float32 [H, W, channels] in [0, 1].

    The array is [H, W], [H, W, 1] or [H, W, 3]: uint8, uint16, or float in [0, 1]; luma of float
    and 16-bit color is not rounded. Raises DataError for anything else.
    """
    channels = frame.channels
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[-1] not in (1, 3) or 0 in array.shape:
        raise DataError(f"an image array must be [H, W], [H, W, 1 or 3], got {array.shape}")
    full = {"uint8": 255.0, "uint16": 65535.0}.get(str(array.dtype), 1.0)
    if array.dtype == np.uint8 and array.shape[-1] == 3 and channels == 1:
        array = np.asarray(Image.fromarray(array).convert("L"))[..., None]
    elif full == 1 and not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"an image array must be uint8, uint16 or float, got {array.dtype}")
    pixels = array.astype(np.float32) / np.float32(full)
    _check_unit_range(pixels)
    if pixels.shape[-1] == 3 and channels == 1:
        pixels = pixels @ np.array(_LUMA, np.float32)[:, None]
    bands = [Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(pixels, -1, 0)]
    pixels = placed(bands, frame)
    return pixels if pixels.shape[-1] == channels else np.repeat(pixels, channels, axis=-1)


def decode_mask(
    source: Source,
    frame: Frame,
    expected_size: tuple[int, int] | None,
    name: str | None = None,
) -> np.ndarray:
    """Decodes one ground-truth mask: every pixel that is not black is defective.

    It is put into its image's frame by `frame.placed_mask`.

    Args:
      source: a path, a file's bytes, or a seekable binary file.
      frame: what its image is brought to.
      expected_size: (height, width) of the mask's image, from `size`; None skips the check.
      name: what errors call the mask; by default its path.

    Returns:
      bool [H, W], True for defective pixels.

    Raises:
      DataError: the file cannot be used, or its size differs from `expected_size`.
    """
    with _opened(source, name) as image:
        # In color even if gray is asked for: the luma of a faint blue is 0.
        image, _ = _upright_pixels(image, color=True)
        if expected_size is not None and (image.height, image.width) != tuple(expected_size):
            raise DataError(
                f"this mask is {image.width} x {image.height} pixels (width x height), "
                f"its image {expected_size[1]} x {expected_size[0]}"
            )
        mask = np.asarray(image) != 0
    mask = mask.any(axis=-1) if mask.ndim == 3 else mask
    return placed_mask(mask, frame)


def size(source: Source, name: str | None = None) -> tuple[int, int]:
    """Returns (height, width) in pixels after EXIF orientation, from the file's header.

    A PNG that is not square and has no EXIF before its pixels is decoded to look behind them.

    Raises:
      DataError: the file cannot be used; one line with its name and the cause.
    """
    with _opened(source, name) as image:
        width, height = image.size
        if width != height and _orientation(image) >= 5:
            width, height = height, width
    return height, width


def decode_all(
    sources: Sequence[Source],
    frame: Frame,
    on_bad_image: str,
    progress: Callable[[int], None] | None = None,
    workers: int | None = None,
) -> Decoded:
    """Decodes many images in threads (Pillow releases the GIL), in the order of `sources`.

    Args:
      sources: what `decode` takes.
      frame: what they are brought to; it has a size.
      on_bad_image: "error" raises for the first bad image in order; "skip" leaves it out.
      progress: called with 1 after each image in order, like the `update` of a progress bar.
      workers: the number of threads; None leaves it to ThreadPoolExecutor.

    Raises:
      DataError: an image cannot be used and `on_bad_image` is "error".
      UsageError: an argument makes no sense.
    """
    if on_bad_image not in ("error", "skip"):
        raise unknown_name("on_bad_image", on_bad_image, ("error", "skip"))
    if frame.size is None:
        raise UsageError("image_size is needed to stack images")
    pixels = files.large_array((len(sources), *frame.size, frame.channels))

    def decode_into(index: int) -> DataError | tuple[int, int]:
        try:
            with _opened(sources[index], None) as image:
                pixels[index], size = _pixels(image, frame)
        except DataError as error:
            return error
        return size

    kept: list[int] = []
    left_out: list[LeftOut] = []
    sizes: list[tuple[int, int]] = []
    pool = ThreadPoolExecutor(workers)
    try:
        for index, found in enumerate(pool.map(decode_into, range(len(sources)))):
            if not isinstance(found, DataError):
                kept.append(index)
                sizes.append(found)
            elif on_bad_image == "error":
                raise found
            else:
                path = _name_of(sources[index])
                left_out.append(LeftOut(path, str(found).removeprefix(f"{path!r}: ")))
            if progress is not None:
                progress(1)
    finally:
        pool.shutdown(cancel_futures=True)
    pixels = files.rows(pixels, np.array(kept, int)) if left_out else pixels
    return Decoded(pixels, kept, left_out, sizes)


def _name_of(source: Source) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else "<bytes>"


@contextlib.contextmanager
def _opened(source: Source, name: str | None, limit: int = MAX_PIXELS) -> Iterator[Image.Image]:
    """Yields the opened image, pixels not decoded yet; what fails in the body is a DataError."""
    name = _name_of(source) if name is None else name
    with _named(name), _file(source) as file:
        if not file.read(1):
            raise DataError("is empty (0 bytes)")
        with Image.open(file, formats=_FORMATS) as image:
            _check_limits(image, limit)
            yield image


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """What fails in the body is a DataError that names the image."""
    try:
        yield
    # Damaged bytes make Pillow raise nearly anything: OSError, SyntaxError, ValueError, EOFError,
    # struct.error, zlib.error, OverflowError, MemoryError, IndexError, KeyError ...
    except Exception as error:
        raise DataError(f"{name!r}: {_cause(error)}") from error


def _pixels(image: Image.Image, frame: Frame) -> tuple[np.ndarray, tuple[int, int]]:
    """The image in its frame, and the (height, width) that it had."""
    channels = frame.channels
    image, full = _upright_pixels(image, color=channels == 3)
    pixels = placed([band.convert("F") for band in image.split()], frame)
    pixels /= np.float32(full)
    pixels = pixels if pixels.shape[-1] == channels else np.repeat(pixels, channels, axis=-1)
    return pixels, (image.height, image.width)


def _file(source: Source) -> BinaryIO:
    if not isinstance(source, str | os.PathLike):
        if not isinstance(source, bytes):
            source.seek(0)
            source = source.read()
        return io.BytesIO(source)
    if os.path.islink(source) and not os.path.lexists(os.path.realpath(source)):
        raise DataError(f"is a broken link to {os.readlink(source)!r}")
    mode = os.stat(source).st_mode
    if stat.S_ISDIR(mode):
        raise DataError("is a folder, not an image file")
    if not stat.S_ISREG(mode):  # opening a named pipe would wait for ever
        raise DataError("is a pipe, socket or device, not an image file")
    return open(source, "rb")


def _check_limits(image: Image.Image, limit: int = MAX_PIXELS) -> None:
    width, height = image.size
    if min(width, height) < 1:
        raise DataError(f"has no pixels: {width} x {height}")
    if max(width, height) > MAX_SIDE or width * height > limit:
        raise DataError(
            f"is {width} x {height} pixels; the limits are {MAX_SIDE} a side and {limit} in all"
        )
    if getattr(image, "is_animated", False):  # to count a TIFF's takes their number squared
        raise DataError("has several frames; one is expected")


def _cause(error: Exception) -> str:
    if isinstance(error, DataError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):  # its own message shows an address in memory
        return "is not a PNG, JPEG, BMP or TIFF image, or its header is damaged"
    if isinstance(error, MemoryError):
        return "needs more memory than there is"
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    return f"cannot be decoded: {' '.join(str(error).split()) or type(error).__name__}"


def _upright_pixels(image: Image.Image, color: bool) -> tuple[Image.Image, float]:
    """Returns the image in mode L, RGB (if `color` and not gray) or F, and which value is white."""
    image.load()
    image.info.pop("transparency", None)  # else the conversions below try to keep it
    turn = _UPRIGHT.get(_orientation(image))
    full = 255.0
    if image.mode == "I" and image.format != "PNG":
        raise DataError(
            "has integer pixels of 32 bits, or of 16 with a sign, whose white is not known; "
            "save it with 8 or 16 bits without a sign"
        )
    if image.mode == "F" or image.mode.startswith("I"):  # Pillow < 11 opens a 16-bit PNG as I
        values = np.asarray(image).astype(np.float32)
        tags = image.tag_v2 if isinstance(image, TiffImageFile) else {}
        if image.mode == "F":
            full = 1.0
            _check_unit_range(values)
        else:
            full = 4095.0 if tags.get(_BITS_PER_SAMPLE) == (12,) else 65535.0
        if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow turns only 8-bit pixels round
            values = full - values
        image = Image.fromarray(values)
    elif image.mode in ("1", "L", "LA"):
        image = image.convert("L")
    elif image.mode == "La":
        image = image.convert("LA").convert("L")
    else:
        # By way of RGB, as Pillow has no direct way from CIELAB to gray.
        image = image.convert("RGB").convert("RGB" if color else "L")
    return (image if turn is None else image.transpose(turn)), full


def _check_unit_range(values: np.ndarray) -> None:
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= 1):  # false for NaN too
        raise DataError(
            f"has float pixels from {low:g} to {high:g}; they must be finite and within 0 and 1"
        )


def _orientation(image: Image.Image) -> int:
    if isinstance(image, TiffImageFile):
        return 1  # Pillow turns a TIFF upright by itself, its size included
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged metadata of whole pixels: shown as stored, as viewers do
        return 1
    return value if value in _UPRIGHT else 1
