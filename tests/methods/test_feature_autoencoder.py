"""The autoencoder of features against loops in float64."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax import methods
from cae_jax.methods import feature_autoencoder
from cae_jax.methods.feature_autoencoder import Head, Options, learned
from cae_jax.methods.features import aligned
from cae_jax.models.dfr import FeatureAutoencoder, widths
from cae_jax.types import UsageError

KEY = jax.random.key(0)
KERNEL = np.random.default_rng(1).normal(size=(3, 6)).astype("f")


def extract(variables, images):
    return {"fine": jnp.abs(images @ KERNEL), "deep": images[:, ::2, ::2] @ KERNEL[:, :2]}


def tiny(uneven=False):
    return aligned(extract, {}, 4, 3)._replace(uneven=uneven)


def by_hand(x, params, statistics):
    """One vector [c] through all layers."""
    for i in (1, 2, 3, 4, 5):
        layer = params[f"layer{i}"]
        x = x @ layer["kernel"] + layer["bias"]
        if i != 3:
            norm, seen = params[f"norm{i}"], statistics[f"norm{i}"]
            x = (x - seen["mean"]) / np.sqrt(seen["var"] + 1e-5) * norm["scale"] + norm["bias"]
            x = np.maximum(x, 0)
    return x @ params["output"]["kernel"] + params["output"]["bias"]


def drawn(rng, tree):
    """Variables by NumPy: norms do not scale by 1, nor do they add 0."""
    return jax.tree.map(lambda leaf: rng.uniform(0.2, 1, leaf.shape).astype("f"), tree)


def test_the_layers_are_the_papers():
    """Its code builds 3000 -> 1700 -> 400 -> 200 -> 400 -> 1700 -> 3000 of a code of 200."""
    assert widths(3000, 200) == (1700, 400, 200, 400, 1700)
    shapes = jax.eval_shape(FeatureAutoencoder(9, 2).init, KEY, jnp.zeros((1, 9)))["params"]
    kernels = [shapes[f"layer{i}"]["kernel"].shape for i in (1, 2, 3, 4, 5)]
    assert kernels == [(9, 6), (6, 4), (4, 2), (2, 4), (4, 6)]
    assert shapes["output"]["kernel"].shape == (6, 9)


@pytest.mark.parametrize("uneven", [False, True])
def test_the_map_of_given_weights(rng, uneven):
    method = feature_autoencoder.of_features(
        Head(latent=3, train_steps=2, batch_size=4), tiny(uneven)
    )
    images = rng.random((3, 4, 4, 3), np.float32)
    shapes = jax.eval_shape(method.learn.fit, KEY, images)
    variables = drawn(rng, shapes)
    found = jax.jit(method.inspect)(variables, images).maps["reconstruction"]
    wide = jax.tree.map(lambda leaf: leaf.astype(float), variables)
    divide = wide["params"]["divide"]
    expected = np.zeros((3, 4, 4))
    for at in np.ndindex(3, 4, 4):
        x = np.asarray(tiny().of(images), float)[at] / divide
        made = by_hand(x, wide["params"]["network"], wide["batch_stats"])
        expected[at] = np.mean((x - made) ** 2)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_steps_against_a_loop(rng):
    """Of a set of one vector, twice in every batch, all that is learned can be followed by hand:
    its batch norms give their bias, so the loss is that of the last layers."""
    x = rng.normal(size=5).astype("f")
    o = Head(latent=2, train_steps=3, batch_size=2, learning_rate=0.0)
    variables, losses = learned(FeatureAutoencoder(5, 2), o, jnp.asarray(x[None]), KEY)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, float), variables["params"])
    first = x @ params["layer1"]["kernel"] + params["layer1"]["bias"]
    seen = variables["batch_stats"]["norm1"]
    np.testing.assert_allclose(seen["mean"], first * (1 - 0.9**3), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(seen["var"], 0.9**3, rtol=1e-5)
    # what a batch norm makes of equal rows is its bias, 0, and so the last layer's bias is left
    np.testing.assert_allclose(losses, np.mean(x.astype(float) ** 2), rtol=1e-5)


def test_adam_moves_against_the_gradient(rng):
    """Every number's first step is as long as the learning rate, whatever its gradient."""
    x = rng.normal(size=5).astype("f")
    o = Head(latent=2, train_steps=1, batch_size=2, learning_rate=0.01)
    variables, _ = learned(FeatureAutoencoder(5, 2), o, jnp.asarray(x[None]), KEY)
    np.testing.assert_allclose(variables["params"]["output"]["bias"], 0.01 * np.sign(x), rtol=1e-4)


def test_it_learns_what_good_features_have_in_common(rng):
    """Vectors on a curved surface of two dimensions are made again, others are not."""
    a, b = rng.uniform(-1, 1, (2, 2000))
    flat = np.stack([a, b, a * b, np.abs(a), np.abs(b), a + b, a - b, b * b], axis=-1).astype("f")
    o = Head(latent=2, train_steps=400, batch_size=64, learning_rate=3e-3)
    network = FeatureAutoencoder(8, 2)
    variables, losses = jax.jit(lambda x: learned(network, o, x, KEY))(flat[:1500])
    assert losses.shape == (400,)
    error = np.mean((network.apply(variables, flat[1500:]) - flat[1500:]) ** 2)
    assert error < 0.1 * flat.var(axis=0).mean()
    off = rng.permuted(flat[1500:], axis=0)  # each number as before, but none with its fellows
    assert np.mean((network.apply(variables, off) - off) ** 2) > 3 * error


def test_the_code_is_a_share_of_the_channels(rng):
    images = rng.random((2, 4, 4, 3), np.float32)
    for uneven, size in ((False, 3), (True, 1)):  # 2/5 and 1/7 of 8
        learn = feature_autoencoder.of_features(Head(), tiny(uneven)).learn
        network = jax.eval_shape(learn.fit, KEY, images)["params"]["network"]
        assert network["layer3"]["bias"].shape == (size,)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"latent": 56}, "--latent=56: must be less than the 56 channels"),
        ({"train_steps": 0}, "--train_steps=0: must be at least 1"),
        ({"batch_size": 1}, "--batch_size=1: must be at least 2"),
    ],
)
def test_bad_options(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("feature_autoencoder", Options(features="filter_bank", **flags), 16, 1)


def test_no_image():
    learn = feature_autoencoder.of_features(Head(), tiny()).learn
    with pytest.raises(ValueError, match="no good image"):
        learn.fit(KEY, np.ones((0, 4, 4, 3), np.float32))
