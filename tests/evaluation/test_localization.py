"""Localization: every threshold tried with SciPy, every pixel and region counted in loops."""

import dataclasses
import itertools
import math

import numpy as np
import pytest
from saturated_curve import slow_saturated
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from cae_jax.evaluation import localization, segmentation, thresholds
from cae_jax.types import Region, Split

SIZE = (37, 29)  # 1073 pixels: one of them is less than 0.1 %, eleven more than 1 %
KINDS = ("crack", "crack", "dent", "dent", "good", "good", "good", "good")
UNKNOWN = 3  # the dent without a mask file
DISCS = {
    3: np.ones((3, 3), bool),
    4: np.array([[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]], bool),
}


def smooth(rng, n, levels=60):
    """Maps with ties and regions of all sizes, float32 [n, *SIZE] in [0, 1]."""
    noise = ndimage.gaussian_filter(rng.random((n, *SIZE)), (0, 1.3, 1.3))
    noise = (noise - noise.min()) / np.ptp(noise)
    return (np.round(noise * levels) / levels).astype(np.float32)


def make(seed=0):
    """A split, and residual maps of its validation and test images that half show the defects."""
    rng = np.random.default_rng(seed)
    masks = np.zeros((len(KINDS), *SIZE), bool)
    masks[0, 0, 0] = masks[0, 20, 7] = True  # small
    masks[0, 10:12, 10:13] = masks[1, 30, 20:28] = True  # middle
    masks[1, 3:11, 4:12] = masks[2, 15:29, 3:19] = True  # large
    names = [f"test/{kind}/{i:03}.png" for i, kind in enumerate(KINDS)]
    split = Split(
        dataset="folder",
        category="lid",
        train=rng.random((2, *SIZE, 1), np.float32),
        train_paths=("train/good/0.png", "train/good/1.png"),
        validation=rng.random((5, *SIZE, 1), np.float32),
        validation_paths=tuple(f"train/good/{i}.png" for i in range(2, 7)),
        test=rng.random((len(KINDS), *SIZE, 1), np.float32),
        test_paths=tuple(names),
        kinds=KINDS,
        masks=masks,
        has_mask=np.arange(len(KINDS)) != UNKNOWN,
        test_sizes=(SIZE,) * len(KINDS),
    )
    test = smooth(rng, len(KINDS)) + np.float32(0.5) * masks
    test[-1, 5:12, 5:12] += 0.5  # a false alarm
    return split, smooth(rng, 5), test


def of_good(maps, area, opening):
    """What the minimum-area rule has seen in maps of good images."""
    found = segmentation.MinimumArea(area, opening)
    for each in maps:
        found = found.seen(each)
    return found


def cut(residual, threshold, opening):
    mask = residual > threshold
    return ndimage.binary_opening(mask, DISCS[opening]) if opening else mask


def areas(mask):
    labels, k = ndimage.label(mask, np.ones((3, 3)))
    return [int((labels == i).sum()) for i in range(1, k + 1)]


def regions(masks):
    """Every region of [n, H, W] as a bool [n, H, W] of its own."""
    found = []
    for i, mask in enumerate(masks):
        labels, k = ndimage.label(mask, np.ones((3, 3)))
        for label in range(1, k + 1):
            found.append(np.zeros_like(masks))
            found[-1][i] = labels == label
    return found


def slow_curve(masks, maps):
    """(fpr, pro) at every distinct threshold, from (0, 0) to (1, 1)."""
    points, parts = [(0.0, 0.0)], regions(masks)
    for threshold in np.unique(maps)[::-1]:
        above = maps >= threshold
        points.append((above[~masks].mean(), np.mean([above[part].mean() for part in parts])))
    return points


def slow_area(points, limit):
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        end = min(x1, limit)
        if end > x0:
            area += (end - x0) * (y0 + (y1 - y0) * (end - x0) / (x1 - x0) / 2)
    return area / limit


@pytest.mark.parametrize(("area", "opening"), [(1, 0), (12, 0), (12, 3), (12, 4), (40, 4)])
def test_localize_takes_the_lowest_threshold_that_no_good_validation_image_exceeds(area, opening):
    split, validation, test = make(area)
    found = localization.localize(split, test, of_good(validation, area, opening))
    want = min(
        value
        for value in np.unique(validation).tolist()
        if all(max(areas(cut(each, value, opening)), default=0) < area for each in validation)
    )
    assert found.threshold == thresholds.Threshold(want, "min_area", "validation good", None, 5)
    assert not found.threshold.leaks
    predicted = np.array([cut(each, want, opening) for each in test])
    assert found.predicted.dtype == bool
    np.testing.assert_array_equal(found.predicted, predicted)
    flagged = [max(areas(mask), default=0) >= area for mask in predicted]
    good = [not flag for flag, kind in zip(flagged, KINDS, strict=True) if kind == "good"]
    defective = [flag for flag, kind in zip(flagged, KINDS, strict=True) if kind != "good"]
    assert found.point.threshold == found.threshold
    assert found.point.good_accuracy == sum(good) / 4
    assert found.point.defect_accuracy == sum(defective) / 4
    assert 0 < sum(good) < 4  # so that the false alarm is one
    assert sum(defective) > 0


