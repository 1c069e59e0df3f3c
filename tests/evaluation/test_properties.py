"""Laws of the numbers that hold for every input, tried on inputs that hypothesis draws.

conftest.py makes the draws the same in every run.
"""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cae_jax.evaluation import metrics, pixel_metrics, segmentation, thresholds, verdict
from cae_jax.scoring import patches, residuals
from cae_jax.scoring.options import BORDERS, Ssim

FEW = settings(max_examples=12)  # every example compiles for its own shapes
SEEDS = st.integers(0, 2**32 - 1)
FLOATS = st.floats(-1e300, 1e300)  # finite, also subnormal and -0.0
SCORES = st.lists(st.integers(-9, 9) | FLOATS, min_size=1, max_size=30)
MORE = st.lists(st.integers(0, 9), min_size=30, max_size=30)  # by how much scores are raised
PERCENTS = st.integers(1, 100)


@st.composite
def labelled(draw):
    """Labels of both classes and scores with ties."""
    scores = np.array(draw(st.lists(st.integers(-9, 9) | FLOATS, min_size=2, max_size=30)), float)
    labels = draw(st.lists(st.integers(0, 1), min_size=len(scores), max_size=len(scores)))
    return np.array([0, 1, *labels[2:]]), scores


@st.composite
def mapped(draw):
    """Masks and maps [n, H, W] with both classes, from few values to all different ones."""
    shape = draw(st.tuples(st.integers(1, 3), st.integers(2, 9), st.integers(2, 9)))
    rng = np.random.default_rng(draw(SEEDS))
    masks = rng.random(shape) < draw(st.floats(0.05, 0.9))
    masks[0, 0, :2] = False, True
    levels = draw(st.sampled_from([2, 5, 1000]))
    return masks, rng.integers(-levels, levels, shape).astype(draw(st.sampled_from("fd")))


@st.composite
def sizes(draw, largest=10):
    """Height, width, patch size and stride that `check_sizes` allows."""
    height, width = draw(st.integers(1, largest)), draw(st.integers(1, largest))
    patch_size = draw(st.integers(1, min(height, width)))
    return height, width, patch_size, draw(st.integers(1, patch_size))


def ranks(values):
    """The same order and the same ties, in whole numbers: a strictly monotone transform."""
    return np.unique(values, return_inverse=True)[1].reshape(np.shape(values)).astype(float)


def transforms(values):
    """The ranks, and strictly monotone functions of them that float64 tells apart."""
    order = ranks(values)
    return (
        order,
        3 * order - 1000,
        np.power(order - order.mean(), 3),
        np.exp2(-30 + order / 8),
        np.arctan(order / 100),
    )


def _comes_back(size, channels, seed):
    height, width, patch_size, stride = size
    # whole numbers, whose sums are exact; the quotient is not: XLA multiplies by 1 / count
    images = np.random.default_rng(seed).integers(0, 256, (2, height, width, channels))
    images = images.astype(np.float32)

    @jax.jit
    def back(images):
        return patches.merge(patches.extract(images, patch_size, stride), height, width, stride)

    np.testing.assert_array_max_ulp(np.asarray(back(images)), images, 1)


@FEW
@given(sizes(), st.integers(1, 3), SEEDS)
def test_extract_then_merge_is_the_identity(size, channels, seed):
    _comes_back(size, channels, seed)


@pytest.mark.slow
@settings(max_examples=300)
@given(sizes(40), st.integers(1, 3), SEEDS)
def test_extract_then_merge_is_the_identity_of_larger_images(size, channels, seed):
    _comes_back(size, channels, seed)


@FEW
@given(sizes(), st.integers(1, 3), SEEDS)
def test_merge_is_the_mean_of_all_that_covers_a_pixel(size, channels, seed):
    height, width, p, stride = size
    rows, columns = range(0, height, stride), range(0, width, stride)
    shape = (1, len(rows), len(columns), p, p, channels)
    cut = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    total = np.zeros((height + p, width + p, channels))
    count = np.zeros((height + p, width + p))
    for i, r in enumerate(rows):
        for k, c in enumerate(columns):
            total[r : r + p, c : c + p] += cut[0, i, k]
            count[r : r + p, c : c + p] += 1
    count = count[:height, :width]
    found = jax.jit(patches.merge, static_argnums=(1, 2, 3))(cut, height, width, stride)[0]
    wanted = total[:height, :width] / count[:, :, None]
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(patches.counts(height, width, p, stride), count)
    assert count.min() >= 1


