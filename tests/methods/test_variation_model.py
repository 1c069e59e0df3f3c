"""The variation model against loops over pixels in float64."""

import math
import re
import statistics

import jax
import numpy as np
import pytest
from scipy import ndimage

from cae_jax import methods, options
from cae_jax.methods.options.variation_model import MODES, POLARITIES
from cae_jax.methods.variation_model import Options, robust, standard
from cae_jax.scoring import scorer
from cae_jax.scoring.residuals import Reduction
from cae_jax.types import Fit, UsageError

KEY = jax.random.key(0)


def loops(images, per_pixel):
    """Two images, pixel by pixel, of `per_pixel`(values) -> (center, spread)."""
    shape = images.shape[1:]
    found = np.zeros((2, *shape))
    for at in np.ndindex(shape):
        found[(slice(None), *at)] = per_pixel([float(image[at]) for image in images])
    return found


def mean_and_deviation(values):
    return statistics.fmean(values), statistics.pstdev(values)


def median_and_mad(values):
    median = statistics.median(values)
    return median, 1.4826 * statistics.median([abs(value - median) for value in values])


def fitted(o, images):
    method = methods.build("variation_model", o, images.shape[1], images.shape[-1])
    return method, jax.jit(method.learn.fit)(KEY, images)


@pytest.mark.parametrize("shape", [(7, 5, 1), (3, 4, 3)])
@pytest.mark.parametrize(("n", "chunk_size"), [(1, 4), (2, 1), (7, 3), (6, 3), (5, 100), (9, 4)])
def test_mean_and_deviation_in_one_pass(rng, shape, n, chunk_size):
    images = rng.random((n, *shape), np.float32)
    found = jax.jit(standard, static_argnums=1)(images, chunk_size)
    expected = loops(images, mean_and_deviation)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_small_deviation_from_a_bright_mean_is_not_lost(rng):
    """The mean of squares less the square of the mean would be noise in float32."""
    images = (0.9 + 1e-4 * rng.standard_normal((50, 2, 3, 1))).astype("f")
    _, deviation = standard(images, 8)
    expected = images.astype(float).std(axis=0)
    np.testing.assert_allclose(deviation, expected, rtol=1e-2)


@pytest.mark.parametrize("n", [1, 2, 5, 8])
@pytest.mark.parametrize("shape", [(5, 3, 1), (2, 4, 3)])
def test_medians(rng, shape, n):
    images = rng.random((n, *shape), np.float32)
    found = jax.jit(robust)(images)
    np.testing.assert_allclose(found, loops(images, median_and_mad), rtol=1e-5, atol=1e-7)


