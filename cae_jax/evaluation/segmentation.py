"""From residual maps to defective regions: a threshold, an opening, and a smallest area.

Bergmann et al., CVPR 2019, Sec. 4.2: the threshold is raised over the maps of good validation
images until their largest region is just under a minimum area, and an image with a region of that
area is defective. Bergmann et al., VISAPP 2019, open the thresholded map with a disc of diameter 4
first. Opening commutes with thresholding, so the map itself is opened, once for all thresholds.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

PIXELS_PER_DEFECT = 2000  # the smallest defect is one pixel in so many, 0.05 %
_EIGHT_CONNECTED = np.ones((3, 3), int)


def default_area(n_pixels: int) -> int:
    """Returns the smallest defect, in pixels, of an image of `n_pixels`: 0.05 %, at least 1.

    32 pixels at 256 x 256. CVPR 2019 sets one area per category and prints none of them; this one
    is ours.
    """
    return max(1, n_pixels // PIXELS_PER_DEFECT)


def disc(diameter: int) -> np.ndarray:
    """Returns bool [diameter, diameter]: the pixels whose centers lie in the circle of the box.

    Diameter 4 is a 4 x 4 box without its corners. Raises ValueError for a diameter below 1.
    """
    if diameter < 1:
        raise ValueError(f"diameter must be at least 1, got {diameter}")
    twice = 2 * np.arange(diameter) - (diameter - 1)  # twice the offset, an integer
    return twice[:, None] ** 2 + twice**2 <= diameter**2


def segment(maps: np.ndarray, threshold: float, opening: int = 4) -> np.ndarray:
    """Returns bool [..., H, W]: `maps` [..., H, W] > `threshold`, opened with a disc.

    `opening` is the disc's diameter in pixels, 0 for none: what stays is what a disc covers that
    fits into a region and into the image. Raises ValueError for maps that are not float and finite.
    """
    # float64, or NumPy rounds the threshold to the map's float32
    return _opened(maps, opening) > np.float64(threshold)


def regions(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the regions of a mask, bool [H, W]: (labels, areas).

    Labels, int32 [H, W], are 0 outside and 1..k inside; pixels that touch by a side or a corner
    belong together. Areas, int64 [k], are in pixels. Raises ValueError for another rank.
    """
    from scipy import ndimage  # takes its time, which a --help need not wait for

    if np.ndim(mask) != 2:
        raise ValueError(f"mask must be [H, W], got shape {np.shape(mask)}")
    labels, k = ndimage.label(mask, _EIGHT_CONNECTED)
    return labels, np.bincount(labels.ravel(), minlength=k + 1)[1:]


def largest(mask: np.ndarray) -> int:
    """Returns the area of a mask's largest region in pixels; 0 without one. See `regions`."""
    return int(regions(mask)[1].max(initial=0))


def minimum_area_threshold(maps: np.ndarray, area: int, opening: int = 4) -> float:
    """Returns the lowest threshold that leaves no region of `area` pixels on the maps [n, H, W].

    It is one of the maps' values, and exact: under any lower value some map has a region of at
    least `area` pixels (or there is no lower value). For maps that come one after the other, see
    `MinimumArea`.

    Raises ValueError for an area below 1, no map, and maps that are not [n, H, W] and finite.
    """
    found = MinimumArea(area, opening)
    if np.ndim(maps) != 3 or not np.size(maps):
        got = np.shape(maps)
        raise ValueError(f"maps must be [n, H, W] with at least one map, got shape {got}")
    for each in maps:
        found = found.seen(each)
    return found.threshold


class MinimumArea(NamedTuple):
    """The threshold of `minimum_area_threshold` of the maps seen so far, which it does not keep.

    The areas fall as the threshold rises, so each map is bisected over its distinct values, and
    only if it needs more than those before.
    """

    area: int
    opening: int = 4
    n: int = 0  # maps seen
    lowest: float = math.inf  # of all values seen
    needed: float = -math.inf  # by the map that needs most; -inf where no region can be too large

    @property
    def threshold(self) -> float:
        """The lowest one that leaves no region of `area` pixels; infinite before the first map."""
        return self.lowest if self.needed == -math.inf else self.needed

    def seen(self, each: np.ndarray) -> MinimumArea:
        """Returns the record with one more map, [H, W]; raises ValueError for an area below 1 and
        a map that is not finite."""
        if self.area < 1:
            raise ValueError(f"area must be at least 1 pixel, got {self.area}")
        lowest = min(self.lowest, float(np.min(each)))
        now = self._replace(n=self.n + 1, lowest=lowest)
        opened = _opened(each, self.opening)
        if largest(opened > np.float64(self.needed)) < self.area:
            return now
        values = np.unique(opened[opened > np.float64(self.needed)])
        low, high = 0, len(values) - 1  # above the highest value there is nothing
        while low < high:
            middle = (low + high) // 2
            if largest(opened > values[middle]) < self.area:
                high = middle
            else:
                low = middle + 1
        return now._replace(needed=float(values[low]))


def _opened(maps: np.ndarray, diameter: int) -> np.ndarray:
    """Gray opening of [..., H, W]: the highest threshold at which a pixel is kept, or -inf."""
    from scipy import ndimage  # as in `regions`

    maps = np.asarray(maps)
    if maps.ndim < 2 or not np.issubdtype(maps.dtype, np.floating):
        raise ValueError(f"maps must be float [..., H, W], got {maps.dtype} {maps.shape}")
    if not np.isfinite(maps).all():
        raise ValueError("maps must be finite, got NaN or infinity")
    if diameter == 0:
        return maps
    footprint = disc(diameter).reshape((1,) * (maps.ndim - 2) + (diameter, diameter))
    return ndimage.grey_opening(maps, footprint=footprint, mode="constant", cval=-np.inf)
