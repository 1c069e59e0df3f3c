"""Whether the scores of a line are still those of the good images that the model was made with."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

LAST = 20  # scores that are looked at
# Fewer unseen images have no band that nine good images in ten fall into: the widest, from the
# smallest to the largest of n, holds (n - 1) / (n + 1) of them.
FEWEST = 19


def band(unseen: ArrayLike) -> tuple[float, float] | None:
    """Returns the range of distances that good images fall into, from those of unseen ones [n].

    From the k-th smallest to the k-th largest, k = floor((n + 1) / 20) but at least 1: another
    good image lies below it with a chance of k / (n + 1), and above it with the same, at most 5 %
    each where n >= FEWEST. None without images.
    """
    good = np.sort(np.asarray(unseen, np.float64))
    if not good.size:
        return None
    k = max(1, (good.size + 1) // 20)
    return float(good[k - 1]), float(good[good.size - k])


def sentence(scores: Sequence[float], unseen: ArrayLike) -> str:
    """Returns what to tell an operator of the newest scores of one model, newest first; "" if they
    are as they should be, or too few, or the unseen images are fewer than FEWEST.

    Told is when more than half of the LAST scores leave the band, where two are expected to. Of
    good images and 19 unseen ones the chance of that is 0.0009, and smaller with more.
    """
    found = band(unseen)
    if found is None or np.size(unseen) < FEWEST or len(scores) < LAST:
        return ""
    newest = np.asarray(scores[:LAST], np.float64)
    below, above = int((newest < found[0]).sum()), int((newest > found[1]).sum())
    if below + above <= LAST // 2:
        return ""
    where = "outside" if below and above else "above" if above else "below"
    return (
        f"{below + above} of the last {LAST} scores lie {where} the band of good parts: either "
        "many parts are defective, or the camera, the light or the parts have changed."
    )