def test_medians_of_images_made_even_are_negative_too(rng):
    images = rng.standard_normal((6, 4, 3, 1)).astype("f")
    found = jax.jit(robust)(images)
    np.testing.assert_allclose(found, loops(images, median_and_mad), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("n", [10, 33])
def test_medians_of_gray_levels_are_exact(rng, n):
    """Eight bits give ties, and pixels that are black or white in every image."""
    images = rng.integers(0, 256, (n, 6, 5, 1)).astype("f") / np.float32(255)
    images[:, 0], images[:, 1], images[:, 2] = 0, 1, images[:, 2] > 0.5
    np.testing.assert_array_equal(jax.jit(robust)(images)[0], np.median(images, axis=0))


def test_one_bad_image_moves_the_mean_and_not_the_median(rng):
    images = (0.5 + 0.01 * rng.standard_normal((9, 4, 5, 1))).astype("f")
    spoilt = np.concatenate([images, np.ones_like(images[:1])])
    (mean, spread), (median, mad) = standard(spoilt), robust(spoilt)
    assert np.abs(mean - 0.5).min() > 0.03
    assert np.min(spread) > 0.1
    assert np.abs(median - 0.5).max() < 0.02
    assert np.max(mad) < 0.05


def test_the_scaled_mad_of_a_gaussian_is_its_deviation(rng):
    images = (0.5 + 0.1 * rng.standard_normal((20_001, 1, 2, 1))).astype("f")
    np.testing.assert_allclose(robust(images)[1], 0.1, rtol=0.03)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("polarity", POLARITIES)
def test_maps(rng, channels, mode, polarity):
    o = Options(mode, absolute_threshold=6.0, variance_threshold=1.5, polarity=polarity)
    good = (0.5 + 0.03 * rng.standard_normal((6, 5, 7, channels))).astype("f")
    images = rng.random((2, 5, 7, channels), np.float32)
    method, variables = fitted(o, good)
    found = jax.jit(method.inspect)(variables, images)
    ideal, spread = 255 * loops(good, median_and_mad if mode == "robust" else mean_and_deviation)
    hit = set()
    for n, y, x in np.ndindex(2, 5, 7):
        variation, deviation = [], []
        for c in range(channels):
            gray, i, v = 255 * float(images[n, y, x, c]), ideal[y, x, c], spread[y, x, c]
            limit = max(6.0, 1.5 * v)
            hit.add(limit == 6.0)
            off = {"both": abs(gray - i), "light": gray - i, "dark": i - gray}[polarity]
            off = max(off, 0)
            variation.append(off / limit)
            deviation.append(off / (v + 1))
            outside = {"light": gray > i + limit, "dark": gray < i - limit}
            outside["both"] = outside["light"] or outside["dark"]
            assert (off / limit > 1) == outside[polarity]  # the rule as HALCON writes it
        np.testing.assert_allclose(found.maps["variation"][n, y, x], max(variation), rtol=1e-4)
        np.testing.assert_allclose(found.maps["deviation"][n, y, x], max(deviation), rtol=1e-4)
    assert hit == {True, False}  # either threshold decides somewhere
    np.testing.assert_allclose(255 * found.reconstruction, [ideal, ideal], rtol=1e-5)
    assert found.numbers == {}


@pytest.mark.parametrize("polarity", POLARITIES)
def test_dark_pixels_have_thresholds_of_their_own(rng, polarity):
    """As HALCON takes two values of each: t_u = i + max(a_u, b_u v), t_l = i - max(a_l, b_l v)."""
    light, dark = (6.0, 1.5), (20.0, 0.5)
    o = Options("standard", "none", *light, *dark, polarity)
    good = (0.5 + 0.04 * rng.standard_normal((6, 5, 4, 1))).astype("f")
    images = (0.5 + 0.08 * rng.standard_normal((2, 5, 4, 1))).astype("f")
    method, variables = fitted(o, good)
    found = np.asarray(method.inspect(variables, images).maps["variation"])
    i, v = (255 * each[..., 0] for each in loops(good, mean_and_deviation))
    c = 255 * images[..., 0].astype(float)
    bright = (c - i) / np.maximum(light[0], light[1] * v)
    too_dark = (i - c) / np.maximum(dark[0], dark[1] * v)
    sides = {"light": bright, "dark": too_dark, "both": np.maximum(bright, too_dark)}
    np.testing.assert_allclose(found, np.maximum(sides[polarity], 0), rtol=1e-3, atol=1e-3)
    assert (bright > 1).any()
    assert (too_dark > 1).any()


def test_aligned_images_are_judged_where_they_have_the_product():
    """Good ones lie and turn in any way; a blot on one is found where that image has it."""
    rng, ground = np.random.default_rng(2), np.full((40, 40), 0.4, np.float32)
    ground[14:26, 10:31] = 0.8
    ground[17:20, 22:27] = 0.1
    ground[20:24, 12:15] = 0.5

    def taken(image, turn, shift):
        center, r = 19.5, np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
        start = center - r.T @ (center + np.array(shift))
        found = ndimage.affine_transform(image, r.T, start, order=1, mode="nearest")
        return (found + 0.004 * rng.standard_normal(found.shape)).astype("f")[..., None]

    ground = ndimage.gaussian_filter(ground, 0.8)
    motions = [(0, (0, 0)), (0.7, (2, -1)), (-2.1, (-1.5, 2)), (3.0, (0.5, 1)), (1.6, (-2, -2))]
    good = np.stack([taken(ground, *motion) for motion in motions])
    blot = ground.copy()
    blot[15:18, 17:20] = 0.5
    tested = np.stack([taken(ground, 2.5, (1, 1)), taken(blot, 2.5, (1, 1))])
    where = taken((blot != ground).astype("f"), 2.5, (1, 1))[..., 0] > 0.5
    o = Options(align="rigid", absolute_threshold=25.0)
    method, variables = fitted(o, good)
    inspect = jax.jit(method.inspect)
    found = inspect(variables, tested)
    fine, bad = np.asarray(found.maps["variation"])
    assert (bad[where] > 1).all()
    assert (bad[~ndimage.binary_dilation(where, iterations=3)] > 1).mean() < 0.01
    assert (fine > 1).mean() < 0.01
    # the ideal image stands where the tested one has the product
    assert np.abs(found.reconstruction[0] - tested[0]).mean() < 0.02
    # what lies outside of the reference once moved back is not judged
    c, s = np.cos(2.5), np.sin(2.5)
    y, x = np.indices((40, 40)) - 19.5 - 1
    outside = np.maximum(np.abs(c * y + s * x), np.abs(c * x - s * y)) > 21
    assert outside.any()
    assert (bad[outside] == 0).all()
    alone = inspect(variables, np.stack([tested[1], 1 - tested[0]])).maps["variation"][0]
    np.testing.assert_array_equal(alone, bad)
    assert (o.label, o.title) == (
        "variation_model-rigid",
        "variation_model (phase-aligned, rigid)",
    )
    assert (Options().label, Options().title) == ("variation_model", "variation_model (unaligned)")


@pytest.mark.parametrize("n", [1, 2])
def test_few_images(rng, n):
    """One has no deviation: the absolute threshold alone counts."""
    good, images = rng.random((n, 3, 5, 1), np.float32), rng.random((2, 3, 5, 1), np.float32)
    method, variables = fitted(Options(), good)
    found = method.inspect(variables, images).maps["variation"]
    mean = good.astype(float).mean(axis=0)
    spread = np.abs(good[0].astype(float) - mean)  # of one or two numbers
    limit = np.maximum(10, 2 * 255 * spread)
    np.testing.assert_allclose(found, (255 * np.abs(images - mean) / limit)[..., 0], rtol=1e-4)


def test_thresholds_of_0_leave_the_map_finite(rng):
    good = rng.random((1, 3, 4, 1), np.float32)
    method, variables = fitted(Options(absolute_threshold=0.0, variance_threshold=0.0), good)
    one_level = good + np.float32(1 / 255) * (np.arange(4) == 2)[:, None]
    for image, above in ((good, [False] * 4), (one_level, [False, False, True, False])):
        found = np.asarray(method.inspect(variables, image).maps["variation"])
        assert np.isfinite(found).all()
        assert (found > 1).any(axis=(0, 1)).tolist() == above


def test_evidence_is_of_the_image_alone(rng):
    good, images = rng.random((4, 6, 5, 3), np.float32), rng.random((3, 6, 5, 3), np.float32)
    method, variables = fitted(Options(), good)
    inspect = jax.jit(method.inspect)
    others = rng.random(images.shape, np.float32)
    others[1] = images[1]
    one, two = inspect(variables, images), inspect(variables, others)
    for name in method.distances:
        np.testing.assert_array_equal(one.maps[name][1], two.maps[name][1])
        alone = inspect(variables, images[1:2]).maps[name]
        np.testing.assert_allclose(alone[0], one.maps[name][1], rtol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_jit_equals_eager(rng, mode):
    good, images = rng.random((5, 4, 3, 1), np.float32), rng.random((2, 4, 3, 1), np.float32)
    method, variables = fitted(Options(mode), good)
    eager = method.learn.fit(KEY, good)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), variables, eager)
    one, two = jax.jit(method.inspect)(variables, images), method.inspect(variables, images)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), one, two)


