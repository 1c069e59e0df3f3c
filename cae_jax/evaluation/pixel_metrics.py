"""How well residual maps show where a defect is: numbers from masks and maps, no JAX.

Everything is over the test images of one category: `masks` bool [n, H, W], True on a defect and
all False for a good image, and `maps` float [n, H, W], which grow with the defect. A defective
image without a mask must have been left out. Regions are the connected components of the masks,
diagonal neighbors included.

The curves are exact: every distinct value of the maps is a threshold. Between two values that occur
on defective pixels only the false-positive rate moves, so it is enough to count, for each value on
a defective pixel, the good pixels above it and at it. They are found by sorting the good pixels of
some images at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from cae_jax import files
from cae_jax.evaluation import metrics
from cae_jax.types import Region

LIMITS = (0.3, 0.05, 0.01)  # of the false-positive rate, for AU-PRO
SIZE_EDGES = (0.001, 0.01)  # of an image's area: 66 and 655 of 256x256 pixels
_SORTED = 2**25  # pixels sorted at a time: 134 MB, and so often are all values looked up
_NEIGHBORS = np.ones((3, 3), bool)


class _Ranking(NamedTuple):
    """What the k distinct values on defective pixels, from the highest to the lowest, stand for."""

    above: np.ndarray  # int64 [k]: good pixels with a higher value
    reached: np.ndarray  # int64 [k]: good pixels with this value or a higher one
    found: np.ndarray  # int64 [k]: defective pixels with this value
    shares: np.ndarray  # float64 [k]: what part of their region these pixels are, summed
    n_good: int


def pixel_auroc(masks: np.ndarray, maps: np.ndarray) -> float:
    """Area under the ROC curve of all pixels, in [0, 1]; a tie counts half.

    NaN without a defective or without a good pixel. Raises ValueError for masks that are not bool,
    shapes that differ or have not three axes, and maps that are not finite.
    """
    return _auroc(_rank(masks, maps))


def pixel_average_precision(masks: np.ndarray, maps: np.ndarray) -> float:
    """Precision averaged over the steps of recall, over all pixels, in [0, 1].

    Not interpolated, see `metrics.average_precision`. Takes, returns NaN and raises as
    `pixel_auroc` does.
    """
    return _average_precision(_rank(masks, maps))


def pro_curve(
    masks: np.ndarray, maps: np.ndarray, counts: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the PRO curve as (fpr, pro), float64 [k] each, from (0, 0) to (1, 1).

    Per-region overlap `pro` is the mean over all regions of the share of a region's pixels that
    are at or above a threshold, `fpr` the share of the good pixels of all images that are
    (Bergmann et al., IJCV 129, 2021). Points are joined by straight lines, so tied pixels
    make one slanted step; thresholds that lie on a line between two others are left out. Both
    arrays are empty without a defective or without a good pixel. `counts` is as in `summary`.
    Raises as `pixel_auroc` does.
    """
    return _pro_curve(_rank(masks, maps, counts))


def au_pro(
    masks: np.ndarray, maps: np.ndarray, limits: Sequence[float] = LIMITS
) -> tuple[float, ...]:
    """Returns the area under the PRO curve up to each limit of the FPR, divided by the limit.

    1 is best; chance is limit / 2. The curve is `pro_curve`, cut at the limit. Each is NaN without
    a defective or without a good pixel. Raises ValueError unless 0 < limit <= 1, and as
    `pixel_auroc` does.
    """
    for limit in limits:
        if not 0 < limit <= 1:
            raise ValueError(f"a limit must be above 0 and at most 1, got {limit}")
    return _au_pro(_rank(masks, maps), limits)


def summary(
    masks: np.ndarray, maps: np.ndarray, counts: np.ndarray | None = None
) -> dict[str, float]:
    """Returns pixel_auroc, pixel_ap and au_pro_30, au_pro_5, au_pro_1 from one sort of the pixels.

    Each as the function that has it alone; raises as `pixel_auroc` does. Of good pixels those count
    that `counts` says, bool [n, H, W], or all; what does not count is in no mask.
    """
    ranking = _rank(masks, maps, counts)
    areas = _au_pro(ranking, LIMITS)
    return {
        "pixel_auroc": _auroc(ranking),
        "pixel_ap": _average_precision(ranking),
        **{f"au_pro_{limit * 100:.0f}": area for limit, area in zip(LIMITS, areas, strict=True)},
    }


