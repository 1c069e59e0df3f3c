"""f-AnoGAN's networks: their sizes, and a block by SciPy."""

import math
import re

import jax
import numpy as np
import pytest
from scipy import signal

from cae_jax import models
from cae_jax.models import wgan
from cae_jax.models.wgan import Block, Critic, Encoder, Generator
from cae_jax.types import UsageError


def abstract(network, shape):
    x = jax.ShapeDtypeStruct(shape, np.float32)
    return jax.eval_shape(lambda x: network.init_with_output(jax.random.key(0), x), x)


def size(tree):
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def widths(params):
    """The channels after each block."""
    names = sorted(name for name in params if name.startswith("block"))
    return [params[name]["shortcut"]["kernel"].shape[-1] for name in names]


def drawn(rng, network, shape):
    """Variables by NumPy: norms do not scale by 1, nor do they add 0."""
    return jax.tree.map(
        lambda leaf: rng.uniform(0.2, 1, leaf.shape).astype("f"), abstract(network, shape)[1]
    )


def test_the_sizes_of_the_paper():
    """IJCV 2021 counts 24.57 million parameters, the batch statistics with them."""
    image, z = (2, 64, 64, 1), (2, 128)
    made, generator = abstract(Generator(), z)
    (score, features), critic = abstract(Critic(), image)
    code, encoder = abstract(Encoder(), image)
    assert made.shape == image
    assert (score.shape, features.shape, code.shape) == ((2,), (2, 4 * 4 * 512), z)
    assert widths(generator["params"]) == [512, 256, 128, 64]
    down = [128, 256, 512, 512]
    assert widths(critic["params"]["body"]) == widths(encoder["params"]["body"]) == down
    assert round(size([generator, critic, encoder]) / 1e6, 2) == 24.57
    assert set(critic) == {"params"}