def test_an_image_is_bad_where_any_pixel_is_outside(rng):
    """HALCON's rule is the default reduction, with a threshold of 1."""
    field = options.fields(Options)["image_score"]
    assert field.default == "max"
    assert field.metadata["part"] == options.SCORING
    good = np.full((3, 6, 5, 1), 0.5, np.float32)
    method, variables = fitted(Options(), good)
    assert isinstance(method.learn, Fit)
    assert method.distances == ("variation", "deviation")
    score = scorer.scorer(method.inspect, Reduction(("variation",), reduce=field.default))
    images = np.repeat(good[:1], 2, axis=0)
    images[0, 2, 3] += 9 / 255
    images[1, 4, 1] -= 11 / 255
    np.testing.assert_allclose(score(variables, images).distances["variation"], [0.9, 1.1], 1e-4)


def test_thresholds_are_no_part_of_the_identity():
    """They are applied to what was learned: another value is judged anew, not learned anew."""
    known = options.fields(Options)
    assert set(options.in_part(known, options.IDENTITY)) == {"mode", "align"}
    assert math.isclose(Options().absolute_threshold, 10)
    assert math.isclose(Options().variance_threshold, 2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"mode": "robst"}, "unknown --mode 'robst': did you mean robust?"),
        ({"polarity": "bright"}, "unknown --polarity 'bright'"),
        ({"absolute_threshold": -1.0}, "--absolute_threshold=-1.0: must be at least 0"),
        ({"variance_threshold": math.inf}, "--variance_threshold=inf: must be a finite number"),
        ({"align": "rigd"}, "unknown --align 'rigd': did you mean rigid?"),
        ({"dark_absolute_threshold": -2.0}, "--dark_absolute_threshold=-2.0: must be at least -1"),
        ({"image_score": "mean"}, "unknown --image_score 'mean'"),
    ],
)
def test_bad_options(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("variation_model", Options(**flags), 8, 1)


def test_bad_images(rng):
    method, variables = fitted(Options(), rng.random((2, 4, 4, 1), np.float32))
    with pytest.raises(ValueError, match=r"learned from images \(4, 4, 1\), got \(1, 4, 1\)"):
        method.inspect(variables, np.ones((3, 1, 4, 1), np.float32))
    for mode in MODES:
        learn = methods.build("variation_model", Options(mode), 4, 1).learn
        with pytest.raises(ValueError, match="no good image"):
            learn.fit(KEY, np.ones((0, 4, 4, 1), np.float32))