def test_without_validation_images_there_is_no_threshold():
    split, validation, test = make()
    assert localization.localize(split, test, of_good(validation[:0], 12, 4)) is None
    distances = test.mean((1, 2))
    assert list(localization.results(split, test, distances, None)) == ["kinds"]


def test_results_equal_loops_over_pixels_and_regions():
    split, validation, test = make(1)
    distances = test.max((1, 2))
    found = localization.localize(split, test, of_good(validation, 12, 0))
    results = localization.results(split, test, distances, found)
    assert list(results["kinds"]) == ["crack", "dent"]
    for kind, rows, seen in (("crack", [0, 1], [0, 1]), ("dent", [2, UNKNOWN], [2])):
        of_kind = results["kinds"][kind]
        assert of_kind["n"] == 2
        pairs = itertools.product(distances[rows], distances[4:])
        wins = [1.0 if x > y else 0.5 if x == y else 0.0 for x, y in pairs]
        assert of_kind["image_auroc"] == pytest.approx(np.mean(wins))
        judged = [*seen, 4, 5, 6, 7]
        truth, maps = split.masks[judged], test[judged]
        auroc = roc_auc_score(truth.ravel(), maps.ravel())
        assert of_kind["pixel_auroc"] == pytest.approx(auroc, abs=1e-9)
        area = slow_area(slow_curve(truth, maps), 0.3)
        assert of_kind["au_pro_30"] == pytest.approx(area, abs=1e-9)
    shares = {0.0: [], 0.001: [], 0.01: []}  # by the lower edge of the size
    for part in regions(split.masks):
        size = part.sum() / (37 * 29)
        lower = max(edge for edge in shares if edge <= size)
        shares[lower].append(found.predicted[part].mean())
    assert [len(of_size) for of_size in shares.values()] == [2, 2, 2]
    assert len(results["sizes"]) == 3
    for row, (lower, of_size) in zip(results["sizes"], shares.items(), strict=True):
        assert (row["from"], row["n"]) == (lower, len(of_size))
        assert row["hit"] == sum(share > 0 for share in of_size)
        assert row["overlap"] == pytest.approx(np.mean(of_size))
    overlap = np.mean([share for of_size in shares.values() for share in of_size])
    assert 0 < overlap < 1
    assert results["region_overlap"] == pytest.approx(overlap)


def test_pixel_results_equal_scikit_learn_and_the_slow_curve():
    split, _, test = make(2)
    found = localization.pixel_results(split, test)
    known = [0, 1, 2, 4, 5, 6, 7]
    truth, values = split.masks[known].ravel(), test[known].ravel()
    points = slow_curve(split.masks[known], test[known])
    assert found == {
        "pixel_auroc": pytest.approx(roc_auc_score(truth, values), abs=1e-9),
        "pixel_ap": pytest.approx(average_precision_score(truth, values), abs=1e-9),
        "au_pro_30": pytest.approx(slow_area(points, 0.3), abs=1e-9),
        "au_pro_5": pytest.approx(slow_area(points, 0.05), abs=1e-9),
        "au_pro_1": pytest.approx(slow_area(points, 0.01), abs=1e-9),
    }


def test_an_image_without_a_mask_is_not_good_pixels():
    split, validation, test = make(3)
    found = localization.localize(split, test, of_good(validation, 12, 3))
    before = localization.pixel_results(split, test)
    results = localization.results(split, test, test.mean((1, 2)), found)
    curve = localization.pro_curve(split, test)
    other = test.copy()
    other[UNKNOWN] += 9  # all of it above every other pixel
    found = localization.localize(split, other, of_good(validation, 12, 3))
    assert found.predicted[UNKNOWN].all()  # the image is judged all the same
    assert localization.pixel_results(split, other) == before
    assert localization.pro_curve(split, other) == curve
    after = localization.results(split, other, other.mean((1, 2)), found)
    assert after["kinds"]["dent"]["pixel_auroc"] == results["kinds"]["dent"]["pixel_auroc"]
    assert after["kinds"]["dent"]["image_auroc"] > results["kinds"]["dent"]["image_auroc"]
    assert (after["sizes"], after["region_overlap"]) == (
        results["sizes"],
        results["region_overlap"],
    )
    counted = dataclasses.replace(split, has_mask=np.ones(len(KINDS), bool))
    assert localization.pixel_results(counted, other)["pixel_auroc"] < before["pixel_auroc"]