@pytest.mark.parametrize(
    ("patch_size", "up", "down"),
    [(8, [4], [8]), (16, [8, 4], [8, 16]), (128, [32, 32, 16, 8, 4], [8, 16, 32, 32, 32])],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_other_sizes(patch_size, up, down, channels):
    image = (3, patch_size, patch_size, channels)
    made, generator = abstract(Generator(channels, patch_size, 4, 5), (3, 5))
    (score, features), critic = abstract(Critic(patch_size, 4), image)
    code, _ = abstract(Encoder(patch_size, 4, 5), image)
    assert (made.shape, score.shape, code.shape) == (image, (3,), (3, 5))
    assert features.shape == (3, 16 * down[-1])
    assert widths(generator["params"]) == up
    assert widths(critic["params"]["body"]) == down


@pytest.mark.parametrize("patch_size", [4, 48, 63, 0])
@pytest.mark.parametrize("network", [Generator, Critic, Encoder])
def test_other_patch_sizes_are_refused(network, patch_size):
    shape = (1, 5) if network is Generator else (1, 64, 64, 1)
    message = re.escape(f"--patch_size={patch_size}: residual GANs take a power of two")
    with pytest.raises(UsageError, match=message):
        abstract(network(patch_size=patch_size), shape)


def test_double_and_halve(rng):
    x = rng.random((2, 4, 6, 3), np.float32)
    np.testing.assert_array_equal(wgan.double(x), x.repeat(2, axis=1).repeat(2, axis=2))
    fours = (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4
    np.testing.assert_allclose(wgan.halve(x), fours, rtol=1e-5)
    np.testing.assert_allclose(wgan.halve(wgan.double(x)), x, rtol=1e-6)


def convolved(x, layer):
    """3x3 or 1x1 with zeros around, one map [H, W, C]."""
    kernel, bias = layer["kernel"], layer.get("bias", 0.0)
    maps = [
        sum(
            signal.correlate2d(x[..., i], kernel[..., i, o], "same") for i in range(kernel.shape[2])
        )
        for o in range(kernel.shape[3])
    ]
    return np.stack(maps, axis=-1) + bias


def normalized(x, layer, stats):
    """Batch norm by its statistics; layer norm, where there are none, by the map's own."""
    mean, var, epsilon = x.mean(), x.var(), 1e-5
    if stats:
        mean, var, epsilon = stats["of"]["mean"], stats["of"]["var"], 1e-3
    return (x - mean) / np.sqrt(var + epsilon) * layer["of"]["scale"] + layer["of"]["bias"]


@pytest.mark.parametrize(("resample", "norm"), [("up", "batch"), ("down", "layer")])
def test_a_block_by_scipy(rng, resample, norm):
    block, x = Block(3, resample, norm), rng.standard_normal((2, 4, 6, 2)).astype("f")
    variables = jax.tree.map(
        lambda leaf: rng.uniform(0.2, 1, leaf.shape).astype("f"),
        jax.eval_shape(lambda: block.init(jax.random.key(0), x, False)),
    )
    found = jax.jit(lambda v, x: block.apply(v, x, False))(variables, x)
    p, stats = variables["params"], variables.get("batch_stats", {})
    up = (lambda m: m.repeat(2, axis=0).repeat(2, axis=1)) if resample == "up" else lambda m: m
    down = (lambda m: m) if resample == "up" else lambda m: np.asarray(wgan.halve(m[None])[0])
    for one, made in zip(x.astype(float), found, strict=True):
        y = up(np.maximum(normalized(one, p["norm1"], stats.get("norm1")), 0))
        y = np.maximum(normalized(convolved(y, p["conv1"]), p["norm2"], stats.get("norm2")), 0)
        expected = down(convolved(y, p["conv2"])) + convolved(down(up(one)), p["shortcut"])
        np.testing.assert_allclose(made, expected, rtol=1e-4, atol=1e-4)
    assert "bias" not in p["conv1"]  # the norm after it has one


def test_initial_weights_keep_the_scale_of_the_code():
    """Uniform with variance 4 / (in + out) before a ReLU, 2 / (in + out) elsewhere."""
    params = Encoder(8, 16, 40).init(jax.random.key(0), np.ones((1, 8, 8, 1), "f"))["params"]
    block = params["body"]["block1"]
    for layer, taps, scale in [
        (block["conv1"], 9, 4),
        (block["conv2"], 9, 4),
        (block["shortcut"], 1, 2),
        (params["output"], 1, 2),
    ]:
        kernel = np.asarray(layer["kernel"])
        variance = scale / (taps * sum(kernel.shape[-2:]))
        np.testing.assert_allclose(kernel.var(), variance, rtol=0.15)
        assert np.abs(kernel).max() <= math.sqrt(3 * variance) * 1.0001


def test_a_critic_knows_no_batch(rng):
    critic = Critic(8, 4)
    x = rng.standard_normal((4, 8, 8, 1)).astype("f")
    variables = drawn(rng, critic, x.shape)
    for train in (False, True):
        apply = jax.jit(lambda v, x, train=train: critic.apply(v, x, train))
        whole, alone = apply(variables, x), apply(variables, x[2:3])
        np.testing.assert_allclose(alone[0], whole[0][2:3], rtol=1e-4)
        np.testing.assert_allclose(alone[1], whole[1][2:3], rtol=1e-4, atol=1e-5)
    weights = variables["params"]["output"]  # the critic is linear in the features it gives
    np.testing.assert_allclose(
        whole[0], whole[1] @ weights["kernel"][:, 0] + weights["bias"], rtol=1e-4
    )


def test_ranges(rng):
    z, x = 30 * rng.standard_normal((3, 5)).astype("f"), np.ones((2, 8, 8, 1), "f")
    generator = Generator(1, 8, 4, 5)
    made = generator.apply(drawn(rng, generator, z.shape), z)
    assert np.abs(made).max() <= 1
    tanh, linear = Encoder(8, 4, 5), Encoder(8, 4, 5, "linear")
    variables = drawn(rng, tanh, x.shape)
    far = linear.apply(variables, x)
    assert np.abs(far).max() > 1
    np.testing.assert_allclose(tanh.apply(variables, x), np.tanh(far), rtol=1e-5)


def test_these_are_networks_of_a_method_and_no_autoencoder():
    assert "wgan" not in models.names()
