"""Texture inspection against loops over patches, SciPy's densities and SciPy's interpolation."""

import re

import jax
import numpy as np
import pytest
from scipy import ndimage, special, stats

from cae_jax import methods
from cae_jax.methods import gmm_texture
from cae_jax.methods.gmm_texture import Options
from cae_jax.methods.options.gmm_texture import NORMALIZATIONS
from cae_jax.types import UsageError

SIDE, PATCH, KEPT = 15, 3, 4
OWN = Options(
    patch=PATCH, dimensions=KEPT, components=2, variance_floor=0.01, samples=1000, quantile=0.99
)


def drawn(seed, n):
    """A texture of two kinds of stripes in noise."""
    rng = np.random.default_rng(seed)
    x = np.arange(SIDE) + rng.integers(0, 4, (n, 1, 1, 1))
    stripes = 0.5 + 0.2 * np.sign(np.sin(1.6 * x)).reshape(n, 1, SIDE, 1)
    return np.clip(stripes + 0.05 * rng.standard_normal((n, SIDE, SIDE, 1)), 0, 1).astype("f")


@pytest.fixture(scope="module")
def learned():
    """A method of two levels, compiled, and images of which it sees every pixel."""
    method, good = methods.build("gmm_texture", OWN, SIDE, 1), drawn(0, 4)
    fit = jax.jit(lambda images: method.learn.fit(jax.random.key(5, impl="rbg"), images))
    return jax.jit(method.inspect), fit, good


@pytest.fixture(scope="module")
def variables(learned):
    return jax.device_get(learned[1](learned[2]))