def only_good_masks(split):
    good = np.array([kind == "good" for kind in KINDS])
    return dataclasses.replace(split, has_mask=good, masks=split.masks & good[:, None, None])


def no_mask(split):
    return dataclasses.replace(split, has_mask=np.zeros(len(KINDS), bool))


def all_defective(split):
    return dataclasses.replace(split, masks=np.ones_like(split.masks))


@pytest.mark.parametrize("without", [only_good_masks, no_mask, all_defective])
def test_without_both_classes_of_pixels_metrics_are_nan_and_the_curve_is_empty(without):
    split, validation, test = make(4)
    split = without(split)
    found = localization.pixel_results(split, test)
    assert list(found) == ["pixel_auroc", "pixel_ap", "au_pro_30", "au_pro_5", "au_pro_1"]
    assert all(map(math.isnan, found.values()))
    assert localization.pro_curve(split, test) == {"fpr": [], "pro": []}
    localized = localization.localize(split, test, of_good(validation, 12, 0))
    results = localization.results(split, test, test.mean((1, 2)), localized)
    for kind in ("crack", "dent"):
        assert math.isnan(results["kinds"][kind]["pixel_auroc"])
        assert 0 <= results["kinds"][kind]["image_auroc"] <= 1
    if without is all_defective:
        known = [i for i in range(len(KINDS)) if i != UNKNOWN]
        want = localized.predicted[known].mean((1, 2)).mean()
        assert results["region_overlap"] == pytest.approx(want)
    else:
        assert math.isnan(results["region_overlap"])
        assert [row["n"] for row in results["sizes"]] == [0, 0, 0]


@pytest.mark.parametrize("levels", [3, 60, 10**6])
def test_the_curve_for_drawing_lies_on_the_full_one(levels):
    split, _, _ = make(5)
    rng = np.random.default_rng(levels)
    maps = smooth(rng, len(KINDS), levels) + np.float32(0.2) * split.masks
    maps[1, 3, 4] = 3  # the curve goes straight up at its left end ...
    maps[2, 15, 3] = -3  # ... and at its right one
    curve = localization.pro_curve(split, maps)
    fpr, pro = np.array(curve["fpr"]), np.array(curve["pro"])
    known = np.arange(len(KINDS)) != UNKNOWN
    full = slow_curve(split.masks[known], maps[known])
    assert (fpr[0], pro[0], fpr[-1], pro[-1]) == (0, 0, 1, 1)
    assert 200 < len(fpr) < 1000
    assert (np.diff(pro) >= 0).all()
    np.testing.assert_allclose(np.diff(fpr[1:]), fpr[2], rtol=1e-6)  # evenly, after (0, 0)
    for x, y in zip(fpr[1:-1], pro[1:-1], strict=True):
        i = max(i for i, point in enumerate(full) if point[0] <= x)
        (x0, y0), (x1, y1) = full[i], full[i + 1]
        assert y == pytest.approx(y0 + (y1 - y0) * (x - x0) / (x1 - x0), abs=1e-9)
    # two rising curves that meet at both ends of a step differ by half its rectangle at most
    area = slow_area(full, 1)
    assert np.trapezoid(pro, fpr) == pytest.approx(area, abs=fpr[2] / 2)


def test_saturated_overlap_of_all_of_some_and_of_each_kind():
    split, _, test = make(3)
    known = [0, 1, 2, 4, 5, 6, 7]
    regions = {
        split.test_paths[i]: (Region(np.flatnonzero(split.masks[i]), 5.0),) for i in (0, 1, 2)
    }
    regions[split.test_paths[UNKNOWN]] = (Region(np.arange(9), 1.0),)  # has no mask: does not count
    split = dataclasses.replace(split, regions=regions)

    def slow(rows, limit):
        own = [regions.get(split.test_paths[i], ()) for i in rows]
        return slow_area(slow_saturated(split.masks[rows], test[rows], own), limit)

    found = localization.pixel_results(split, test)
    for name, limit in (("au_spro_30", 0.3), ("au_spro_5", 0.05), ("au_spro_1", 0.01)):
        assert found[name] == pytest.approx(slow(known, limit), abs=1e-9)
    some = np.isin(np.arange(len(KINDS)), [0, 2, 4, 6])
    chosen = localization.pixel_results(split, test, some)
    assert chosen["au_spro_5"] == pytest.approx(slow([0, 2, 4, 6], 0.05), abs=1e-9)
    kinds = localization.results(split, test, test.mean((1, 2)), None)["kinds"]
    assert kinds["crack"]["au_spro_5"] == pytest.approx(slow([0, 1, 4, 5, 6, 7], 0.05), abs=1e-9)
    assert kinds["dent"]["au_spro_5"] == pytest.approx(slow([2, 4, 5, 6, 7], 0.05), abs=1e-9)
