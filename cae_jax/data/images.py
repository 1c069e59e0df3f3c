"""The one decoder: an image file becomes a float32 array [H, W, C] in [0, 1].

Nothing else opens image files. `formats` reads their true values, of 8 bits, 16 bits or float;
each is divided by its white. Gray is ITU-R 601 luma (where white is 255 rounded, as Pillow does).
Resizing is Pillow's antialiased bilinear filter on float pixels, after the conversion to gray or
RGB, without rounding; an image of another shape than the size asked is stretched to it. An alpha
channel is dropped, unless the frame has a background to lay the image on. EXIF orientation is
applied. Files of several pictures or above the limits of `picture` are refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from cae_jax import files
from cae_jax.data import formats, picture
from cae_jax.data.formats import SUFFIXES, Source
from cae_jax.data.frame import Frame, placed
from cae_jax.data.masks import decode_mask
from cae_jax.data.picture import MAX_PIXELS, Picture
from cae_jax.types import (
    DataError,
    Images,
    LeftOut,
    Levels,
    UsageError,
    divided,
    unknown_name,
    with_counts,
)

__all__ = [
    "MAX_PIXELS", "SUFFIXES", "Decoded", "Seen", "Source",
    "decode", "decode_all", "decode_mask", "from_any", "from_array", "seen", "size",
]  # fmt: skip

_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601


class Seen(NamedTuple):
    """What is worth a word of an image that was decoded."""

    size: tuple[int, int]  # (height, width) of its file in pixels, upright
    largest: int = 0  # the largest value, of 16 bits of which nobody says how many are used
    transparent: bool = False  # pixels that a viewer does not show, and no background
    without: str = ""  # what of the file was not read, in words


class Decoded(NamedTuple):
    """What came of many files."""

    pixels: Images  # float32 [n, H, W, channels] in [0, 1], or levels that give such
    kept: list[int]  # the indices of these n images into the files
    left_out: list[LeftOut]  # the other ones, in order
    seen: list[Seen]  # of each of the n files


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
    with formats.opened(source, name, max_pixels) as opened:
        return divided(*_pixels(opened.picture(), frame)[:2])


def seen(
    source: Source, frame: Frame, name: str | None = None, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """Decodes one image as `decode` does; where not all of a frame counts it has a last channel
    more, see `types.with_counts`."""
    with formats.opened(source, name, max_pixels) as opened:
        pixels, white, of = _pixels(opened.picture(), frame)
        return _counted(divided(pixels, white), of, frame)


def _counted(pixels: np.ndarray, found: Seen, frame: Frame) -> np.ndarray:
    counts = frame.counts(found.size)
    return pixels if counts is None else with_counts(pixels, counts)


def from_any(image: Any, frame: Frame, bgr: bool = False, counted: bool = False) -> np.ndarray:
    """Returns whatever holds an image as `decode` returns a file: float32 [H, W, channels].

    A path, bytes or a binary stream is decoded, an opened Pillow image treated as its file would
    be, with the values that Pillow has of it. Anything else is an array as `from_array` takes it,
    by `__array__` (NumPy, JAX, PyTorch on a CPU) or `__dlpack__`; with `bgr` its channels are
    blue, green and red. Raises DataError for what is no image. With `counted` it is as `seen`
    returns it.
    """
    if isinstance(image, Image.Image):
        with formats.named("the image"):
            picture.check_limits(image.height, image.width)
            if getattr(image, "is_animated", False) and image.format != "MPO":
                raise DataError("has several frames; one is expected")
            found = formats.of_pillow(image)
            turn = picture.orientation(image.info.get("exif"))
            turn = 1 if image.format == "TIFF" else turn  # Pillow has turned it
            opened = picture.Opened(image.height, image.width, turn, lambda: found)
            values, white, of = _pixels(opened.picture(), frame)
            pixels = divided(values, white)
            return _counted(pixels, of, frame) if counted else pixels
    if isinstance(image, bytearray | memoryview):
        image = bytes(image)
    if isinstance(image, str | os.PathLike | bytes) or hasattr(image, "seek"):
        return seen(image, frame) if counted else decode(image, frame)
    if isinstance(image, list | tuple):
        raise DataError(
            f"a {type(image).__name__} is no image, for it says nothing of the value of white: "
            "pass numpy.array(..., numpy.uint8) of values from 0 to 255, or float within 0 and 1"
        )
    array = image if isinstance(image, np.ma.MaskedArray) else _array(image)
    if array.dtype == object:
        raise DataError(f"an image is a file, its bytes or an array, not {type(image).__name__}")
    if bgr and array.ndim == 3:
        array = array[..., [2, 1, 0, 3][: array.shape[-1]]] if array.shape[-1] >= 3 else array
    pixels = from_array(array, frame)
    return _counted(pixels, Seen(array.shape[:2]), frame) if counted else pixels


def _array(image: Any) -> np.ndarray:
    """What holds an array as one of NumPy; raises DataError where its library does not give it."""
    try:
        if not hasattr(image, "__array__") and hasattr(image, "__dlpack__"):
            return np.from_dlpack(image)
        found = np.asarray(image)
    except Exception as error:  # of PyTorch one on a GPU, or whose gradient is asked for
        raise no_array(image, error) from error
    return found.astype(np.float32) if found.dtype.name == "bfloat16" else found


def no_array(given: Any, error: Exception) -> DataError:
    """Returns what is said of something whose library does not give it as an array."""
    cause = " ".join(str(error).split()) or type(error).__name__
    return DataError(f"{type(given).__name__} gives no array: {cause}")


def from_array(array: np.ndarray, frame: Frame) -> np.ndarray:
    """Returns an array as `decode` returns a file: float32 [H, W, channels] in [0, 1].

    The array is [H, W] or [H, W, C] with C of 1 (gray), 2 (gray and alpha), 3 (RGB) or 4 (RGB and
    alpha): bool, uint8, uint16, float in [0, 1], or with the frame's bit_depth any integers.
    Raises DataError for anything else.
    """
    if isinstance(array, np.ma.MaskedArray):
        hidden = int(np.ma.count_masked(array))
        if hidden:
            raise DataError(
                f"an image array has {hidden} masked pixels, which have no value: fill them first"
            )
        array = array.data
    whole = array[..., None] if array.ndim == 2 else array
    if whole.ndim != 3 or whole.shape[-1] not in (1, 2, 3, 4) or 0 in whole.shape:
        hint = ""
        if whole.ndim == 3 and whole.shape[0] in (1, 3, 4):
            hint = "; channels come last: move them by .transpose(1, 2, 0)"
        elif whole.ndim == 4 and whole.shape[0] == 1:
            hint = "; one image is expected: pass its first, [0]"
        raise DataError(
            f"an image array must be [H, W] or [H, W, 1 to 4], got {list(array.shape)}{hint}"
        )
    kind = whole.dtype.kind
    if kind not in "buif":
        raise DataError(f"an image array must be bool, uint8, uint16 or float, got {array.dtype}")
    whole = whole.astype(whole.dtype.newbyteorder("="))
    if kind == "b":
        whole = whole.astype(np.uint8) * np.uint8(255)
    white = 1 if kind == "f" else 256**whole.dtype.itemsize - 1 if whole.dtype.kind == "u" else 0
    try:
        white = _white(whole, white if white <= 65535 else 0, frame.bit_depth)
    except DataError as error:
        raise DataError(f"an image array {error}") from None
    alpha = picture.opaque(whole[..., -1], float(white)) if whole.shape[-1] in (2, 4) else None
    values = whole[..., 0] if whole.shape[-1] <= 2 else np.ascontiguousarray(whole[..., :3])
    try:
        return divided(*_pixels(Picture(values, white, alpha=alpha), frame)[:2])
    except DataError as error:  # of its frame
        raise DataError(f"the image: {error}") from None


def size(source: Source, name: str | None = None) -> tuple[int, int]:
    """Returns (height, width) in pixels after EXIF orientation, from the file's header.

    Raises:
      DataError: the file cannot be used; one line with its name and the cause.
    """
    with formats.opened(source, name) as opened:
        return opened.size


def decode_all(
    sources: Sequence[Source],
    frame: Frame,
    on_bad_image: str,
    progress: Callable[[int], None] | None = None,
    workers: int | None = None,
    held: str = files.AUTO,
) -> Decoded:
    """Decodes many images in threads (Pillow releases the GIL), in the order of `sources`.

    Args:
      sources: what `decode` takes.
      frame: what they are brought to; it has a size.
      on_bad_image: "error" raises for the first bad image in order; "skip" leaves it out.
      progress: called with 1 after each image in order, like the `update` of a progress bar.
      workers: the number of threads; None leaves it to ThreadPoolExecutor.
      held: where the pixels lie, one of `files.HELD`.

    Raises:
      DataError: an image cannot be used and `on_bad_image` is "error".
      UsageError: an argument makes no sense.
    """
    if on_bad_image not in ("error", "skip"):
        raise unknown_name("on_bad_image", on_bad_image, ("error", "skip"))
    if frame.size is None:
        raise UsageError("image_size is needed to stack images")
    stack = _Stack((len(sources), *frame.size, frame.channels), held)

    def decode_into(index: int) -> Seen | DataError:
        try:
            with formats.opened(sources[index]) as opened:
                pixels, white, seen = _pixels(opened.picture(), frame)
            stack.put(index, pixels, white)
        except DataError as error:
            return error
        return seen

    kept: list[int] = []
    seen: list[Seen] = []
    left_out: list[LeftOut] = []
    pool = ThreadPoolExecutor(workers)
    try:
        for index, found in enumerate(pool.map(decode_into, range(len(sources)))):
            if isinstance(found, Seen):
                kept.append(index)
                seen.append(found)
            elif on_bad_image == "error":
                raise found
            else:
                path = formats.name_of(sources[index])
                left_out.append(LeftOut(path, str(found).removeprefix(f"{path!r}: ")))
            if progress is not None:
                progress(1)
    finally:
        pool.shutdown(cancel_futures=True)
    pixels = stack.images
    return Decoded(
        files.rows(pixels, np.array(kept, int)) if left_out else pixels, kept, left_out, seen
    )


class _Stack:
    """Decoded images as they come: whole numbers as long as all are, of one white; else float32."""

    def __init__(self, shape: tuple[int, ...], held: str) -> None:
        self._shape, self._held = shape, held
        self._lock = threading.Lock()
        self._pixels: np.ndarray | None = None
        self._white = 0  # of whole numbers; 0 of float32

    def put(self, index: int, pixels: np.ndarray, white: int) -> None:
        """Puts an image at its place: values [H, W, C] of which `white` is 1."""
        with self._lock:
            whole = pixels.dtype in (np.uint8, np.uint16)
            if self._pixels is None:
                dtype = pixels.dtype if whole else np.float32
                self._pixels = files.large_array(self._shape, dtype, self._held)
                self._white = white if whole else 0
            elif self._white and (pixels.dtype, white) != (self._pixels.dtype, self._white):
                self._pixels, self._white = files.real(self.images), 0
            self._pixels[index] = pixels if self._white else divided(pixels, white)

    @property
    def images(self) -> Images:
        """All of them; what was not put has any value."""
        if self._pixels is None:
            return np.zeros(self._shape, np.float32)
        return Levels(self._pixels, self._white) if self._white else self._pixels


def _pixels(found: Picture, frame: Frame) -> tuple[np.ndarray, int, Seen]:
    """Brings a picture to a frame: laid on a background, gray or RGB, resized. Returns its values
    [H, W, channels], which are whole numbers where these are the file's, and the one of white."""
    values, alpha = found.values, found.alpha
    white = _white(values, found.white, frame.bit_depth)
    if alpha is not None and frame.background is not None:
        # its alpha may have as many bits as its colors, or all that there are
        scale = found.white / white if alpha.max() * found.white <= white else 1.0
        values = _laid(values, alpha * np.float32(scale), frame.background, white)
    if values.ndim == 3 and frame.channels == 1:
        if values.dtype == np.uint8 and white == 255:
            values = np.asarray(Image.fromarray(values).convert("L"))
        else:
            values = values.astype(np.float32) @ np.array(_LUMA, np.float32)
    values = values[..., None] if values.ndim == 2 else values
    kept = frame.kept(values.shape[:2]) if values.dtype.kind == "u" else None
    if kept:
        pixels = values[kept]
    else:
        bands = np.moveaxis(values, -1, 0)
        pixels = placed([np.ascontiguousarray(band, np.float32) for band in bands], frame)
    if pixels.shape[-1] != frame.channels:
        pixels = np.repeat(pixels, frame.channels, axis=-1)
    unknown = found.values.dtype == np.uint16 and not found.stated and not frame.bit_depth
    largest = int(found.values.max()) if unknown else 0
    shown = alpha is None or frame.background is not None
    return pixels, white, Seen(found.values.shape[:2], largest, not shown, found.without)


