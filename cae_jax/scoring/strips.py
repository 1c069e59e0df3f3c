"""Images of any length by tiles, as line scans come: one compiled shape, whatever the length.

A few tiles at a time are inspected on the device; their maps are averaged back, smoothed and
reduced on the host as `scorer` and `tiles` do it for images of one size, up to rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np
from scipy import ndimage

from cae_jax.scoring import tiles
from cae_jax.scoring.intensity import seen_with
from cae_jax.scoring.residuals import Reduction
from cae_jax.types import DataError, Method, Scores, Variables

AT_ONCE = 8  # tiles of a call
_MODES = {"reflect": "reflect", "edge": "nearest", "crop": "reflect"}  # SciPy's
StripScorer: TypeAlias = Callable[[Variables, np.ndarray], Scores[np.ndarray]]


def scorer(
    method: Method, tile: int, overlap: int, reduction: Reduction, intensity: str
) -> StripScorer:
    """Returns the function (variables, image [H, W, C]) -> Scores of that one image, on the host.

    Args:
      method: for images [B, tile, tile, C].
      tile: side of a tile, in pixels; H and W are no less.
      overlap: pixels that two tiles have in common.
      reduction: of a map whose number does not depend on its size: "max" or "top".
      intensity: see `intensity.light`; of the whole image.

    The function raises DataError for an image that is smaller than a tile.
    """

    @jax.jit
    def inspect(variables: Variables, some: jax.Array) -> dict[str, jax.Array]:
        maps = method.inspect(variables, some).maps
        return {name: tiles.full(maps[name], tile) for name in reduction.distances}

    weight = tiles.weights(tile, overlap)

    def score(variables: Variables, image: np.ndarray) -> Scores[np.ndarray]:
        size = (image.shape[0], image.shape[1])
        if min(size) < tile:
            raise DataError(
                f"is {size[0]} x {size[1]} pixels (height x width), smaller than a tile of {tile} "
                "(--tile)"
            )
        even, at = seen_with(intensity)(image), tiles.corners(size, tile, overlap)
        sums = {name: np.zeros(size, np.float32) for name in reduction.distances}
        for first in range(0, len(at), AT_ONCE):
            some = at[first : first + AT_ONCE]
            filled = np.concatenate([some, np.repeat(some[-1:], AT_ONCE - len(some), axis=0)])
            cut = np.stack([even[r : r + tile, c : c + tile] for r, c in filled])
            found = jax.device_get(inspect(variables, cut))
            for name, maps in found.items():
                for (r, c), each in zip(some, maps, strict=False):
                    sums[name][r : r + tile, c : c + tile] += each * weight
        del even  # a scan may be as large as memory lets it be
        total = tiles.covered(size, tile, overlap)
        for each in sums.values():
            each /= total
        del total
        maps = {name: smooth(each, reduction) for name, each in sums.items()}
        distances = {name: np.array([reduced(each, reduction)]) for name, each in maps.items()}
        return Scores(distances, {name: each[None] for name, each in maps.items()}, None)

    return score


def smooth(residual: np.ndarray, r: Reduction) -> np.ndarray:
    """Returns a map [H, W] smoothed as `residuals.smooth` does it."""
    if not r.smooth:
        return residual
    return ndimage.gaussian_filter(residual, r.smooth, mode=_MODES[r.border])


def reduced(residual: np.ndarray, r: Reduction) -> np.float32:
    """Returns a map [H, W] as one number, by "max" or "top", see `residuals.image_score`."""
    flat = residual.ravel()
    if r.reduce == "max":
        return np.float32(flat.max())
    k = max(1, math.ceil(round(r.top * flat.size, 6)))
    return np.float32(np.partition(flat, flat.size - k)[-k:].mean(dtype=np.float64))
