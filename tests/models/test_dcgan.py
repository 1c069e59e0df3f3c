"""AnoGAN's networks: the code's sizes, and their layers by plain convolutions."""

import itertools
import re

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax import lax

from cae_jax import models
from cae_jax.models.dcgan import Discriminator, Generator
from cae_jax.types import UsageError

NHWC = ("NHWC", "HWIO", "NHWC")


def abstract(network, shape):
    """What a network gives and its variables, as shapes."""

    def both(x):
        variables = network.init(jax.random.key(0), x)
        return network.apply(variables, x), variables

    return jax.eval_shape(both, np.zeros(shape, "f"))


def kernels(params):
    return {name: each["kernel"].shape for name, each in params.items() if "kernel" in each}


@pytest.mark.parametrize(
    ("side", "width", "start", "features"),
    [
        (64, 64, 4, [512, 256, 128, 64]),
        (128, 64, 8, [512, 256, 128, 64]),
        (32, 8, 4, [32, 16, 8]),
        (8, 4, 4, [4]),
    ],
)
def test_sizes(side, width, start, features):
    made, generator = abstract(Generator(3, side, width, 7), (2, 7))
    (logits, code), discriminator = abstract(Discriminator(side, width), (2, side, side, 3))
    flat = start**2 * features[0]
    assert (made.shape, logits.shape, code.shape) == ((2, side, side, 3), (2,), (2, flat))
    up = [*features, 3]
    names = [f"deconv{i + 1}" for i in range(len(features) - 1)] + ["output"]
    expected = {n: (5, 5, *pair) for n, pair in zip(names, itertools.pairwise(up), strict=True)}
    assert kernels(generator["params"]) == {"input": (7, flat), **expected}
    down = [3, *features[::-1]]
    convs = {f"conv{i + 1}": (5, 5, *p) for i, p in enumerate(itertools.pairwise(down))}
    assert kernels(discriminator["params"]) == {**convs, "output": (flat, 1)}
    # batch norm everywhere but next to the images and on the logit; no bias before it
    assert "bias" not in discriminator["params"].get("conv2", {})
    assert ["bias" in discriminator["params"][name] for name in ("conv1", "output")] == [True] * 2
    assert set(generator["batch_stats"]) == {f"norm{i + 1}" for i in range(len(features))}
    assert len(discriminator.get("batch_stats", {})) == len(features) - 1


@pytest.mark.parametrize("side", [4, 24, 100])
def test_other_sizes_are_refused(side):
    message = re.escape(f"--patch_size={side}: a DCGAN takes a power of two, 8 or more")
    for network, shape in (
        (Generator(1, side), (1, 100)),
        (Discriminator(side), (1, side, side, 1)),
    ):
        with pytest.raises(UsageError, match=message):
            abstract(network, shape)


def test_they_are_of_a_method_and_no_autoencoder():
    assert "dcgan" not in models.names()


def drawn(rng, network, shape):
    """Variables of a network, no two alike; variances above 0."""
    return jax.tree.map(
        lambda leaf: rng.uniform(0.2, 1, leaf.shape).astype("f") / max(1, leaf.shape[0] / 4),
        abstract(network, shape)[1],
    )


def normed(x, p, stats):
    """By running statistics."""
    scaled = (x - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    return np.maximum(scaled * p["scale"] + p["bias"], 0)


def test_a_generator_by_plain_convolutions(rng):
    network, z = Generator(2, 16, 2, 3), rng.standard_normal((2, 3)).astype("f")
    v = drawn(rng, network, z.shape)
    p, stats = v["params"], v["batch_stats"]
    x = (z @ p["input"]["kernel"] + p["input"]["bias"]).reshape(2, 4, 4, 4)
    x = normed(x, p["norm1"], stats["norm1"])
    x = lax.conv_transpose(x, p["deconv1"]["kernel"], (2, 2), "SAME", dimension_numbers=NHWC)
    x = normed(np.asarray(x), p["norm2"], stats["norm2"])
    x = lax.conv_transpose(x, p["output"]["kernel"], (2, 2), "SAME", dimension_numbers=NHWC)
    expected = np.tanh(x + p["output"]["bias"])
    assert np.abs(expected).min() < 0.99  # not all of it at tanh's ends
    np.testing.assert_allclose(network.apply(v, z), expected, rtol=1e-3, atol=1e-5)


def test_a_discriminator_by_plain_convolutions(rng):
    network, x = Discriminator(16, 2), rng.standard_normal((2, 16, 16, 1)).astype("f")
    v = drawn(rng, network, x.shape)
    v["params"]["conv1"]["kernel"] -= 0.1  # activations of either sign
    p, stats = v["params"], v["batch_stats"]["norm2"]
    y = lax.conv_general_dilated(x, p["conv1"]["kernel"], (2, 2), "SAME", dimension_numbers=NHWC)
    y = nn.leaky_relu(y + p["conv1"]["bias"], 0.2)
    y = lax.conv_general_dilated(y, p["conv2"]["kernel"], (2, 2), "SAME", dimension_numbers=NHWC)
    y = (np.asarray(y) - stats["mean"]) / np.sqrt(stats["var"] + 1e-5)
    y = np.asarray(nn.leaky_relu(y * p["norm2"]["scale"] + p["norm2"]["bias"], 0.2)).reshape(2, -1)
    logits, features = network.apply(v, x)
    np.testing.assert_allclose(features, y, rtol=1e-3, atol=1e-5)
    expected = y @ p["output"]["kernel"][:, 0] + p["output"]["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-4)
