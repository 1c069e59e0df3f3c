"""Principal components of features against scikit-learn."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.decomposition import PCA, IncrementalPCA

from cae_jax import methods
from cae_jax.methods import feature_pca
from cae_jax.methods.feature_pca import Head, Options, kept, map_components, vector_components
from cae_jax.methods.features import aligned
from cae_jax.methods.options.feature_pca import PCA_OF
from cae_jax.types import UsageError

KEY = jax.random.key(0)
KERNEL = np.random.default_rng(1).normal(size=(3, 6)).astype("f")
ONES = np.ones(8, np.float32)


def extract(variables, images):
    return {"fine": jnp.abs(images @ KERNEL), "deep": images[:, ::2, ::2] @ KERNEL[:, :2]}


def tiny(side=4, uneven=False):
    return aligned(extract, {}, side, 3)._replace(uneven=uneven)


def fitted(o, images, **kinds):
    found = tiny(images.shape[1], **kinds)
    method = feature_pca.of_features(o, found)
    return method, jax.jit(method.learn.fit)(KEY, images), np.asarray(found.of(images), float)


def unexplained(x, tested, share):
    """Squared errors of rows [n, d] -> [m, d] by scikit-learn's PCA of a share of the variance."""
    pca = PCA(share, svd_solver="full").fit(x)
    return np.square(tested - pca.inverse_transform(pca.transform(tested))), pca.n_components_


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.97])
@pytest.mark.parametrize("n", [2, 7, 20])
def test_whole_maps(rng, n, share, uneven):
    good, images = rng.random((n, 4, 4, 3), np.float32), rng.random((3, 4, 4, 3), np.float32)
    method, variables, x = fitted(Head("maps", share), good, uneven=uneven)
    found = jax.jit(method.inspect)(variables, images).maps["unexplained"]
    by = x.std(axis=(0, 1, 2)) if uneven else 1
    tested = np.asarray(tiny().of(images), float) / by
    errors, number = unexplained((x / by).reshape(n, -1), tested.reshape(3, -1), share)
    np.testing.assert_allclose(found, errors.reshape(3, 4, 4, 8).sum(-1), rtol=1e-3, atol=1e-4)
    lengths = jnp.linalg.norm(variables["params"]["components"].reshape(-1, 128), axis=1)
    np.testing.assert_allclose(lengths, np.arange(len(lengths)) < number, atol=1e-5)


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("share", [0.5, 0.97])
@pytest.mark.parametrize("n", [1, 9])
def test_vectors(rng, n, share, uneven):
    good, images = rng.random((n, 4, 4, 3), np.float32), rng.random((3, 4, 4, 3), np.float32)
    method, variables, x = fitted(Head("vectors", share), good, uneven=uneven)
    found = jax.jit(method.inspect)(variables, images).maps["unexplained"]
    by = x.std(axis=(0, 1, 2)) if uneven else 1
    tested = np.asarray(tiny().of(images), float) / by
    errors, _ = unexplained((x / by).reshape(-1, 8), tested.reshape(-1, 8), share)
    np.testing.assert_allclose(found.ravel(), errors.sum(-1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("n", "size"), [(1, 4), (7, 3), (6, 3), (5, 100), (9, 4)])
@pytest.mark.parametrize("learn", [map_components, vector_components])
def test_chunks_change_nothing(rng, learn, n, size):
    images = rng.random((n, 4, 4, 3), np.float32)
    mean, rows, total = jax.jit(lambda images: learn(tiny(), images, ONES, 20, size))(images)
    x = np.asarray(tiny().of(images), float).reshape(n if learn is map_components else n * 16, -1)
    np.testing.assert_allclose(mean.ravel(), x.mean(axis=0), rtol=1e-4, atol=1e-6)
    off = x - x.mean(axis=0)
    np.testing.assert_allclose(total, np.square(off).sum(), rtol=1e-4, atol=1e-4)
    flat = np.asarray(rows, float).reshape(len(rows), -1)
    np.testing.assert_allclose(flat.T @ flat, off.T @ off, atol=1e-2)
    lengths = np.linalg.norm(flat, axis=1)
    singular = np.linalg.svd(off, compute_uv=False)[: len(flat)]
    np.testing.assert_allclose(lengths, singular, rtol=1e-3, atol=0.05)


def test_fewer_components_than_images_are_incremental_pca(rng):
    """As scikit-learn's with the same chunks, where the variance falls off."""
    weights = rng.normal(size=(32, 3)) * 0.5 ** np.arange(3)
    images = 0.5 + 0.1 * np.tanh(weights @ rng.normal(size=(3, 48)))
    images = images.reshape(32, 4, 4, 3).astype("f")
    mean, rows, _ = map_components(tiny(), images, ONES, 3, 8)
    x = np.asarray(tiny().of(images), float).reshape(32, -1)
    expected = IncrementalPCA(3, batch_size=8).fit(x)
    np.testing.assert_allclose(mean.ravel(), expected.mean_, rtol=1e-4, atol=1e-6)
    flat = np.asarray(rows).reshape(3, -1)
    lengths = np.linalg.norm(flat, axis=1)
    np.testing.assert_allclose(lengths, expected.singular_values_, rtol=1e-3)
    alike = np.abs(np.sum(flat / lengths[:, None] * expected.components_, axis=1))
    np.testing.assert_allclose(alike, 1, rtol=1e-3)


def test_kept(rng):
    """The fewest whose sum is more than the share, of all that there is."""
    rows = np.diag(np.sqrt([5.0, 3.0, 1.0, 0.0])).astype("f")
    for share, total, number in ((0.5, 10, 2), (0.49, 10, 1), (0.7, 10, 2), (0.85, 10, 3)):
        np.testing.assert_allclose(kept(rows, total, share), np.diag(np.arange(4) < number))
    np.testing.assert_allclose(kept(rows, 9, 1.0), np.diag([1, 1, 1, 0]))
    np.testing.assert_array_equal(kept(np.zeros((2, 3), np.float32), 0, 0.9), 0)


@pytest.mark.parametrize("of", PCA_OF)
def test_one_image_is_compared_with_itself(rng, of):
    good = rng.random((1, 4, 4, 3), np.float32)
    method, variables, _ = fitted(Head(of, 1.0), good)
    found = method.inspect(variables, good).maps["unexplained"]
    np.testing.assert_allclose(found, 0, atol=1e-4)


@pytest.mark.parametrize("of", PCA_OF)
def test_jit_equals_eager_and_no_score_knows_its_batch(rng, of):
    good, images = rng.random((5, 4, 4, 3), np.float32), rng.random((3, 4, 4, 3), np.float32)
    method, variables, _ = fitted(Head(of), good)
    whole = method.inspect(variables, images).maps["unexplained"]
    eager = method.inspect(method.learn.fit(KEY, good), images).maps["unexplained"]
    np.testing.assert_allclose(whole, eager, rtol=1e-3, atol=1e-5)
    each = [jax.jit(method.inspect)(variables, one[None]).maps["unexplained"][0] for one in images]
    np.testing.assert_allclose(whole, each, rtol=1e-4, atol=1e-6)


def test_the_share_depends_on_what_is_decomposed(rng):
    good = rng.random((20, 4, 4, 3), np.float32)
    for of, share in (("maps", 0.9), ("vectors", 0.97)):
        default, named = (
            fitted(Head(of, s), good)[1]["params"]["components"] for s in (0.0, share)
        )
        np.testing.assert_array_equal(default, named)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"pca_of": "map"}, "unknown --pca_of 'map': did you mean maps?"),
        ({"kept_variance": 1.5}, "--kept_variance=1.5: must be from 0 to 1"),
        ({"components": 0}, "--components=0: must be at least 1"),
    ],
)
def test_bad_options(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("feature_pca", Options(features="filter_bank", **flags), 16, 1)


def test_no_image():
    for of in PCA_OF:
        with pytest.raises(ValueError, match="no good image"):
            fitted(Head(of), np.ones((0, 4, 4, 3), np.float32))
