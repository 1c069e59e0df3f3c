"""The feature dictionary against scikit-learn, scikit-image and loops, on a network of a layer."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.transform import resize
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA

from cae_jax import methods
from cae_jax.methods import feature_dictionary
from cae_jax.methods.feature_dictionary import (
    Options,
    components,
    cover,
    make,
    means,
    normalised,
    starts,
)
from cae_jax.methods.options.feature_dictionary import FORMS
from cae_jax.types import UsageError

SIDE, PATCH, STRIDE, ENLARGED, CHANNELS, WORDS = 12, 4, 3, 8, 3, 3
FIRST = (0, 3, 6, 8)  # of the patches along a side
KERNEL = np.random.default_rng(1).normal(size=(CHANNELS, 5)).astype("f")
SMALL = {"form": "patches", "patch_size": PATCH, "stride": STRIDE, "enlarged": ENLARGED}
SMALL |= {"words": WORDS}


def layer(variables, images):
    """Means over 2 x 2 pixels, a product and an absolute value: [N, 8, 8, 3] -> [N, 4, 4, 5]."""
    n, height, width, channels = images.shape
    pooled = images.reshape(n, height // 2, 2, width // 2, 2, channels).mean((2, 4))
    return {"deep": jnp.abs(pooled @ KERNEL - 0.1)}


@pytest.fixture
def network(monkeypatch):
    monkeypatch.setattr(
        *(feature_dictionary, "pretrained"),
        lambda options, own: SimpleNamespace(extract=layer, frozen={}),
    )


def features_of(image):
    """Of each patch of an image [12, 12, 3], in reading order, [16, 5]."""
    found = []
    for row in FIRST:
        for column in FIRST:
            patch = image[row : row + PATCH, column : column + PATCH]
            large = resize(patch, (ENLARGED, ENLARGED), 1, mode="edge", anti_aliasing=False)
            own = np.abs(large.reshape(4, 2, 4, 2, 3).mean((1, 3)) @ KERNEL - 0.1).mean((0, 1))
            found.append(own / np.abs(own).sum())
    return np.array(found)


@pytest.mark.parametrize(("nearest_words", "standardize"), [(1, False), (2, True)])
def test_patches_are_as_far_from_the_words_as_in_numpy(rng, network, nearest_words, standardize):
    more = {"nearest_words": nearest_words, "standardize": standardize}
    method = make(Options(**SMALL, **more), SIDE, CHANNELS)
    good, images = rng.random((3, SIDE, SIDE, 3), "f"), rng.random((2, SIDE, SIDE, 3), "f")
    variables = jax.jit(method.learn.fit)(jax.random.key(0), good)
    found = jax.jit(method.inspect)(variables, images).maps["nearest_word"]

    x = np.concatenate([features_of(image) for image in good])
    pca = PCA(0.95, svd_solver="full", whiten=standardize).fit(x)
    unbiased = np.sqrt(len(x) / (len(x) - 1)) if standardize else 1  # scikit-learn takes n - 1
    learned = {name: np.asarray(leaf, float) for name, leaf in variables["params"].items()}
    words = (learned["words"] @ learned["components"]) if not standardize else None
    for i, image in enumerate(images):
        own = pca.transform(features_of(image)) * unbiased
        known = pca.transform(x) * unbiased
        if words is None:  # the same words up to signs: found by the groups that they make
            theirs = (x - learned["mean"]) @ learned["components"].T
            group = ((theirs[:, None] - learned["words"]) ** 2).sum(-1).argmin(1)
            centers = np.array([known[group == g].mean(axis=0) for g in range(WORDS)])
        else:
            centers = pca.transform(words + learned["mean"])
        apart = np.sort(np.linalg.norm(own[:, None] - centers, axis=-1), axis=1)
        score = apart[:, :nearest_words].mean(axis=1).reshape(4, 4)
        total, count = np.zeros((2, SIDE, SIDE))
        for r, row in enumerate(FIRST):
            for c, column in enumerate(FIRST):
                total[row : row + PATCH, column : column + PATCH] += score[r, c]
                count[row : row + PATCH, column : column + PATCH] += 1
        np.testing.assert_allclose(found[i], total / count, rtol=2e-3, atol=1e-5)
    alone = method.inspect(variables, images[1:]).maps["nearest_word"][0]
    np.testing.assert_allclose(alone, found[1], rtol=1e-4, atol=1e-7)


def test_conv5_is_the_maps_themselves(rng, network):
    o = Options(**SMALL, layer="conv5")
    image = rng.random((1, SIDE, SIDE, 3), "f")
    whole = feature_dictionary.of_patches(o, SIDE, CHANNELS)
    means_of = feature_dictionary.of_patches(Options(**SMALL), SIDE, CHANNELS)
    assert (whole.grid, whole.channels, means_of.channels) == ((4, 4), 4 * 4 * 5, 5)
    of_each = np.asarray(whole.of(image)).reshape(4, 4, 16, 5).mean(axis=2)
    np.testing.assert_allclose(of_each, means_of.of(image)[0], rtol=1e-5)


@pytest.mark.parametrize("shape", [(40, 7), (9, 30)])
def test_components_are_scikit_learns(rng, shape):
    """Also of fewer vectors than numbers, by their products with each other."""
    x = (rng.normal(size=shape) * 0.6 ** np.arange(shape[1])).astype("f")
    mean, basis = (np.asarray(each) for each in components(x, 0.9, False))
    pca = PCA(0.9, svd_solver="full").fit(x)
    np.testing.assert_allclose(mean, pca.mean_, atol=1e-6)
    assert basis.shape == (min(shape), shape[1])
    assert (np.linalg.norm(basis, axis=1) > 0).sum() == pca.n_components_
    kept = basis[: pca.n_components_]
    np.testing.assert_allclose(np.abs(np.sum(kept * pca.components_, axis=1)), 1, rtol=1e-4)
    scaled = (x - mean) @ components(x, 0.9, True)[1].T
    np.testing.assert_allclose(scaled[:, : pca.n_components_].std(axis=0), 1, rtol=1e-3)


def test_means_are_as_good_as_scikit_learns(rng):
    x = rng.random((40, 3), "f")
    found = np.asarray(means(jax.random.key(0), x, 4))
    squares = ((x[:, None] - found) ** 2).sum(-1).min(1).sum()
    assert squares <= 1.05 * KMeans(4, n_init=50, random_state=0).fit(x).inertia_
    alike = np.full((5, 2), 0.25, np.float32)  # a word is never in the middle of nowhere
    np.testing.assert_array_equal(means(jax.random.key(0), alike, 3), np.full((3, 2), 0.25))


def test_vectors_have_an_l1_norm_of_1_and_zeros_stay(rng):
    x = rng.normal(size=(4, 6)).astype("f")
    x[2] = 0
    np.testing.assert_allclose(np.abs(normalised(x)).sum(-1), [1, 1, 0, 1], rtol=1e-6)


def test_patches_lie_inside_and_cover_every_pixel():
    assert starts(SIDE, PATCH, STRIDE).tolist() == [*FIRST]
    assert len(starts(256, 16, 4)) == 61  # 3,721 patches of an image
    assert len(starts(512, 16, 4)) == 125
    assert starts(16, 16, 4).tolist() == [0]
    np.testing.assert_allclose(cover(13, 4, 4).sum(axis=0), 1, rtol=1e-6)


def test_the_forms_are_named_apart():
    labels = {methods.label("feature_dictionary", Options(form=f)) for f in FORMS}
    assert labels == {"feature_dictionary-convolutional", "feature_dictionary-patches"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"form": "patch"}, "unknown --form 'patch': did you mean patches?"),
        ({"kept_variance": 0.0}, "--kept_variance=0.0: must be above 0"),
        ({"nearest_words": 11}, "--nearest_words=11: there are --words=10"),
        ({"form": "patches", "stride": 17}, "--stride=17 is outside 1..16"),
        ({"form": "patches", "patch_size": 33}, "--patch_size=33 is outside 1..32"),
        ({"form": "patches", "features": "filter_bank"}, "--form=patches: needs a network"),
        ({"form": "patches", "neighborhood": 3}, "--neighborhood=3: --form=patches has no"),
        ({"form": "patches", "features": "resnet18"}, "name a file of torchvision's or timm's"),
        ({"features": "resnet18"}, "no package has the weights of resnet18"),
    ],
)
def test_options_that_cannot_work(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("feature_dictionary", Options(**flags), 32, 1)


def test_more_words_than_features():
    method = make(Options(features="filter_bank", words=17), 32, 1)
    with pytest.raises(UsageError, match="--words=17: more than the 16 features"):
        jax.eval_shape(method.learn.fit, jax.random.key(0), np.zeros((1, 32, 32, 1), np.float32))