def au_spro(
    masks: np.ndarray,
    maps: np.ndarray,
    regions: Sequence[Sequence[Region]],
    counts: np.ndarray | None = None,
    limits: Sequence[float] = LIMITS,
) -> tuple[float, ...]:
    """Returns `au_pro` with the saturated overlap of each region: min(overlap / saturation, 1).

    So a region is found once so much of it is (Bergmann et al., IJCV 130, 2022, Sec. 5.2).
    `regions` are those of each image, in place of the connected components of its mask; they may
    overlap. A pixel in none of them, and in no mask, is a good one, of those that `counts`. NaN
    without a region or without a good pixel. Raises as `pixel_auroc` does.
    """
    masks, maps = _check(masks, "maps", maps)
    masks = masks.copy()
    for mask, own in zip(masks, regions, strict=True):
        for region in own:
            mask.ravel()[region.pixels] = True
    if not any(regions):
        return (math.nan,) * len(limits)
    weights, before = np.zeros(int(masks.sum())), 0
    for mask, of_mask, own in zip(masks, maps, regions, strict=True):
        place = before + np.cumsum(mask.ravel()) - 1
        before += int(mask.sum())
        for region in own:
            # the highest first: each pixel adds what is left up to the saturation
            order = region.pixels[np.argsort(-of_mask.ravel()[region.pixels])]
            reached = np.minimum(np.arange(order.size + 1) / region.saturation, 1)
            weights[place[order]] += np.diff(reached)
    return _au_pro(_rank(masks, maps, counts, weights), limits)


def region_overlap(masks: np.ndarray, predicted: np.ndarray) -> float:
    """Mean over all regions of the share of a region's pixels that are predicted, in [0, 1].

    `predicted` is bool [n, H, W]. It is the relative per-region overlap of Bergmann et al. (CVPR
    2019). NaN without a region; raises ValueError for what is not bool or differs in shape.
    """
    shares = _covered(masks, predicted)[1]
    return float(shares.mean()) if shares.size else math.nan


def by_kind(
    kinds: Sequence[str],
    scores: np.ndarray,
    masks: np.ndarray,
    maps: np.ndarray,
    has_mask: np.ndarray | None = None,
    good: str = "good",
    counts: np.ndarray | None = None,
) -> dict[str, dict[str, float]]:
    """Judges every kind of defect by itself, against all good images.

    Args:
      kinds: the kind of each image, n strings.
      scores: of the images, [n].
      masks, maps: see the top of this file, [n, H, W].
      has_mask: bool [n], False for a defective image to leave out of the pixels' metrics, not out
        of the images'; None takes all.
      good: the kind of the good images.
      counts: see `summary`.

    Returns:
      By kind in sorted order: "n", its number of images, "image_auroc", "pixel_auroc" and
      "au_pro_30", each NaN where it has no meaning.

    Raises:
      ValueError: as `pixel_auroc` and `metrics.image_auroc` do.
    """
    names = np.array(kinds, dtype=object)
    known = np.ones(len(names), dtype=bool) if has_mask is None else np.asarray(has_mask)
    found = {}
    for kind in sorted(set(kinds) - {good}):
        compared = (names == kind) | (names == good)
        of_all = None if counts is None else counts[compared & known]
        chosen, of_chosen = (files.rows(each, compared & known) for each in (masks, maps))
        ranking = _rank(chosen, of_chosen, of_all)
        found[kind] = {
            "n": int((names == kind).sum()),
            "image_auroc": metrics.image_auroc(names[compared] == kind, scores[compared]),
            "pixel_auroc": _auroc(ranking),
            "au_pro_30": _au_pro(ranking, LIMITS[:1])[0],
        }
    return found


def by_size(
    masks: np.ndarray, predicted: np.ndarray, edges: Sequence[float] = SIZE_EDGES
) -> list[dict[str, float]]:
    """Judges small and large defects by themselves: what of them a segmentation finds.

    The sizes are the same for every category, so that categories can be compared.

    Args:
      masks: see the top of this file, [n, H, W].
      predicted: the segmentation, bool [n, H, W].
      edges: ascending areas that part the sizes, as shares of an image's area.

    Returns:
      From the smallest to the largest size a dict: "from" <= area < "to", shares of an image's
      area; "n", the number of regions; "hit", how many of these have a predicted pixel; "overlap",
      the mean share of their pixels that are predicted, NaN without a region.

    Raises:
      ValueError: as `region_overlap` does, and for edges that do not ascend within (0, 1).
    """
    bounds = (0.0, *edges, 1.0)
    if not all(low < high for low, high in itertools.pairwise(bounds)):
        raise ValueError(f"edges must ascend between 0 and 1, got {tuple(edges)}")
    areas, shares = _covered(masks, predicted)
    # a region that fills the image belongs to the last size
    size = np.searchsorted(edges, areas / (masks.shape[1] * masks.shape[2]), "right")
    found = []
    for i, (low, high) in enumerate(itertools.pairwise(bounds)):
        of_size = shares[size == i]
        found.append(
            {
                "from": low,
                "to": high,
                "n": of_size.size,
                "hit": int((of_size > 0).sum()),
                "overlap": float(of_size.mean()) if of_size.size else math.nan,
            }
        )
    return found


