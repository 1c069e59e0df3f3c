"""The per-position Gaussian against scikit-learn and loops over points in float64."""

import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.distance import mahalanobis
from sklearn.covariance import EmpiricalCovariance

from cae_jax import methods
from cae_jax.methods import gaussian
from cae_jax.methods.features import aligned
from cae_jax.methods.gaussian import Head, Options, moments, whitening
from cae_jax.methods.options.gaussian import COVARIANCES
from cae_jax.types import UsageError

KEY = jax.random.key(0)
KERNEL = np.random.default_rng(1).normal(size=(3, 9)).astype("f")


def extract(variables, images):
    """Nine channels of every pixel, and of its square's mean."""
    b, h, w, _ = images.shape
    deep = images[:, : h // 2 * 2, : w // 2 * 2].reshape(b, h // 2, 2, w // 2, 2, 3)
    return {"fine": jnp.abs(images @ KERNEL), "deep": jnp.mean(deep, axis=(2, 4)) @ KERNEL[:, :2]}


def tiny(side=4, uneven=False):
    return aligned(extract, {}, side, 3)._replace(uneven=uneven)


def fitted(o, images, key=KEY, **kinds):
    found = tiny(images.shape[1], **kinds)
    method = gaussian.of_features(o, found)
    return method, jax.jit(method.learn.fit)(key, images), np.asarray(found.of(images), float)


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize(("n", "size"), [(1, 4), (2, 1), (7, 3), (6, 3), (5, 100), (9, 4)])
def test_moments_in_one_pass(rng, n, size, pooled):
    images, channels = rng.random((n, 4, 4, 3), np.float32), np.array([0, 3, 10])
    run = jax.jit(lambda images: moments(tiny(), images, channels, pooled, size))
    mean, squares = run(images)
    x = np.asarray(tiny().of(images), float)[..., channels]
    np.testing.assert_allclose(mean, x.mean(axis=0), rtol=1e-5)
    off = x - x.mean(axis=0)
    expected = np.einsum("nhwi,nhwj->hwij", off, off)
    expected = expected.mean(axis=(0, 1)) if pooled else expected
    np.testing.assert_allclose(squares, expected, rtol=1e-4, atol=1e-5)
    if size > n:  # features at hand know no chunks
        given = jax.jit(lambda maps: moments(tiny().given, maps, channels, pooled))
        for one, other in zip(given(tiny().of(images)), (mean, squares), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("n", [2, 5, 30])  # fewer images than channels too
def test_maps(rng, n, covariance):
    good, images = rng.random((n, 4, 4, 3), np.float32), rng.random((3, 4, 4, 3), np.float32)
    method, variables, x = fitted(Head(covariance), good)
    found = jax.jit(method.inspect)(variables, images)
    tested = np.asarray(tiny().of(images), float)
    covariances = {at: np.cov(x[:, *at].T) for at in np.ndindex(4, 4)}
    if covariance == "pooled":
        covariances = dict.fromkeys(covariances, np.mean([*covariances.values()], axis=0))
    for (y, column), s in covariances.items():
        precision, mean = np.linalg.inv(s + 0.01 * np.eye(11)), x[:, y, column].mean(axis=0)
        expected = [mahalanobis(one[y, column], mean, precision) for one in tested]
        np.testing.assert_allclose(found.maps["mahalanobis"][:, y, column], expected, rtol=1e-4)
    assert found.numbers == {}
    assert found.reconstruction is None


def test_without_shrinkage_it_is_scikit_learn(rng):
    """Its covariance is divided by n, the paper's by n - 1."""
    good, images = rng.random((60, 2, 2, 3), np.float32), rng.random((4, 2, 2, 3), np.float32)
    method, variables, x = fitted(Head(shrinkage=0.0, feature_channels=5), good)
    channels = np.asarray(variables["params"]["channels"])
    found = method.inspect(variables, images).maps["mahalanobis"][:, 1, 0]
    tested = np.asarray(tiny(2).of(images), float)[:, 1, 0, channels]
    squares = EmpiricalCovariance().fit(x[:, 1, 0, channels]).mahalanobis(tested)
    np.testing.assert_allclose(np.square(found), squares * 59 / 60, rtol=1e-3)


def test_channels_of_different_units_count_alike(rng):
    """Where they are uneven, a channel times 1000 changes nothing."""
    good, images = rng.random((6, 4, 4, 3), np.float32), rng.random((2, 4, 4, 3), np.float32)
    found = []
    for factor in (1, 1000):
        scale = jnp.where(jnp.arange(9) == 2, factor, 1.0)
        scaled = aligned(lambda v, x, s=scale: {"a": extract(v, x)["fine"] * s}, {}, 4, 3)
        method = gaussian.of_features(Head(), scaled._replace(uneven=True))
        variables = method.learn.fit(KEY, good)
        found.append(method.inspect(variables, images).maps["mahalanobis"])
    np.testing.assert_allclose(found[0], found[1], rtol=1e-3)
    _, variables, x = fitted(Head(), good, uneven=True)
    assert np.isfinite(variables["params"]["whiten"]).all()
    by = np.sqrt(x.var(axis=0, ddof=1).mean(axis=(0, 1)) + x.mean(axis=0).var(axis=(0, 1)))
    s = np.cov(x[:, 0, 0].T) / by / by[:, None] + 0.01 * np.eye(11)
    w = variables["params"]["whiten"][0, 0] * by[:, None]
    np.testing.assert_allclose(w @ w.T, np.linalg.inv(s), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_mixture_judges_an_image_by_the_group_it_is_like(rng, covariance):
    """Two products that differ in brightness, in mixed order, each against its own Gaussian."""
    bright = rng.permutation([0, 1] * 7)
    good = (rng.random((14, 4, 4, 3)) + 3 * bright[:, None, None, None]).astype("f")
    kind = np.array([1, 0, 1])
    images = (rng.random((3, 4, 4, 3)) + 3 * kind[:, None, None, None]).astype("f")
    images[0, :2] -= 3  # a defect that looks like the other product
    method, variables, x = fitted(Head(covariance, mixture=2), good)
    found = np.asarray(jax.jit(method.inspect)(variables, images).maps["mahalanobis"])
    tested, expected = np.asarray(tiny().of(images), float), np.zeros((3, 4, 4))
    for i, (y, column) in itertools.product(range(3), np.ndindex(4, 4)):
        own = x[bright == kind[i]]
        off = own - own.mean(axis=0)
        s = np.einsum("nhwi,nhwj->hwij", off, off) / 6
        s = s.mean(axis=(0, 1)) if covariance == "pooled" else s[y, column]
        precision = np.linalg.inv(s + 0.01 * np.eye(11))
        mean = own[:, y, column].mean(axis=0)
        expected[i, y, column] = mahalanobis(tested[i, y, column], mean, precision)
    np.testing.assert_allclose(found, expected, rtol=2e-4)
    for i in range(3):
        one = method.inspect(variables, images[i : i + 1]).maps["mahalanobis"][0]
        np.testing.assert_allclose(one, found[i], rtol=1e-4)


@pytest.mark.parametrize("size", [1, 3, 8])
def test_moments_of_groups_in_one_pass(rng, size):
    images, channels = rng.random((7, 4, 4, 3), np.float32), np.array([0, 3, 10])
    member = np.array([[1, 0, 0, 1, 0, 0, 1], [0, 1, 1, 0, 1, 1, 0]], np.float32)
    means, squares = moments(tiny(), images, channels, False, size, member)
    given = moments(tiny().given, tiny().of(images), channels, False, size, member)
    for one, other in zip(given, (means, squares), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    for i, its in enumerate(member == 1):
        mean, square = moments(tiny(), images[its], channels, False)
        np.testing.assert_allclose(means[i], mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(squares[i], square, rtol=1e-4, atol=1e-5)


def test_how_many_groups():
    assert Head().together(3).mixture == 3
    assert Head(mixture=2).together(3).mixture == 2
    with pytest.raises(UsageError, match="--mixture=4: more than the 3 good images"):
        fitted(Head(mixture=4), np.ones((3, 4, 4, 3), np.float32))


def test_whitening(rng):
    roots = rng.normal(size=(2, 3, 5, 5))
    s = roots @ roots.swapaxes(-1, -2)
    found = np.asarray(whitening(s.astype("f"), 0.5), float)
    inverse = np.linalg.inv(s + 0.5 * np.eye(5))
    np.testing.assert_allclose(found @ found.swapaxes(-1, -2), inverse, rtol=1e-4, atol=1e-4)


def test_channels_are_drawn_by_the_seed(rng):
    good = rng.random((3, 2, 2, 3), np.float32)
    drawn = [
        np.asarray(
            fitted(Head(feature_channels=4), good, jax.random.key(seed))[1]["params"]["channels"]
        )
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.any(drawn[0] != drawn[2])
    assert len(set(drawn[0].tolist())) == 4
    for number in (0, 100):
        channels = fitted(Head(feature_channels=number), good)[1]["params"]["channels"]
        np.testing.assert_array_equal(channels, np.arange(11))


def test_jit_equals_eager_and_no_score_knows_its_batch(rng):
    good, images = rng.random((5, 4, 4, 3), np.float32), rng.random((3, 4, 4, 3), np.float32)
    method, variables, _ = fitted(Head(), good)
    eager = method.learn.fit(KEY, good)
    for name, value in variables["params"].items():
        np.testing.assert_allclose(value, eager["params"][name], rtol=1e-3, atol=1e-4)
    whole = method.inspect(variables, images).maps["mahalanobis"]
    each = [jax.jit(method.inspect)(variables, one[None]).maps["mahalanobis"][0] for one in images]
    np.testing.assert_allclose(whole, each, rtol=1e-5)


def test_defaults_on_filters():
    o = Options(features="filter_bank")
    assert (o.residual_smooth, o.image_score, o.shrinkage, o.feature_channels) == (
        4,
        "max",
        0.01,
        0,
    )
    method = methods.build("gaussian", o, 16, 1)
    assert method.distances == ("mahalanobis",)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"covariance": "poold"}, "unknown --covariance 'poold': did you mean pooled?"),
        ({"shrinkage": -0.1}, "--shrinkage=-0.1: must be at least 0"),
        ({"feature_channels": -1}, "--feature_channels=-1: must be at least 0"),
        ({"image_score": "mean"}, "unknown --image_score 'mean'"),
    ],
)
def test_bad_options(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("gaussian", Options(features="filter_bank", **flags), 16, 1)


def test_too_few_images(rng):
    with pytest.raises(UsageError, match="--shrinkage=0: 5 good images do not give 11 channels"):
        fitted(Head(shrinkage=0.0), rng.random((5, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="no good image"):
        fitted(Head(), np.ones((0, 4, 4, 3), np.float32))
