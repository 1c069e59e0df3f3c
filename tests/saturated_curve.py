"""The curve of sPRO as its paper defines it, threshold by threshold and region by region."""

import numpy as np


def slow_saturated(masks, maps, regions, counts=None):
    """Points (fpr, sPRO) at every distinct threshold, region by region."""
    defect = masks.copy()
    for i, own in enumerate(regions):
        for at in (at for region in own for at in region.pixels):
            defect[i][np.unravel_index(at, masks[i].shape)] = True
    good = ~defect if counts is None else ~defect & counts
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        shares = []
        for i, own in enumerate(regions):
            for region in own:
                overlap = sum(1 for at in region.pixels if maps[i].flat[at] >= threshold)
                shares.append(min(overlap / region.saturation, 1))
        points.append(((maps[good] >= threshold).mean(), sum(shares) / len(shares)))
    return points