@given(SCORES, MORE, PERCENTS, PERCENTS, st.sampled_from(thresholds.RULES))
def test_thresholds_rise_with_their_percent_and_with_the_scores(good, more, a, b, rule):
    def picked(scores, percent):
        return thresholds.from_good(scores, percent, rule).value

    assert picked(good, min(a, b)) <= picked(good, max(a, b))
    raised = np.add(good, more[: len(good)])
    assert picked(good, a) <= picked(raised, a)
    order = ranks(good)
    assert picked(order + 7, a) == picked(order, a) + 7
    assert picked(np.random.default_rng(a).permutation(good), a) == picked(good, a)


@given(SCORES, MORE, st.integers(1, 99), st.integers(1, 99))
def test_conformal_thresholds_rise_with_the_scores_and_fall_with_alpha(good, more, a, b):
    def picked(scores, alpha):
        return thresholds.conformal(scores, alpha).value

    assert picked(good, max(a, b)) <= picked(good, min(a, b))
    assert picked(good, a) <= picked(np.add(good, more[: len(good)]), a)
    order = ranks(good)
    assert picked(order + 7, a) == picked(order, a) + 7


@given(SCORES, SCORES, MORE)
def test_p_values_are_in_0_to_1_and_monotone(validation, scores, more):
    found = thresholds.p_values(validation, scores)
    assert (found > 0).all()
    assert (found <= 1).all()
    assert (np.diff(found[np.argsort(scores)]) <= 0).all()
    assert (thresholds.p_values(np.add(validation, more[: len(validation)]), scores) >= found).all()


@given(SCORES, SCORES, FLOATS, FLOATS)
def test_accuracies_are_monotone_in_the_threshold(good, defective, a, b):
    low, high = min(a, b), max(a, b)
    assert verdict.good_accuracy(good, low) <= verdict.good_accuracy(good, high)
    assert verdict.defect_accuracy(defective, low) >= verdict.defect_accuracy(defective, high)


@given(SCORES, SCORES, SCORES)
def test_accuracies_of_all_rules_lie_on_one_monotone_curve(good, defective, validation):
    points = verdict.operating_points(good, defective, validation)
    points.sort(key=lambda point: point.threshold.value)
    assert (np.diff([point.good_accuracy for point in points]) >= 0).all()
    assert (np.diff([point.defect_accuracy for point in points]) <= 0).all()
    for point in points:
        assert 0 <= point.balanced_accuracy <= 1


@given(labelled(), SEEDS)
def test_image_metrics_see_only_the_order_of_the_scores(case, seed):
    labels, scores = case
    found = _image_metrics(labels, scores)
    for changed in transforms(scores):
        assert _image_metrics(labels, changed) == found
    order = np.random.default_rng(seed).permutation(len(scores))
    assert _image_metrics(labels[order], scores[order]) == found
    area, average, f1, *interval = found[:5]
    assert min(area, average, f1) >= 0
    assert max(area, average, f1) <= 1
    assert 0 <= interval[0] <= interval[1] <= 1


def _image_metrics(labels, scores):
    """All of them in one tuple: numbers, then the curve."""
    curve = np.concatenate(metrics.roc_curve(labels, scores))
    return (
        metrics.image_auroc(labels, scores),
        metrics.average_precision(labels, scores),
        metrics.f1_max(labels, scores)[0],
        *metrics.auroc_interval(labels, scores, resamples=20),
        *curve,
    )


@given(labelled())
def test_auroc_is_symmetric(case):
    labels, scores = case
    found = metrics.image_auroc(labels, scores)
    assert metrics.image_auroc(1 - labels, -scores) == pytest.approx(found, abs=1e-12)
    assert metrics.image_auroc(labels, -scores) == pytest.approx(1 - found, abs=1e-12)
    masks, maps = labels.astype(bool).reshape(1, 1, -1), ranks(scores).reshape(1, 1, -1)
    assert pixel_metrics.pixel_auroc(masks, maps) == pytest.approx(found, abs=1e-12)
    assert pixel_metrics.pixel_auroc(~masks, -maps) == pytest.approx(found, abs=1e-12)


