"""Segmentation: against loops over discs, floods and all thresholds, and against scikit-image."""

import time

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from skimage import measure, morphology

from cae_jax.evaluation import segmentation


def rough(seed, *shape, levels=None):
    """Random maps with regions of all sizes, float32; a few distinct values if `levels`."""
    noise = np.random.default_rng(seed).random(shape)
    maps = gaussian_filter(noise, [0] * (len(shape) - 2) + [1.2, 1.2])
    return np.round(maps * levels).astype(np.float32) if levels else maps.astype(np.float32)


def opened(mask, disc):
    """The union of all places of the disc, inside the image, where it covers only the mask."""
    kept = np.zeros_like(mask)
    d = len(disc)
    for i in range(mask.shape[0] - d + 1):
        for j in range(mask.shape[1] - d + 1):
            if mask[i : i + d, j : j + d][disc].all():
                kept[i : i + d, j : j + d] |= disc
    return kept


def test_discs():
    assert segmentation.disc(4).astype(int).tolist() == [
        [0, 1, 1, 0],
        [1, 1, 1, 1],
        [1, 1, 1, 1],
        [0, 1, 1, 0],
    ]
    for d in range(1, 12):
        center = (d - 1) / 2
        for (i, j), inside in np.ndenumerate(segmentation.disc(d)):
            assert inside == (np.hypot(i - center, j - center) <= d / 2)
    for radius in (1, 2, 5):
        found = segmentation.disc(2 * radius + 1)
        np.testing.assert_array_equal(found, morphology.disk(radius, strict_radius=False))
    with pytest.raises(ValueError, match="diameter must be at least 1, got 0"):
        segmentation.disc(0)


@pytest.mark.parametrize("diameter", [0, 1, 2, 3, 4, 7])
def test_segment_is_threshold_and_opening(diameter):
    for seed, shape in enumerate([(23, 31), (17, 9), (5, 4), (3, 40)]):
        residual = rough(seed, *shape) - np.float32(0.5)  # below 0 too, as log-likelihoods
        for quantile in (0, 0.3, 0.6, 0.95, 1):
            threshold = float(np.quantile(residual, quantile))
            want = residual > threshold
            want = opened(want, segmentation.disc(diameter)) if diameter else want
            found = segmentation.segment(residual, threshold, diameter)
            assert found.dtype == bool
            np.testing.assert_array_equal(found, want)


def test_segment_of_many_maps_and_of_a_threshold_between_two_float32():
    maps = rough(7, 3, 30, 26)
    found = segmentation.segment(maps, 0.5, 3)
    assert found.any()
    for mask, residual in zip(found, maps, strict=True):
        np.testing.assert_array_equal(mask, segmentation.segment(residual, 0.5, 3))
    value = maps.max()
    below = float(np.nextafter(float(value), 0))  # float32 would round it up to the value
    assert segmentation.segment(maps, below, 0).sum() == (maps == value).sum()
    assert not segmentation.segment(maps, float(value), 0).any()


def test_regions_touch_by_sides_and_corners():
    for seed, shape in enumerate([(40, 33), (7, 60), (1, 1)]):
        mask = rough(seed, *shape) > 0.5
        labels, areas = segmentation.regions(mask)
        want = measure.label(mask, connectivity=2)
        assert len(areas) == want.max()
        assert sorted(areas) == sorted(region.area for region in measure.regionprops(want))
        np.testing.assert_array_equal(labels > 0, mask)
        for label, area in enumerate(areas, 1):  # the same pixels together, whatever their number
            assert (labels == label).sum() == area
            assert len(set(want[labels == label])) == 1
        assert segmentation.largest(mask) == max(areas, default=0)
    assert segmentation.largest(np.eye(9, dtype=bool)) == 9
    assert segmentation.largest(np.zeros((4, 5), bool)) == 0
    with pytest.raises(ValueError, match=r"mask must be \[H, W\], got shape \(2, 4, 5\)"):
        segmentation.regions(np.ones((2, 4, 5), bool))


@pytest.mark.parametrize("levels", [None, 12])
@pytest.mark.parametrize("opening", [0, 3, 4])
def test_minimum_area_threshold_is_the_lowest_of_all(levels, opening):
    maps = rough(opening, 4, 19, 14, levels=levels)
    values = np.unique(maps)
    over = [
        max(segmentation.largest(segmentation.segment(each, value, opening)) for each in maps)
        for value in values
    ]
    assert over == sorted(over, reverse=True)  # else bisection finds nothing
    for area in (1, 2, 5, 12, 30, 100, 250, 19 * 14):
        want = next(value for value, found in zip(values, over, strict=True) if found < area)
        found = segmentation.minimum_area_threshold(maps, area, opening)
        assert found == want
    assert segmentation.minimum_area_threshold(maps, 19 * 14 + 1, opening) == values[0]


def test_minimum_area_threshold_does_not_depend_on_the_order_and_finds_a_defect():
    maps = rough(3, 6, 32, 40)
    area = segmentation.default_area(256 * 256)
    found = segmentation.minimum_area_threshold(maps, area)
    assert found == segmentation.minimum_area_threshold(maps[::-1], area)
    assert found == max(segmentation.minimum_area_threshold(each[None], area) for each in maps)
    defective = maps[0].copy()
    defective[10:17, 20:27] += 1
    assert segmentation.largest(segmentation.segment(defective, found)) >= 45
    assert segmentation.largest(segmentation.segment(maps[0], found)) < area


@pytest.mark.parametrize("area", [1, 40, 19 * 14 + 1])
def test_maps_may_come_one_by_one(area):
    maps = rough(5, 4, 19, 14)
    found = segmentation.MinimumArea(area)
    assert (found.n, found.threshold) == (0, np.inf)
    for i, each in enumerate(maps):
        found = found.seen(each)
        assert found.n == i + 1
        assert found.threshold == segmentation.minimum_area_threshold(maps[: i + 1], area)


def test_minimum_area_threshold_is_fast():
    maps = rough(1, 30, 256, 256)
    start = time.process_time()
    segmentation.minimum_area_threshold(maps, 32)
    assert time.process_time() - start < 2


def test_default_area_is_a_share_of_the_image():
    assert [segmentation.default_area(side * side) for side in (256, 512, 32)] == [32, 131, 1]


def test_bad_input():
    maps = rough(0, 2, 9, 8)
    for area in (0, -3):
        with pytest.raises(ValueError, match="area must be at least 1"):
            segmentation.minimum_area_threshold(maps, area)
    for bad in (maps[:0], maps[0]):
        with pytest.raises(ValueError, match=r"maps must be \[n, H, W\] with at least one"):
            segmentation.minimum_area_threshold(bad, 3)
    for bad in (maps[0, 0], (maps > 0.5)):
        with pytest.raises(ValueError, match=r"maps must be float \[..., H, W\]"):
            segmentation.segment(bad, 0.5)
    maps[1, 2, 3] = np.nan
    for pick in (segmentation.minimum_area_threshold, segmentation.segment):
        with pytest.raises(ValueError, match="must be finite"):
            pick(maps, 3)
