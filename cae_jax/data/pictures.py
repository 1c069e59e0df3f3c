"""Arrays to image files: 8-bit PNG, 32-bit float TIFF, and the folders of MVTec's evaluation."""

from __future__ import annotations

import io
import os
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cae_jax.data.frame import Frame
from cae_jax.files import fitting, write_whole
from cae_jax.types import DataError


def png_bytes(array: np.ndarray, quick: bool = False) -> bytes:
    """Returns the content of an 8-bit PNG.

    Args:
      array: [H, W], [H, W, 1] or [H, W, 3]: uint8, bool, or float in [0, 1], rounded to the
        nearest level.
      quick: in a quarter of the time; of a smooth map the file is hardly larger.

    Raises:
      ValueError: another shape, type or range.
    """
    if quick:
        return _encoded(_levels(array), "PNG", compress_level=1, compress_type=zlib.Z_RLE)
    return _encoded(_levels(array), "PNG")


def jpeg_bytes(array: np.ndarray) -> bytes:
    """Returns the content of a JPEG, for looking at: a tenth of a PNG's time and size.

    Takes and raises what `png_bytes` does.
    """
    return _encoded(_levels(array), "JPEG")


def _levels(array: np.ndarray) -> np.ndarray:
    array = np.asarray(array)
    if array.ndim == 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if (array.ndim != 2 and array.shape[2:] != (3,)) or 0 in array.shape:
        raise ValueError(f"array must be [H, W], [H, W, 1] or [H, W, 3], not {array.shape}")
    if array.dtype != np.uint8:
        if array.dtype != bool and not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"array must be uint8, bool or float, not {array.dtype}")
        if not np.all((array >= 0) & (array <= 1)):
            raise ValueError("array must lie within 0 and 1")
        array = np.rint(array.astype(np.float64) * 255).astype(np.uint8)
    return array


def save_png(path: str | os.PathLike[str], array: np.ndarray) -> None:
    """Writes an array as an 8-bit PNG, whole or not at all; the folder of `path` exists.

    Takes and raises what `png_bytes` does, and DataError where the file cannot be written.
    """
    write_whole(path, png_bytes(array))


def save_tiff(path: str | os.PathLike[str], residual: np.ndarray) -> None:
    """Writes a map, float32 [H, W], as a 32-bit float TIFF, whole or not at all, bit for bit.

    The folder of `path` exists. Raises ValueError for another shape or type, and DataError where
    the file cannot be written.
    """
    write_whole(path, _encoded(_map(residual), "TIFF"))


def resize_map(residual: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a map, float32 [H, W], to `size` = (height, width), with Pillow's bilinear filter.

    Returns float32. Raises ValueError for another shape or type.
    """
    return np.asarray(Image.fromarray(_map(residual)).resize(size[::-1], Image.Resampling.BILINEAR))


def resize_mask(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resizes a mask, bool [H, W], to `size` = (height, width); a pixel takes its nearest one's.

    Returns bool. Raises ValueError for another shape or type.
    """
    image = Image.fromarray(_mask(mask).astype(np.uint8))
    return np.asarray(image.resize(size[::-1], Image.Resampling.NEAREST)) == 1


def lettered(text: str, size: tuple[int, int], color: tuple[int, int, int]) -> np.ndarray:
    """Returns white text in the middle of a field of one color, uint8 [H, W, 3].

    `size` is (height, width); the letters are half as high as the field, or lower where the text
    would be wider than it.
    """
    height, width = size
    image = Image.new("RGB", (width, height), color)
    draw = ImageDraw.Draw(image)
    letters = height / 2
    wide = draw.textlength(text, ImageFont.load_default(letters))
    font = ImageFont.load_default(max(4, letters * min(1, 0.94 * width / wide)))
    draw.text((width / 2, height / 2), text, "white", font, anchor="mm")
    return np.asarray(image)


def write_predictions(
    folder: str | os.PathLike[str],
    category: str,
    paths: Sequence[str],
    sizes: Sequence[tuple[int, int]],
    maps: np.ndarray,
    masks: np.ndarray | None,
    frame: Frame | None = None,
) -> None:
    """Writes maps and predicted masks at their images' own size, where MVTec's script reads them.

    Of "test/KIND/000.png" the map is folder/anomaly_maps/CATEGORY/test/KIND/000.tiff and the mask
    folder/predicted_masks/CATEGORY/test/KIND/000.png. Two images of one folder that differ only
    in their suffix keep it: 000.bmp.tiff and 000.png.tiff.

    Args:
      folder: where; made when it is not there.
      category: the folders' name; "" where the paths begin with it.
      paths: of the n test images, relative to the category, with forward slashes.
      sizes: (height, width) in pixels of each image.
      maps: float32 [n, H, W].
      masks: bool [n, H, W], or None to write maps alone.
      frame: that the images were in; None for images stretched to their maps' size.

    Raises:
      ValueError: another type, or lengths that differ.
      DataError: a folder or file cannot be written.
    """
    stems = [os.path.splitext(path)[0] for path in paths]
    count = Counter(stems)
    names = [stem if count[stem] == 1 else path for stem, path in zip(stems, paths, strict=True)]
    each = masks if masks is not None else [None] * len(names)
    for name, size, residual, mask in zip(names, sizes, maps, each, strict=True):
        write_prediction(folder, f"{category}/{name}".lstrip("/"), size, residual, mask, frame)


def write_prediction(
    folder: str | os.PathLike[str],
    name: str,
    size: tuple[int, int],
    residual: np.ndarray,
    mask: np.ndarray | None,
    frame: Frame | None = None,
) -> None:
    """Writes folder/anomaly_maps/NAME.tiff and, with a mask, folder/predicted_masks/NAME.png.

    Takes what `write_predictions` takes, of one image; raises what it raises. A name that would be
    too long with its suffix is shortened, see `files.fitting`.
    """
    *above, last = name.split("/")
    path = Path(folder, "anomaly_maps", *above, fitting(last, ".tiff"))
    _make_folder(path.parent)
    save_tiff(path, (frame or Frame(residual.shape)).back(_map(residual), size))
    if mask is not None:
        path = Path(folder, "predicted_masks", *above, fitting(last, ".png"))
        _make_folder(path.parent)
        save_png(path, (frame or Frame(mask.shape)).back(_mask(mask), size))


def _map(residual: np.ndarray) -> np.ndarray:
    residual = np.asarray(residual)
    if residual.ndim != 2 or residual.dtype != np.float32:
        raise ValueError(f"a map must be float32 [H, W], not {residual.dtype} {residual.shape}")
    return residual


def _mask(mask: np.ndarray) -> np.ndarray:
    mask = np.asarray(mask)
    if mask.ndim != 2 or mask.dtype != bool:
        raise ValueError(f"mask must be bool [H, W], not {mask.dtype} {mask.shape}")
    return mask


def _encoded(array: np.ndarray, form: str, **how: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(array)).save(buffer, format=form, **how)
    return buffer.getvalue()


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{str(folder)!r}: cannot be made: {error.strerror}") from error
