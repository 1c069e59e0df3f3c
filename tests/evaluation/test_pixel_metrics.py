import itertools
import math
import time

import numpy as np
import pytest
from saturated_curve import slow_saturated
from scipy import ndimage
from sklearn.metrics import average_precision_score, roc_auc_score

from cae_jax.evaluation import metrics, pixel_metrics
from cae_jax.types import Region


def example(seed, values):
    """Five maps of 9 x 12 with `values` distinct values, the first of a good image.

    Regions: one in a corner, two that touch by a corner only, two apart, one that goes on at the
    same place in the next image without being part of it.
    """
    rng = np.random.default_rng(seed)
    masks = np.zeros((5, 9, 12), dtype=bool)
    masks[1, :2, :3] = True
    masks[1, 5, 5] = masks[1, 6, 6] = True
    masks[2, 3:8, 4:11] = rng.random((5, 7)) < 0.5
    masks[3, 4:6, 2:9] = True
    masks[4, 5, 8:] = masks[4, 8, 11] = True
    maps = rng.integers(values, size=masks.shape) + masks * rng.integers(values, size=masks.shape)
    return masks, (maps / 7).astype(np.float32)


def regions_of(masks):
    """Every region as a set of (image, row, column), by flooding from pixel to neighbor."""
    left = set(map(tuple, np.argwhere(masks).tolist()))
    found = []
    while left:
        region, edge = set(), [left.pop()]
        while edge:
            i, y, x = edge.pop()
            region.add((i, y, x))
            near = {(i, y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        found.append(region)
    return found


def slow_curve(masks, maps):
    """(fpr, pro) at every distinct threshold, region by region."""
    points = [(0.0, 0.0)]
    for threshold in sorted(set(maps.ravel().tolist()), reverse=True):
        fpr = sum(1 for v in maps[~masks].tolist() if v >= threshold) / (~masks).sum()
        shares = [
            sum(1 for at in region if maps[at] >= threshold) / len(region)
            for region in regions_of(masks)
        ]
        points.append((fpr, sum(shares) / len(shares)))
    return points


def slow_area(points, limit):
    area = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            at_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + at_end) / 2
    return area / limit


@pytest.mark.parametrize("values", [1, 2, 4, 100, 10**6])
def test_au_pro_equals_the_slow_loop(values):
    masks, maps = example(values, values)
    points = slow_curve(masks, maps)
    limits = (1.0, 0.3, 0.05, 0.01, 1e-4, points[1][0])  # the last one: where a line ends
    limits = [limit for limit in limits if limit > 0]
    want = [slow_area(points, limit) for limit in limits]
    assert pixel_metrics.au_pro(masks, maps, limits) == pytest.approx(want, abs=1e-12)
    assert pixel_metrics.au_pro(masks, maps) == pytest.approx(
        [slow_area(points, limit) for limit in (0.3, 0.05, 0.01)], abs=1e-12
    )


@pytest.mark.parametrize("values", [1, 3, 100, 10**6])
def test_pro_curve_is_the_slow_one_without_points_on_its_lines(values):
    masks, maps = example(values, values)
    fpr, pro = pixel_metrics.pro_curve(masks, maps)
    assert (fpr[0], pro[0], fpr[-1], pro[-1]) == (0, 0, 1, 1)
    assert (np.diff(fpr) >= 0).all()
    assert (np.diff(pro) >= 0).all()
    assert ((np.diff(fpr) > 0) | (np.diff(pro) > 0)).all()  # no point twice
    slow = slow_curve(masks, maps)
    for x, y in slow:  # every slow point lies on a line of the curve, and every corner is one
        near = [
            abs((y - y0) * (x1 - x0) - (x - x0) * (y1 - y0))
            for x0, x1, y0, y1 in zip(fpr, fpr[1:], pro, pro[1:], strict=False)
            if x0 - 1e-12 <= x <= x1 + 1e-12 and y0 - 1e-12 <= y <= y1 + 1e-12
        ]
        assert min(near) < 1e-12
    far = [np.hypot(*(np.array(slow) - point).T).min() for point in zip(fpr, pro, strict=True)]
    assert max(far) < 1e-12


def test_au_pro_is_a_roc_in_which_every_region_weighs_the_same():
    masks, maps = example(5, 50)
    weights = np.where(masks, 0.0, 1.0)
    for region in regions_of(masks):
        weights[tuple(np.array(list(region)).T)] = 1 / len(region)
    want = roc_auc_score(masks.ravel(), maps.ravel(), sample_weight=weights.ravel())
    assert pixel_metrics.au_pro(masks, maps, [1.0])[0] == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("values", [1, 2, 5, 1000, 10**6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_pixel_auroc_and_average_precision_equal_scikit_learn(values, dtype):
    masks, maps = example(values + 1, values)
    maps = maps.astype(dtype) - 3  # below zero as well
    flat = masks.ravel(), maps.ravel()
    assert pixel_metrics.pixel_auroc(masks, maps) == pytest.approx(roc_auc_score(*flat), abs=1e-12)
    assert pixel_metrics.pixel_average_precision(masks, maps) == pytest.approx(
        average_precision_score(*flat), abs=1e-12
    )


def test_summary_is_every_metric_by_name():
    masks, maps = example(3, 20)
    at_30, at_5, at_1 = pixel_metrics.au_pro(masks, maps, (0.3, 0.05, 0.01))
    assert pixel_metrics.summary(masks, maps) == {
        "pixel_auroc": pixel_metrics.pixel_auroc(masks, maps),
        "pixel_ap": pixel_metrics.pixel_average_precision(masks, maps),
        "au_pro_30": at_30,
        "au_pro_5": at_5,
        "au_pro_1": at_1,
    }
    assert all(map(math.isnan, pixel_metrics.summary(masks & False, maps).values()))


def test_extremes():
    masks, _ = example(0, 2)
    rng = np.random.default_rng(0)
    right = masks + rng.random(masks.shape) / 2
    assert pixel_metrics.pixel_auroc(masks, right) == 1
    assert pixel_metrics.au_pro(masks, right) == pytest.approx((1, 1, 1), abs=1e-12)
    assert pixel_metrics.pixel_auroc(masks, -right) == 0
    assert pixel_metrics.au_pro(masks, -right) == (0, 0, 0)
    same = np.full(masks.shape, 0.25, dtype=np.float32)
    assert pixel_metrics.pixel_auroc(masks, same) == 0.5
    assert pixel_metrics.au_pro(masks, same) == pytest.approx((0.15, 0.025, 0.005), abs=1e-12)


def saturated_example(seed, values):
    """Masks and maps as above, and regions: of several parts, over each other, of little and of
    broken saturation, in the corner of the last image alone, and none of a masked one."""
    masks, maps = example(seed, values)
    regions = [[] for _ in masks]
    flat = [np.flatnonzero(mask) for mask in masks]
    regions[1] = [Region(flat[1], 2.5), Region(np.array([3, 1, 0, 24]), 4.0)]
    regions[2] = [Region(flat[2][::2], 1.0), Region(flat[2][4:], 0.4), Region(flat[2][:3], 3.0)]
    regions[4] = [Region(np.array([107]), 1.0)]
    return masks, maps, regions


@pytest.mark.parametrize("values", [1, 2, 4, 100, 10**6])
def test_au_spro_equals_the_slow_loop(values):
    masks, maps, regions = saturated_example(values, values)
    counts = np.random.default_rng(values).random(masks.shape) < 0.7
    limits = (0.05, 0.3, 1.0)
    for some in (None, counts):
        points = slow_saturated(masks, maps, regions, some)
        want = [slow_area(points, limit) for limit in limits]
        found = pixel_metrics.au_spro(masks, maps, regions, some, limits)
        assert found == pytest.approx(want, abs=1e-12)


def test_au_spro_of_whole_regions_is_au_pro_and_a_part_may_be_enough():
    masks, maps = example(5, 50)
    whole = [[] for _ in masks]
    for region in regions_of(masks):
        at = [y * masks.shape[2] + x for _, y, x in sorted(region)]
        whole[min(region)[0]].append(Region(np.array(at), float(len(at))))
    assert pixel_metrics.au_spro(masks, maps, whole) == pytest.approx(
        pixel_metrics.au_pro(masks, maps), abs=1e-12
    )
    half = np.zeros(masks.shape)
    half[3, 4, 2:9] = 1  # one of two rows of the third image's region
    alone = [[] for _ in masks]
    alone[3] = [Region(np.flatnonzero(masks[3]), 7.0)]
    assert pixel_metrics.au_spro(masks, half, alone) == pytest.approx((1, 1, 1))
    assert pixel_metrics.au_pro(masks, half, [0.3])[0] < 0.5
    nothing = pixel_metrics.au_spro(masks, maps, [[] for _ in masks])
    assert [math.isnan(area) for area in nothing] == [True] * 3


@pytest.mark.parametrize("masks", [np.zeros((2, 3, 5)), np.ones((2, 3, 5)), np.zeros((0, 3, 5))])
def test_one_class_is_nan(masks):
    masks = masks.astype(bool)
    maps = np.random.default_rng(0).random(masks.shape)
    assert math.isnan(pixel_metrics.pixel_auroc(masks, maps))
    assert math.isnan(pixel_metrics.pixel_average_precision(masks, maps))
    assert [math.isnan(area) for area in pixel_metrics.au_pro(masks, maps)] == [True] * 3
    assert [len(axis) for axis in pixel_metrics.pro_curve(masks, maps)] == [0, 0]
    if not masks.any():
        assert math.isnan(pixel_metrics.region_overlap(masks, maps > 0.5))
        sizes = pixel_metrics.by_size(masks, maps > 0.5)
        assert [(size["n"], size["hit"]) for size in sizes] == [(0, 0)] * 3
        assert all(math.isnan(size["overlap"]) for size in sizes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda masks, maps: (masks.astype(int), maps), "masks must be bool, got int64"),
        (lambda masks, maps: (masks[:2], maps), r"got \(2, 9, 12\) and \(5, 9, 12\)"),
        (lambda masks, maps: (masks[0], maps[0]), "must both be"),
        (lambda masks, maps: (masks, np.where(maps > 0.5, np.nan, maps)), "finite"),
        (lambda masks, maps: (masks, np.where(maps > 0.5, np.inf, maps)), "finite"),
    ],
)
def test_wrong_arrays_are_refused(change, message):
    masks, maps = change(*example(1, 9))
    for metric in ("pixel_auroc", "pixel_average_precision", "pro_curve", "au_pro"):
        with pytest.raises(ValueError, match=message):
            getattr(pixel_metrics, metric)(masks, maps)


def test_wrong_arguments_are_refused():
    masks, maps = example(1, 9)
    for limit in (0, 1.5, math.nan):
        with pytest.raises(ValueError, match="limit"):
            pixel_metrics.au_pro(masks, maps, [0.3, limit])
    for edges in [(0.2, 0.1), (0.0, 0.1), (0.1, 1.0)]:
        with pytest.raises(ValueError, match="edges must ascend"):
            pixel_metrics.by_size(masks, maps > 1, edges)
    with pytest.raises(ValueError, match="predicted must be bool"):
        pixel_metrics.region_overlap(masks, maps)


def test_overlap_and_sizes_equal_the_slow_loop():
    masks, maps = example(4, 9)
    predicted = maps > 1
    every = [
        (len(region) / (9 * 12), sum(bool(predicted[at]) for at in region) / len(region))
        for region in regions_of(masks)
    ]
    want = sum(share for _, share in every) / len(every)
    assert pixel_metrics.region_overlap(masks, predicted) == pytest.approx(want, abs=1e-12)
    edges = (2 / 108, 6 / 108)  # a region's own area: it belongs to the larger size
    for size in pixel_metrics.by_size(masks, predicted, edges):
        of_size = [share for area, share in every if size["from"] <= area < size["to"]]
        assert size["n"] == len(of_size) > 0
        assert size["hit"] == sum(share > 0 for share in of_size)
        assert size["overlap"] == pytest.approx(sum(of_size) / len(of_size), abs=1e-12)


def test_a_region_that_fills_its_image_is_of_the_last_size():
    masks = np.ones((1, 4, 6), dtype=bool)
    predicted = np.random.default_rng(0).random(masks.shape) < 0.5
    last = pixel_metrics.by_size(masks, predicted)[-1]
    assert (last["n"], last["hit"], last["overlap"]) == (1, 1, predicted.mean())


def test_kinds_are_judged_against_all_good_images():
    masks, maps = example(8, 50)
    kinds = ["good", "cut", "spot", "cut", "spot"]
    scores = np.random.default_rng(8).random(5)
    found = pixel_metrics.by_kind(kinds, scores, masks, maps)
    assert list(found) == ["cut", "spot"]
    for kind, rows in (("cut", [0, 1, 3]), ("spot", [0, 2, 4])):
        labels = [row > 0 for row in rows]
        assert found[kind] == {
            "n": 2,
            "image_auroc": metrics.image_auroc(labels, scores[rows]),
            "pixel_auroc": pytest.approx(
                roc_auc_score(masks[rows].ravel(), maps[rows].ravel()), abs=1e-12
            ),
            "au_pro_30": pytest.approx(slow_area(slow_curve(masks[rows], maps[rows]), 0.3)),
        }
    has_mask = np.array([True, True, False, True, True])
    fewer = pixel_metrics.by_kind(kinds, scores, masks, maps, has_mask)
    assert fewer["cut"] == found["cut"]
    assert fewer["spot"]["n"] == 2
    assert fewer["spot"]["image_auroc"] == found["spot"]["image_auroc"]
    assert fewer["spot"]["pixel_auroc"] == pytest.approx(
        roc_auc_score(masks[[0, 4]].ravel(), maps[[0, 4]].ravel()), abs=1e-12
    )
    alone = pixel_metrics.by_kind(kinds[1:2], scores[1:2], masks[1:2], maps[1:2])["cut"]
    assert math.isnan(alone["image_auroc"])
    assert pixel_metrics.by_kind(["good"], scores[:1], masks[:1], maps[:1]) == {}


def test_a_category_of_ten_million_pixels_takes_seconds_at_most():
    """About 0.5 s on two cores; the bound leaves room for a busy machine."""
    rng = np.random.default_rng(0)
    maps = rng.random((150, 256, 256), dtype=np.float32)
    masks = np.zeros(maps.shape, dtype=bool)
    masks[40:, 100:140, 80:130] = True
    maps[masks] += 0.3
    began = time.perf_counter()
    area = pixel_metrics.au_pro(masks, maps)[0]
    assert time.perf_counter() - began < 5
    # defect = uniform on [0.3, 1.3): pro = 0.3 + fpr up to a false-positive rate of 0.3
    assert area == pytest.approx(0.45, abs=4e-3)  # 220,000 of them: 0.001 by chance


def test_images_sorted_a_few_at_a_time_are_ranked_as_all_together(rng, monkeypatch):
    """Regions too are numbered through all images."""
    masks = rng.random((7, 12, 9)) < 0.2
    masks[3] = False
    maps = rng.integers(0, 40, masks.shape).astype(np.float32)
    counts = rng.random(masks.shape) < 0.8
    regions = [ndimage.label(mask, np.ones((3, 3)))[0] for mask in masks]
    overlap = [(maps[i][regions[i] == k] > 20).mean()
               for i in range(7) for k in range(1, regions[i].max() + 1)]  # fmt: skip
    assert pixel_metrics.region_overlap(masks, maps > 20) == pytest.approx(np.mean(overlap))
    together = pixel_metrics.summary(masks, maps, counts | masks)
    monkeypatch.setattr(pixel_metrics, "_SORTED", 2 * 12 * 9)
    assert pixel_metrics.summary(masks, maps, counts | masks) == together
    good = (counts | masks) & ~masks
    auroc = roc_auc_score(
        np.repeat([1, 0], [masks.sum(), good.sum()]), np.r_[maps[masks], maps[good]]
    )
    assert together["pixel_auroc"] == pytest.approx(auroc)
