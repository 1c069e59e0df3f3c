"""Pictures of where an image is unusual, for people: the image, and its map over it."""

from __future__ import annotations

import numpy as np

from cae_jax.data import pictures
from cae_jax.reports import charts

OUTLINE = (0, 229, 255)
_HEAT = 0.6  # of a pixel of the map; the rest is the image


def panels(
    pixels: np.ndarray,
    residual: np.ndarray,
    mask: np.ndarray | None,
    top: float,
    size: tuple[int, int],
    side: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the image, and its map over it in gray, both with the mask's outline.

    Args:
      pixels: float32 [S, S, C] in [0, 1], as the model sees it.
      residual: its map, float32 [S, S].
      mask: bool [S, S]; None for no outline.
      top: of the color scale, which begins at 0; where it is not finite, the map's own maximum.
      size: (height, width) of the file in pixels, whose shape the pictures have.
      side: their longer one, in pixels.

    Returns:
      float32 [h, w, 3] in [0, 1], twice.
    """
    height, width = (max(1, round(each * side / max(size))) for each in size)
    bands = [pictures.resize_map(band, (height, width)) for band in np.moveaxis(pixels, -1, 0)]
    image = np.clip(np.stack(bands * (3 // len(bands)), axis=-1), 0, 1)
    shown = pictures.resize_map(np.asarray(residual, np.float32), (height, width))
    heat = charts.heat(shown, top if np.isfinite(top) else float(shown.max())) / np.float32(255)
    over = (1 - _HEAT) * image.mean(axis=-1, keepdims=True) + _HEAT * heat
    if mask is not None:
        edge = outline(pictures.resize_mask(mask, (height, width)))
        for panel in (image, over):
            panel[edge] = np.array(OUTLINE, np.float32) / 255
    return image, over


def outline(mask: np.ndarray) -> np.ndarray:
    """Returns the pixels of a mask, bool [H, W], that have a neighbor outside it, or the edge."""
    padded = np.pad(mask, 1)
    inside = padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]
    return mask & ~inside