def _rank(
    masks: np.ndarray,
    maps: np.ndarray,
    counts: np.ndarray | None = None,
    weights: np.ndarray | None = None,
) -> _Ranking:
    """Counts the pixels, see `_Ranking`; `weights` are the shares of `maps[masks]`, by default each
    the same of the connected component that it is in."""
    masks, maps = _check(masks, "maps", maps)
    values, which = np.unique(maps[masks], return_inverse=True)
    if weights is None:
        regions = _regions(masks)
        weights = 1 / np.bincount(regions)[regions] if regions.size else np.empty(0)
    above, reached, n_good = np.zeros(values.size, int), np.zeros(values.size, int), 0
    at_once = max(1, _SORTED // max(1, math.prod(maps.shape[1:])))
    for i in range(0, len(maps), at_once):
        some, of_some = maps[i : i + at_once], ~masks[i : i + at_once]
        if not np.isfinite(some).all():
            raise ValueError("maps must be finite, got NaN or infinity")
        good = some[of_some if counts is None else of_some & counts[i : i + at_once]]
        good.sort()
        above += good.size - np.searchsorted(good, values, "right")
        reached += good.size - np.searchsorted(good, values, "left")
        n_good += good.size
    return _Ranking(
        above=above[::-1],
        reached=reached[::-1],
        found=np.bincount(which, minlength=values.size)[::-1],
        shares=np.bincount(which, weights, values.size)[::-1],
        n_good=n_good,
    )


def _both_classes(ranking: _Ranking) -> bool:
    return ranking.n_good > 0 and ranking.found.size > 0


def _auroc(ranking: _Ranking) -> float:
    if not _both_classes(ranking):
        return math.nan
    wrong = ranking.found * (ranking.above + ranking.reached)  # twice the pairs in false order
    return float(1 - wrong.sum() / (2 * ranking.found.sum() * ranking.n_good))


def _average_precision(ranking: _Ranking) -> float:
    if not _both_classes(ranking):
        return math.nan
    true = ranking.found.cumsum()
    return float((ranking.found * true / (true + ranking.reached)).sum() / true[-1])


def _pro_curve(ranking: _Ranking) -> tuple[np.ndarray, np.ndarray]:
    if not _both_classes(ranking):
        return np.empty(0), np.empty(0)
    # a step is a line from (above, what was found before) to (reached, what is found now)
    false = np.stack([ranking.above, ranking.reached], axis=1).ravel()
    false = np.concatenate([[0], false, [ranking.n_good]])
    pro = ranking.shares.cumsum()
    pro = np.concatenate([[0, 0], np.repeat(pro / pro[-1], 2)])
    moved = np.append(True, (np.diff(false) > 0) | (np.diff(pro) > 0))
    return false[moved] / ranking.n_good, pro[moved]


def _au_pro(ranking: _Ranking, limits: Sequence[float]) -> tuple[float, ...]:
    fpr, pro = _pro_curve(ranking)
    if not fpr.size:
        return (math.nan,) * len(limits)
    areas = []
    for limit in limits:
        end = int(np.searchsorted(fpr, limit))  # fpr[end - 1] < limit <= fpr[end]
        share = (limit - fpr[end - 1]) / (fpr[end] - fpr[end - 1])
        x = np.append(fpr[:end], limit)
        y = np.append(pro[:end], pro[end - 1] + share * (pro[end] - pro[end - 1]))
        areas.append(float(np.trapezoid(y, x) / limit))
    return tuple(areas)


def _covered(masks: np.ndarray, predicted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every region's area in pixels, and the share of it that is predicted."""
    masks, predicted = _check(masks, "predicted", predicted)
    if predicted.dtype != bool:
        raise ValueError(f"predicted must be bool, got {predicted.dtype}")
    regions = _regions(masks)
    areas = np.bincount(regions)
    return areas, np.bincount(regions, predicted[masks]) / areas


def _regions(masks: np.ndarray) -> np.ndarray:
    """The region, from 0, of every defective pixel in the order of `maps[masks]`."""
    if not masks.any():
        return np.empty(0, dtype=np.int64)
    found, before = [], 0
    for mask in masks[masks.any(axis=(1, 2))]:
        regions, n = ndimage.label(mask, _NEIGHBORS)
        found.append(regions[mask] - 1 + before)
        before += n
    return np.concatenate(found)


def _check(masks: np.ndarray, name: str, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as arrays; raises ValueError for a wrong shape and for masks that are not bool."""
    masks, other = np.asarray(masks), np.asarray(other)
    if masks.dtype != bool:
        raise ValueError(f"masks must be bool, got {masks.dtype}")
    if masks.ndim != 3 or masks.shape != other.shape:
        raise ValueError(
            f"masks and {name} must both be [n, H, W], got {masks.shape} and {other.shape}"
        )
    return masks, other
