"""Where the defect is: residual maps cut into regions, and judged against the masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from cae_jax import files
from cae_jax.evaluation import pixel_metrics, segmentation, thresholds, verdict
from cae_jax.types import GOOD, Split

_Known: TypeAlias = tuple[np.ndarray, np.ndarray, np.ndarray | None]
_CURVE_POINTS = 400  # of the PRO curve that is kept for drawing


class Localization(NamedTuple):
    """What the minimum-area rule makes of the maps of a split (CVPR 2019, Sec. 4.2)."""

    threshold: thresholds.Threshold
    point: verdict.OperatingPoint  # an image with a region of the minimum area is defective
    predicted: np.ndarray  # bool [n_test, H, W]


def localize(
    split: Split,
    test: np.ndarray,
    found: segmentation.MinimumArea,
    source: str = thresholds.VALIDATION_GOOD,
) -> Localization | None:
    """Segments the test images by the maps' threshold of good images that were not seen.

    Args:
      split: what the maps are of.
      test: residual maps of the test images, [m, H, W].
      found: of the unseen images' residual maps.
      source: of them, one of thresholds.UNSEEN.

    Returns:
      None where there is no unseen image to pick a threshold on.
    """
    if not found.n:
        return None
    threshold = thresholds.Threshold(found.threshold, "min_area", source, None, found.n)
    predicted = segmentation.segment(test, found.threshold, found.opening)
    if (counts := split.counted(split.test_paths)) is not None:
        predicted &= counts
    flagged = np.array([segmentation.largest(each) >= found.area for each in predicted])
    defective = split.labels == 1
    point = verdict.from_verdicts(threshold, flagged[~defective], flagged[defective])
    return Localization(threshold, point, predicted)


def results(
    split: Split, maps: np.ndarray, distances: np.ndarray, found: Localization | None
) -> dict[str, Any]:
    """Returns kinds (of defects, each against all good test images), sizes (of defects, small and
    large) and region_overlap; the last two of the segmentation, so not there without one.

    `maps` [m, H, W] and `distances` [m] are those of the test images.
    """
    known = split.has_mask
    counts = split.counted(split.test_paths)
    kinds = pixel_metrics.by_kind(split.kinds, distances, split.masks, maps, known, counts=counts)
    if split.regions:
        names = np.array(split.kinds, dtype=object)
        for kind in kinds:
            chosen = (names == kind) | (names == GOOD)
            kinds[kind] |= _saturated(split, _known(split, maps, chosen), chosen, (0.05,))
    if not found:
        return {"kinds": kinds}
    masks, predicted = split.masks[known], found.predicted[known]
    return {
        "kinds": kinds,
        "sizes": pixel_metrics.by_size(masks, predicted),
        "region_overlap": pixel_metrics.region_overlap(masks, predicted),
    }


def pixel_results(
    split: Split, maps: np.ndarray, chosen: np.ndarray | None = None
) -> dict[str, float]:
    """Returns pixel_auroc, pixel_ap, au_pro_30, au_pro_5, au_pro_1 of the test maps [m, H, W]; of
    data with saturations of defects au_spro_30, au_spro_5 and au_spro_1, too.

    Images that have a mask count, at the size of the maps, and of these the `chosen` ones, bool
    [m], or all; NaN without a defective or without a good pixel.
    """
    known = _known(split, maps, chosen)
    found = pixel_metrics.summary(*known)
    if not split.regions:
        return found
    return found | _saturated(split, known, chosen, pixel_metrics.LIMITS)


def _saturated(
    split: Split, known: _Known, chosen: np.ndarray | None, limits: Sequence[float]
) -> dict[str, float]:
    """au_spro_... of what `_known` found."""
    masks, maps, counts = known
    has = split.has_mask if chosen is None else split.has_mask & chosen
    regions = [split.regions.get(split.test_paths[i], ()) for i in np.flatnonzero(has)]
    areas = pixel_metrics.au_spro(masks, maps, regions, counts, limits)
    return {f"au_spro_{limit * 100:.0f}": area for limit, area in zip(limits, areas, strict=True)}


def _known(split: Split, maps: np.ndarray, chosen: np.ndarray | None = None) -> _Known:
    """Masks, maps [n, H, W] and what counts, or None, of the test images with a mask, or those
    among them that are chosen."""
    has, counts = split.has_mask, split.counted(split.test_paths)
    has = has if chosen is None else has & chosen
    if has.all():
        return split.masks, maps, counts
    return split.masks[has], files.rows(maps, has), None if counts is None else counts[has]


def pro_curve(split: Split, maps: np.ndarray) -> dict[str, list[float]]:
    """Returns the PRO curve for drawing, {"fpr": [...], "pro": [...]}, of the test maps [m, H, W].

    (0, 0), and the overlap at evenly spaced false-positive rates from 0 to 1, the higher end where
    the curve goes straight up. Both lists are empty where `pixel_results` is NaN.
    """
    fpr, pro = pixel_metrics.pro_curve(*_known(split, maps))
    if not len(fpr):
        return {"fpr": [], "pro": []}
    at = np.linspace(0, 1, _CURVE_POINTS)
    return {"fpr": [0.0, *at.tolist()], "pro": [0.0, *np.interp(at, fpr, pro).tolist()]}
