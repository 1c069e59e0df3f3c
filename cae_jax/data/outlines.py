"""Masks that are drawn, not painted: what the shapes of annotation tools cover, in pixels.

Coordinates are x, y with the corner of the first pixel at 0, 0, so that its centre is at .5, .5. A
pixel is covered where its centre lies in a shape, by the even-odd rule; of centres on an outline,
those on its left and upper side are in. A shape without a centre in it, as a hairline scratch,
covers the pixels that its outline runs through, so that no defect is lost.
"""

from __future__ import annotations

import base64
import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from cae_jax.data import formats, picture
from cae_jax.data.frame import MAX_SIDE
from cae_jax.types import DataError

_FARTHEST = 10 * MAX_SIDE  # that a point can lie from an image


class Shape(NamedTuple):
    """One shape, as its tool wrote it: nothing of it has been checked.

    kind and data: "polygon", "line" (open) and "points", [[x, y], ...]; "circle", its centre and a
    point on it; "rle", COCO's {"size": [H, W], "counts": numbers or text}; "bitmap", ([x, y], the
    text in base64 of an image whose first pixel lies there).
    """

    kind: str
    data: Any


class Drawn(NamedTuple):
    """A mask of shapes laid over each other."""

    height: int
    width: int
    shapes: tuple[Shape, ...]


def raster(drawn: Drawn) -> np.ndarray:
    """Returns which pixels the shapes cover, bool [H, W]; what lies outside is cut off.

    Raises DataError for a shape that makes no sense, and a size out of `picture`'s limits.
    """
    picture.check_limits(drawn.height, drawn.width)
    whole = np.zeros((drawn.height, drawn.width), bool)
    for shape in drawn.shapes:
        try:
            _draw(whole, shape)
        except (KeyError, TypeError, ValueError, OverflowError, IndexError) as error:
            raise DataError(f"a {shape.kind} that cannot be drawn: {error}") from error
    return whole


def _draw(whole: np.ndarray, shape: Shape) -> None:
    if shape.kind == "rle":
        whole |= _rle(shape.data, whole.shape)
    elif shape.kind == "bitmap":
        _paste(whole, *shape.data)
    else:
        points = _points(shape.data)
        if shape.kind == "circle":
            _circle(whole, points)
        elif shape.kind == "polygon":
            _polygon(whole, points)
        elif shape.kind == "line":
            _trace(whole, points)
        else:
            for point in points:
                _trace(whole, point[None])


def _points(data: Any) -> np.ndarray:
    points = np.asarray(data, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError("not a list of points x, y")
    if not (np.abs(points) <= _FARTHEST).all():  # nor where one is not a number
        raise ValueError("a point far from any image")
    return points


def _polygon(whole: np.ndarray, points: np.ndarray) -> None:
    low = np.clip(np.floor(points.min(axis=0)), 0, whole.shape[::-1]).astype(int)
    high = np.clip(np.ceil(points.max(axis=0)), low, whole.shape[::-1]).astype(int)
    width, height = high - low
    flips = np.zeros((height, width + 1), bool)  # where a row goes in or out
    corners = (points - low).tolist()
    for one, other in zip(corners, corners[1:] + corners[:1], strict=True):
        (x0, y0), (x1, y1) = sorted((one, other), key=lambda point: point[1])
        rows = np.arange(max(0, math.ceil(y0 - 0.5)), min(height, math.ceil(y1 - 0.5)))
        if len(rows):
            x = x0 + (rows + 0.5 - y0) * ((x1 - x0) / (y1 - y0))
            flips[rows, np.clip(np.ceil(x - 0.5), 0, width).astype(int)] ^= True
    inside = np.logical_xor.accumulate(flips, axis=1)[:, :width]
    if inside.any():
        whole[low[1] : high[1], low[0] : high[0]] |= inside
    else:
        _trace(whole, np.concatenate([points, points[:1]]))


def _trace(whole: np.ndarray, points: np.ndarray) -> None:
    """Covers the pixels that a line runs through, looked at twice a pixel."""
    stops = [points[:1]]
    for one, other in itertools.pairwise(points):
        stops.append(np.linspace(one, other, 2 + int(2 * np.abs(other - one).max())))
    width_height = np.array(whole.shape[::-1])
    at = np.concatenate(stops)
    at = at[((at >= 0) & (at <= width_height)).all(axis=1)]
    x, y = np.minimum(at.astype(int), width_height - 1).T
    whole[y, x] = True


def _circle(whole: np.ndarray, points: np.ndarray) -> None:
    if len(points) != 2:
        raise ValueError(f"{len(points)} points, not its centre and one on it")
    (x, y), radius = points[0], np.hypot(*(points[1] - points[0]))
    rows, columns = np.ogrid[: whole.shape[0], : whole.shape[1]]
    inside = (columns + 0.5 - x) ** 2 + (rows + 0.5 - y) ** 2 < radius**2
    if inside.any():
        whole |= inside
    else:
        _trace(whole, points[:1])


def _paste(whole: np.ndarray, at: Sequence[float], text: str) -> None:
    x, y = (round(float(value)) for value in at)
    with formats.opened(base64.b64decode(text), "a bitmap in it") as opened:
        values = opened.picture().values
    marked = (values.reshape(*values.shape[:2], -1) != 0).any(axis=2)
    place = whole[max(0, y) :, max(0, x) :]
    part = marked[max(0, -y) :, max(0, -x) :][: place.shape[0], : place.shape[1]]
    place[: part.shape[0], : part.shape[1]] |= part


def _rle(data: Any, size: tuple[int, ...]) -> np.ndarray:
    """Runs of pixels out and in by turns, down the columns."""
    if tuple(data["size"]) != size:
        raise ValueError(f"its size is {data['size']}, the image's {list(size)}")
    counts = data["counts"]
    runs = np.asarray(_numbers(counts) if isinstance(counts, str) else counts, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != size[0] * size[1]:
        raise ValueError(f"its runs do not make {size[0]} x {size[1]} pixels")
    marked = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return marked.reshape(size[1], size[0]).T


def _numbers(text: str) -> list[int]:
    """COCO's compressed runs: five bits a character from "0" on, the sixth says that more follow;
    from the fourth on, differences from the run before the last."""
    runs: list[int] = []
    value = bits = 0
    for letter in text:
        code = ord(letter) - ord("0")
        if not 0 <= code < 64:
            raise ValueError(f"{letter!r} is no letter of compressed runs")
        value |= (code & 31) << bits
        bits += 5
        if not code & 32:
            value -= (code & 16) and 1 << bits
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = bits = 0
    return runs