def halves(image):
    """The next level of [H, W, C], pixel by pixel."""
    h, w, c = image.shape
    found = np.zeros(((h + 1) // 2, (w + 1) // 2, c))
    for y, x in np.ndindex(found.shape[:2]):
        ys, xs = [2 * y, min(2 * y + 1, h - 1)], [2 * x, min(2 * x + 1, w - 1)]
        found[y, x] = np.mean([image[i, j] for i in ys for j in xs], axis=0)
    return found


def projected(image, filters, weber=False):
    """The projected patch around every pixel of [H, W, C]: [H, W, k]."""
    p, r = len(filters), len(filters) // 2
    wide = np.pad(image.astype(float), ((r, r), (r, r), (0, 0)), mode="reflect")
    found = np.zeros((*image.shape[:2], filters.shape[-1]))
    for y, x in np.ndindex(image.shape[:2]):
        patch = wide[y : y + p, x : x + p]
        patch = patch / max(patch.mean(), 1 / 255) if weber else patch
        found[y, x] = np.tensordot(patch, filters.astype(float), 3)
    return found


def test_a_pyramid_halves_odd_sides_too(rng):
    images = rng.random((2, 7, 5, 3), np.float32)
    levels = gmm_texture.pyramid(images, 3)
    for i in range(2):
        expected = images[i]
        for level in levels:
            np.testing.assert_allclose(level[i], expected, rtol=1e-5)
            expected = halves(expected)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_features_are_projected_patches_and_so_are_samples(rng, normalization):
    images = rng.random((2, 6, 7, 2), np.float32)
    images[0, :4] = 0  # no patch's mean divides by 0
    filters = np.asarray(gmm_texture.projection(jax.random.key(0), 3, 2, 5))
    flat = filters.reshape(18, 5)
    np.testing.assert_allclose(flat.T @ flat, np.eye(5), atol=1e-5)
    o = Options(patch=3, dimensions=5, patch_normalization=normalization, samples=1000)
    expected = [projected(image, filters, normalization == "weber") for image in images]
    np.testing.assert_allclose(
        gmm_texture.features(images, filters, o), expected, rtol=1e-4, atol=1e-5
    )
    # as many are wanted as there are pixels, so each pixel is drawn once
    found = np.asarray(gmm_texture.sampled(jax.random.key(1), images, filters, 1, o))
    np.testing.assert_allclose(found[0], np.reshape(expected, (84, 5)), rtol=1e-4, atol=1e-5)


def test_novelty_is_scipys_likelihood_between_the_median_and_the_quantile(learned, variables):
    inspect, _, good = learned
    params, image = variables["params"], drawn(3, 1)
    levels, mixture = [image[0], halves(image[0])], params["mixture"]
    whole = []
    for level, one in enumerate(levels):

        def nll(image, level=level):
            x = projected(image, params["filters"]).reshape(-1, KEPT)
            x = (x - params["center"][level]) / params["scale"][level]
            of = mixture["means"][level], mixture["roots"][level], mixture["weights"][level]
            logs = [
                np.log(weight) + stats.multivariate_normal(mean, root @ root.T).logpdf(x)
                for mean, root, weight in zip(*of, strict=True)
            ]
            return -special.logsumexp(logs, axis=0)

        if level == 0:  # all of the training pixels were sampled
            seen = np.concatenate([nll(image) for image in good])
            median, threshold = np.quantile(seen, [0.5, 0.99])
            np.testing.assert_allclose(params["median"][0], median, atol=1e-3)
            np.testing.assert_allclose(params["threshold"][0], threshold, atol=1e-2)
        median, threshold = params["median"][level], params["threshold"][level]
        relative = ((nll(one) - median) / (threshold - median)).reshape(one.shape[:2])
        large = ndimage.zoom(relative, 2**level, order=1, mode="nearest", grid_mode=True)
        whole.append(large[:SIDE, :SIDE])
    np.testing.assert_allclose(
        inspect(variables, image).maps["novelty"][0], np.minimum(*whole), rtol=1e-3, atol=1e-3
    )


def test_levels_are_fused_as_halcons_regions(rng):
    levels = [rng.standard_normal((2, *size), np.float32) for size in ((7, 6), (4, 3), (2, 2))]
    found = np.asarray(gmm_texture.fused(levels, (7, 6)))
    for i in range(2):
        whole = [
            ndimage.zoom(level[i], 2**j, order=1, mode="nearest", grid_mode=True)[:7, :6]
            for j, level in enumerate(levels)
        ]
        adjacent = [(whole[j] > 0.1) & (whole[j + 1] > 0.1) for j in range(2)]
        np.testing.assert_array_equal(found[i] > 0.1, adjacent[0] | adjacent[1])
    np.testing.assert_array_equal(gmm_texture.fused(levels[:1], (7, 6)), levels[0])


def test_a_blot_is_above_the_threshold_where_it_is(learned, variables):
    inspect = learned[0]
    images = drawn(8, 2)
    images[1, 5:11, 6:12] = 1
    good, bad = np.asarray(inspect(variables, images).maps["novelty"])
    assert np.quantile(good, 0.9) < 1
    assert (bad[6:10, 7:11] > 1).all()
    assert bad.max() > 2 * good.max()


def test_images_all_alike_leave_the_novelty_finite(learned):
    inspect, fit, good = learned
    alike = np.full_like(good, 0.5)
    variables = fit(alike)
    same, other = (inspect(variables, alike[:2] + np.float32(d)).maps["novelty"] for d in (0, 0.1))
    assert np.isfinite(same).all()
    assert np.max(same) < 1
    assert np.isfinite(other).all()
    assert np.min(other) > 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"patch": 4}, "--patch=4: must be odd"),
        ({"dimensions": 50}, "--dimensions=50: a patch has 7 x 7 x 1 = 49 numbers"),
        ({"levels": 3}, "--levels=3 --patch=7: images of 40 pixels have room for 2 levels"),
        ({"patch_normalization": "webr"}, "did you mean weber?"),
        ({"covariance": "tied"}, "unknown --covariance 'tied'"),
        ({"quantile": 1.1}, "--quantile=1.1: must be from 0.5 to 1"),
        ({"variance_floor": 0.0}, "--variance_floor=0.0: must be at least 1e-06"),
    ],
)
def test_bad_options(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("gmm_texture", Options(**flags), 40, 1)


def test_no_image_at_all():
    learn = methods.build("gmm_texture", Options(), 40, 1).learn
    with pytest.raises(ValueError, match="no good image"):
        learn.fit(jax.random.key(0), np.ones((0, 40, 40, 1), np.float32))