def _white(values: np.ndarray, white: int, bit_depth: int) -> int:
    """The value that becomes 1: the file's or type's, or of over 8 bits what the user says."""
    if values.dtype.kind == "f":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # false for NaN too
            whites = [white for white in (255, 65535) if 1 < high <= white and low >= 0]
            hint = f"; divide by {whites[0]}" if whites else ""
            raise DataError(
                f"has float pixels from {low:g} to {high:g}; they must be finite and within 0 "
                f"and 1{hint}"
            )
        return 1
    if 0 < white <= 255:
        return white
    if not bit_depth:
        if not white:
            raise DataError(
                f"has integer pixels ({values.dtype.name}) whose white is not known: make them "
                "uint8 or uint16, or say with --bit_depth=12 that white is 4095"
            )
        return white
    top = 2**bit_depth - 1
    if values.min() < 0 or values.max() > top:
        odd = int(values.max() if values.max() > top else values.min())
        raise DataError(f"has a value of {odd}, and --bit_depth={bit_depth} goes from 0 to {top}")
    return top


def _laid(
    values: np.ndarray, alpha: np.ndarray, background: tuple[int, int, int], white: int
) -> np.ndarray:
    """Colors over a background of 0 to 255, float32 of the scale of `white`, not rounded."""
    if values.ndim == 2 and len(set(background)) > 1:
        values = np.repeat(values[..., None], 3, axis=-1)
    color = np.array(background, np.float32) * np.float32(white / 255)
    alpha = alpha if values.ndim == 2 else alpha[..., None]
    ground = color[0] if values.ndim == 2 else color
    return alpha * values.astype(np.float32) + (1 - alpha) * ground
