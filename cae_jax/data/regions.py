"""Defects of which it is enough to find a part: the saturation thresholds of MVTec LOCO AD.

What is missing from a box could lie anywhere in its compartment, so all of that is defective in the
mask, and to mark as much as the missing thing covers is enough (Bergmann et al., IJCV 130, 2022,
Sec. 5). A file of masks has the level of its defect, by which defects_config.json knows it; here
each level of each file is a region, whether or not its pixels touch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cae_jax.data import pictures
from cae_jax.data.frame import Frame, placed_mask
from cae_jax.data.picture import Picture
from cae_jax.types import DataError, Region


class Saturation(NamedTuple):
    """From what overlap on a defect is found whole."""

    threshold: float  # pixels of a file; a share of the region's where it is relative
    relative: bool = False

    def share(self, area: int) -> float:
        """Returns it as a share, in (0, 1], of a region of so many pixels."""
        return min(1.0, self.threshold if self.relative else self.threshold / area)


def read(config: Path) -> dict[int, Saturation]:
    """Returns the saturation of each level of masks, from a defects_config.json.

    Raises DataError where it cannot be read, or a record lacks its level or a threshold above 0.
    """
    try:
        records = json.loads(config.read_text(encoding="utf-8-sig"))
        found = {}
        for each in records:
            threshold = float(each["saturation_threshold"])
            if not (0 < threshold < math.inf):
                raise ValueError(f"a saturation_threshold of {threshold:g}")
            relative = bool(each.get("relative_saturation", False))
            found[int(each["pixel_value"])] = Saturation(threshold, relative)
    except KeyError as error:
        raise DataError(f"{config.name}: a record has no {error.args[0]}") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{config.name} cannot be read: {error}") from error
    return found


def of_file(
    part: np.ndarray,
    found: Picture,
    saturation: Mapping[int, Saturation],
    size: tuple[int, int],
    frame: Frame,
) -> tuple[list[Region], list[int]]:
    """Returns the regions of one file of a mask, and its levels of which no saturation is known:
    such a region is found once all of it is. What does not count, or is outside, is in none.

    Args:
      part: what is defective, bool [H, W].
      found: the file, of that size.
      saturation: of each level.
      size: (height, width) of its image, to which regions are brought.
      frame: what its image is brought to.
    """
    values = found.values if found.values.ndim == 2 else found.values.max(axis=-1)
    regions, unknown = [], []
    for level in np.unique(values[part]).tolist():
        region = part & (values == level)
        area = int(region.sum())
        if region.shape != size:
            region = pictures.resize_mask(region, size)
        pixels = np.flatnonzero(placed_mask(region, frame))
        if level not in saturation:
            unknown.append(level)
        if pixels.size:
            own = saturation.get(level, Saturation(1, relative=True))
            regions.append(Region(pixels, own.share(area) * pixels.size))
    return regions, unknown