@given(SCORES, SCORES)
def test_classes_that_scores_part_have_perfect_metrics(good, defective):
    good, defective = ranks(good), ranks(defective)
    defective += good.max() + 1
    labels = np.repeat([0, 1], [len(good), len(defective)])
    found = _image_metrics(labels, np.concatenate([good, defective]))[:5]
    assert found == (1, 1, 1, 1, 1)
    at = thresholds.oracle_f1(good, defective).value
    assert (verdict.good_accuracy(good, at), verdict.defect_accuracy(defective, at)) == (1, 1)


@given(mapped(), SEEDS)
def test_pixel_metrics_see_only_the_order_of_the_maps(case, seed):
    masks, maps = case
    found = pixel_metrics.summary(masks, maps)
    for changed in transforms(maps):
        assert pixel_metrics.summary(masks, changed) == found
    order = np.random.default_rng(seed).permutation(len(masks))
    for a, b in ((masks[order], maps[order]), (masks[:, ::-1], maps[:, ::-1])):
        assert pixel_metrics.summary(a, b) == pytest.approx(found, abs=1e-12)
    assert min(found.values()) >= 0
    assert max(found.values()) <= 1
    perfect = pixel_metrics.summary(masks, ranks(maps) + 1e4 * masks)
    assert perfect == pytest.approx(dict.fromkeys(found, 1), abs=1e-12)


@given(mapped(), st.integers(0, 4), FLOATS, FLOATS)
def test_a_higher_threshold_never_adds_a_pixel(case, opening, a, b):
    _, maps = case
    low, high = sorted((a % 10 - 5, b % 10 - 5))
    lower, higher = (segmentation.segment(maps, at, opening) for at in (low, high))
    assert not (higher & ~lower).any()
    assert not (lower & ~(maps > low)).any()  # nor does the opening


@given(mapped(), st.integers(1, 20), st.integers(1, 20), st.integers(0, 4), SEEDS)
def test_the_minimum_area_threshold_leaves_no_region_of_the_area(case, area, other, opening, seed):
    _, maps = case

    def picked(maps, area=area):
        return segmentation.minimum_area_threshold(maps, area, opening)

    def areas(at):
        return [segmentation.largest(segmentation.segment(one, at, opening)) for one in maps]

    threshold = picked(maps)
    assert max(areas(threshold)) < area
    below = maps[maps < threshold]
    assert not below.size or max(areas(below.max())) >= area
    assert picked(maps, min(area, other)) >= picked(maps, max(area, other))
    raised = maps + np.random.default_rng(seed).integers(0, 9, maps.shape).astype(maps.dtype)
    assert picked(raised) >= threshold
    assert picked(maps + maps.dtype.type(7)) == threshold + 7


@functools.cache
def _measure(distance, border):
    """Images and reconstructions -> the map, and the map smoothed."""

    def measure(x, y):
        maps = residuals.residual_map(distance, x, y, Ssim(7), border)
        return maps, residuals.smooth(maps, 0.7, border)

    return jax.jit(measure)


@given(
    st.sampled_from(residuals.DISTANCES),
    st.sampled_from(tuple(BORDERS)),
    st.sampled_from(["random", "bright", "dark", "equal", "nearly equal", "outside 0..1"]),
    SEEDS,
)
def test_residual_maps_are_never_negative(distance, border, kind, seed):
    x, y = np.random.default_rng(seed).random((2, 1, 9, 11, 3), np.float32)
    if kind in ("bright", "dark"):
        x, y = (part / 255 + (kind == "bright") * np.float32(254 / 255) for part in (x, y))
    y = {"equal": x, "nearly equal": np.nextafter(x, y), "outside 0..1": 5 * y - 2}.get(kind, y)
    for maps in _measure(distance, border)(x, y):
        assert np.isfinite(maps).all()
        assert maps.min() >= (-1e-6 if distance == "ssim" else 0)
        assert kind != "equal" or maps.max() == 0
