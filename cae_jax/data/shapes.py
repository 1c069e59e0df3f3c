"""Shapes drawn by hand, as the pixels that they cover.

A point's coordinates are in pixels from the image's corner, so that the middle of the first pixel
is at (0.5, 0.5). A pixel is covered whose middle is inside. Pillow draws all but polygons, which it
fills up to two pixels beyond their outline.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Point = tuple[float, float]


def covered(kind: str, points: Sequence[Point], size: tuple[int, int]) -> np.ndarray:
    """Returns the pixels that a shape covers, bool [H, W].

    Args:
      kind: "polygon", by the even-odd rule, and where it is so small that no pixel's middle is in
        it the pixels of its corners; "rectangle", of two corners; "circle", of its center and a
        point on it; "line" or "linestrip", a pixel wide; "point" or "points".
      points: (x, y) in pixels.
      size: (height, width) in pixels.

    Raises:
      ValueError: another kind, or too few points for it.
    """
    image = Image.new("1", size[::-1])
    draw = ImageDraw.Draw(image)
    at = [(x - 0.5, y - 0.5) for x, y in points]  # Pillow's pixels have their middle at 0
    fewest = {"polygon": 3, "rectangle": 2, "circle": 2, "line": 2, "linestrip": 2}
    if len(at) < fewest.get(kind, 1):
        raise ValueError(f"a {kind} of {len(at)} points")
    if kind == "rectangle":
        (x0, y0), (x1, y1) = points[:2]
        kind, points = "polygon", [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    if kind == "polygon":
        found = _inside(points, size)
        return found if found.any() else covered("points", points, size)
    if kind == "circle":
        (x, y), edge = at[:2]
        radius = math.dist((x, y), edge)
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=1)
    elif kind in ("line", "linestrip"):
        draw.line(at, fill=1)
    elif kind in ("point", "points"):
        draw.point([(math.floor(x), math.floor(y)) for x, y in points], fill=1)
    else:
        raise ValueError(f"shape_type {kind!r}, expected polygon, rectangle, circle, line or point")
    return np.asarray(image)


def _inside(points: Sequence[Point], size: tuple[int, int]) -> np.ndarray:
    """The pixels whose middle is in a polygon: an odd number of edges crosses the row before it."""
    height, width = size
    crossed = np.zeros((height, width + 1), np.int64)
    middles = np.arange(height) + 0.5
    for (x0, y0), (x1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        rows = np.flatnonzero((y0 <= middles) != (y1 <= middles))
        if len(rows):
            x = x0 + (middles[rows] - y0) * (x1 - x0) / (y1 - y0)
            np.add.at(crossed, (rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)), 1)
    return np.cumsum(crossed, axis=1)[:, :width] % 2 == 1


def of_coco(annotation: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Returns the pixels of an annotation of COCO's, bool [H, W]: of its polygons, or its run
    lengths, or else its box.

    Raises ValueError and KeyError for what is none.
    """
    found = annotation.get("segmentation")
    if isinstance(found, Mapping):
        height, width = found["size"]
        if (height, width) != size:
            raise ValueError(f"run lengths of {width} x {height}, of an image of {size[::-1]}")
        return runs(found["counts"], size)
    if found:
        each = [covered("polygon", [*zip(p[::2], p[1::2], strict=True)], size) for p in found]
        return np.any(each, axis=0)
    x, y, width, height = map(float, annotation["bbox"])
    return covered("rectangle", [(x, y), (x + width, y + height)], size)


def runs(counts: Sequence[int] | str, size: tuple[int, int]) -> np.ndarray:
    """Returns the pixels of run lengths, bool [H, W]: of pixels out and in by turns, column by
    column; as text they are packed as pycocotools does it, six bits a character.

    Raises ValueError where they do not end with the image.
    """
    lengths = _unpacked(counts) if isinstance(counts, str) else list(counts)
    inside = np.arange(len(lengths)) % 2 == 1
    if sum(lengths) != size[0] * size[1] or min(lengths, default=0) < 0:
        raise ValueError(f"run lengths of {sum(lengths)} pixels, of {size[0] * size[1]}")
    return np.repeat(inside, lengths).reshape(size[::-1]).T


def _unpacked(text: str) -> list[int]:
    """Five bits a character and one that says that more follow; from the fourth number on less the
    last but one."""
    found: list[int] = []
    value = bits = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            if code & 16:  # negative
                value -= 1 << bits
            found.append(value + (found[-2] if len(found) > 2 else 0))
            value = bits = 0
    return found
