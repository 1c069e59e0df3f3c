"""f-AnoGAN: its losses and score by hand, and which network moves when."""

import dataclasses
import math
import re
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_nets import Linear, Scaled

from cae_jax import methods, options
from cae_jax.methods import f_anogan
from cae_jax.methods.f_anogan import METRICS, Networks, Options, gradient_penalty
from cae_jax.types import State, UsageError

KEY = jax.random.key(0)
# 3 steps an epoch: critic, critic and generator, critic; then the encoder's
SMALL = Options(
    **{"epochs": 2, "encoder_epochs": 1, "num_patches": 12, "batch_size": 4, "critic_steps": 2},
    **{"patch_size": 8, "stride": 8, "width": 4, "latent": 5, "kappa": 0.7},
    encoder_learning_rate=2e-3,
)


class Subject(NamedTuple):
    """A tiny f-AnoGAN with its compiled functions, made once for all tests of it."""

    method: object
    networks: Networks
    state: State
    step: object
    crops: np.ndarray  # five batches


@pytest.fixture(scope="module")
def subject():
    method = methods.build("f_anogan", SMALL, 16, 1)
    state = jax.jit(method.learn.init)(jax.random.key(3, impl="rbg"))
    crops = np.random.default_rng(0).random((5, 4, 8, 8, 1), np.float32)
    return Subject(method, f_anogan.networks(SMALL, 1), state, jax.jit(method.learn.step), crops)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def close(one, other):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)


def same(one, other) -> bool:
    equal = jax.tree.map(lambda a, b: bool(np.all(np.asarray(a) == np.asarray(b))), one, other)
    return all(jax.tree.leaves(equal))


def numbers(state):
    return state.step, jax.random.key_data(state.key), state.variables, state.opt_state


class Faded(nn.Module):
    """An encoder that gives the patch itself, times a number."""

    @nn.compact
    def __call__(self, x, train=False):
        return self.param("fade", nn.initializers.constant(0.8), ()) * x.reshape(len(x), -1)


@pytest.fixture(scope="module")
def linear():
    """Three networks of which every step can be done by hand: the first is of critic and
    generator, the second of the encoder."""
    nets = Networks(Scaled(), Linear(), Faded())
    o = dataclasses.replace(SMALL, latent=64, num_patches=4, critic_steps=1, gradient_penalty=3.0)
    learn = f_anogan.steps(nets, o)
    state = learn.init(jax.random.key(1))
    crops = np.random.default_rng(1).random((300, 8, 8, 1), np.float32)
    return learn, state, jax.jit(learn.step), crops


def test_what_it_says_of_images(subject, rng):
    images = rng.random((3, 16, 16, 1), np.float32)
    method, variables = subject.method, subject.state.variables
    inspect = jax.jit(method.inspect)
    found = inspect(variables, images)
    assert method.distances == ("izi_f", "l2", "l1", "ssim")
    assert set(found.maps) == set(method.distances)
    assert {each.shape for each in found.maps.values()} == {(3, 16, 16)}
    made = np.asarray(found.reconstruction)
    assert made.shape == images.shape
    assert made.min() >= 0 <= made.max() <= 1
    error = 255 * np.abs(images - made).sum(axis=-1)
    np.testing.assert_allclose(found.maps["izi_f"], error, rtol=1e-4, atol=1e-3)
    reconstruct = jax.jit(f_anogan.reconstructor(subject.networks, SMALL.kappa))
    for n, image in enumerate(images):  # its number is of its worst patch
        cut = np.stack([image[y : y + 8, x : x + 8] for y in (0, 8) for x in (0, 8)])
        one = reconstruct(variables, cut)
        np.testing.assert_allclose(found.numbers["izi_f"][n], max(one.aux["score"]), rtol=1e-5)
        np.testing.assert_allclose(made[n, 8:, :8], one.output[2], rtol=1e-4, atol=1e-6)
    others = rng.random(images.shape, np.float32)
    others[1] = images[1]
    again = inspect(variables, others)
    np.testing.assert_array_equal(again.numbers["izi_f"][1], found.numbers["izi_f"][1])
    np.testing.assert_array_equal(again.maps["izi_f"][1], found.maps["izi_f"][1])


@pytest.mark.parametrize("kappa", [0.0, 1.0, 2.5])
def test_the_score_by_its_networks(subject, rng, kappa):
    """Means over pixels and over features: sums would be 64 and 128 times as large."""
    patches, variables = rng.random((3, 8, 8, 1), np.float32), subject.state.variables
    nets = subject.networks

    def apply(name, x):
        own = {part: tree[name] for part, tree in variables.items() if name in tree}
        return jax.jit(getattr(nets, name).apply)(own, x)

    x = 2 * patches - 1  # the networks see [-1, 1]
    made = np.asarray(apply("generator", apply("encoder", x)))
    features = [np.asarray(apply("critic", each)[1], float) for each in (x, made)]
    assert features[0].shape == (3, 128)
    expected = []
    for n in range(3):
        of_pixels = [(a - b) ** 2 for a, b in zip(x[n].flat, made[n].flat, strict=True)]
        of_features = [(a - b) ** 2 for a, b in zip(*(f[n] for f in features), strict=True)]
        expected.append(sum(of_pixels) / 64 + kappa * sum(of_features) / 128)
    found = jax.jit(f_anogan.reconstructor(nets, kappa))(variables, patches)
    np.testing.assert_allclose(found.aux["score"], expected, rtol=1e-4)
    np.testing.assert_allclose(found.output, (made + 1) / 2, rtol=1e-5)
    if kappa == 0:
        return
    loss = jax.jit(f_anogan.steps(nets, dataclasses.replace(SMALL, kappa=kappa)).validate)
    np.testing.assert_allclose(loss(variables, patches)["loss"], np.mean(expected), rtol=1e-4)


def test_gradient_penalty_of_a_linear_critic(rng):
    """Its gradient is w, whatever the patches: (|w| - 1)^2, the norm over pixels and channels."""
    w, (x, made) = rng.standard_normal((4, 5, 3)), rng.random((2, 6, 4, 5, 3), np.float32)
    found = gradient_penalty(lambda y: jnp.sum(w * y, axis=(1, 2, 3)), x, made, KEY)
    np.testing.assert_allclose(found, (math.sqrt((w**2).sum()) - 1) ** 2, rtol=1e-5)


def test_gradient_penalty_is_each_patches_own(rng):
    """Of |y|^2 / 2 the gradient is y: with both ends alike, the mean of (|x| - 1)^2."""

    def critic(y):
        return jnp.sum(y**2, axis=(1, 2, 3)) / 2

    x = rng.standard_normal((7, 2, 3, 1)).astype("f")
    norms = np.sqrt((x.astype(float) ** 2).sum(axis=(1, 2, 3)))
    found = gradient_penalty(critic, x, x, KEY)
    np.testing.assert_allclose(found, np.mean((norms - 1) ** 2), rtol=1e-5)
    # between 0 and a patch of norm 1, on the straight line: the mean of (u - 1)^2 is 1 / 3
    ends = np.zeros((20_000, 2, 2, 1), "f"), np.full((20_000, 2, 2, 1), 0.5, "f")
    np.testing.assert_allclose(gradient_penalty(critic, *ends, KEY), 1 / 3, rtol=0.03)
    flat = jax.grad(lambda a: gradient_penalty(lambda y: a * critic(y), *ends, KEY))(0.0)
    assert np.isfinite(flat)


def test_a_step_of_the_gan_by_hand(linear):
    _, state, step, crops = linear
    after, metrics = step(state, crops)
    w = np.asarray(state.variables["params"]["critic"]["w"], float)
    x, norm = (2 * crops.astype(float) - 1).reshape(300, 64), math.sqrt((w**2).sum())
    np.testing.assert_allclose(metrics["gradient_penalty"], (norm - 1) ** 2, rtol=1e-4)
    of_made = -float(metrics["generator_loss"])
    distance = (x @ w).mean() - of_made
    np.testing.assert_allclose(metrics["critic_distance"], distance, rtol=1e-3)
    np.testing.assert_allclose(metrics["critic_loss"], 3 * (norm - 1) ** 2 - distance, rtol=1e-4)
    np.testing.assert_allclose(metrics["crop_variance"], x.var(axis=0).mean(), rtol=1e-4)
    # Adam's first moment, of beta 0, is the gradient: 6 (|w| - 1) w / |w| + mean z / 2 - mean x
    moments = after.opt_state["critic"][0]
    gradient = np.asarray(moments.mu["w"], float)
    of_z = gradient - 6 * (norm - 1) * w / norm + x.mean(axis=0)
    assert np.abs(of_z).max() < 4.5 * 0.5 / math.sqrt(300)
    np.testing.assert_allclose(of_z @ w, of_made, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(moments.nu["w"], 0.1 * gradient**2, rtol=1e-4)
    moved = np.asarray(after.variables["params"]["critic"]["w"], float) - w
    np.testing.assert_allclose(moved, -1e-4 * np.sign(gradient), rtol=1e-2)
    # the generator then moves by the new critic, on z of its own: minus the mean of w z
    slope = float(after.opt_state["generator"][0].mu["scale"])
    assert abs(slope) < 4.5 * norm / math.sqrt(300)
    assert abs(slope + of_made / 0.5) > 1e-3
    scale = float(after.variables["params"]["generator"]["scale"])
    np.testing.assert_allclose(scale, 0.5 - 1e-4 * np.sign(slope), rtol=1e-5)


def test_latent_vectors_are_normal(linear):
    """0.5 z has variance 1/4; were z uniform in -1..1, 1/12; cut off at 2, 0.19."""
    _, state, step, crops = linear
    spread = [
        float(step(state._replace(key=jax.random.key(seed)), crops)[1]["sample_variance"])
        for seed in range(3)
    ]
    np.testing.assert_allclose(spread, 0.25 * 299 / 300, rtol=0.05)
    assert len(set(spread)) == 3


def test_a_step_of_the_encoder_by_hand(linear):
    """x - G(E(x)) is 0.6 x, features are half of it: the loss is 0.36 (1 + 0.7 / 4) mean x^2."""
    learn, state, step, crops = linear
    after, metrics = step(state._replace(step=jnp.int32(1)), crops)
    square = np.mean((2 * crops.astype(float) - 1) ** 2)
    share = 1 + 0.7 / 4
    np.testing.assert_allclose(metrics["encoder_loss"], 0.36 * share * square, rtol=1e-4)
    loss = learn.validate(state.variables, crops)["loss"]
    np.testing.assert_allclose(loss, 0.36 * share * square, rtol=1e-4)
    slope = -2 * 0.6 * 0.5 * share * square
    mean_square = 0.9 + 0.1 * slope**2  # RMSProp's, from 1
    fade = 0.8 - 2e-3 * slope / math.sqrt(mean_square)
    found = after.variables["params"]["encoder"]["fade"]
    np.testing.assert_allclose(found - 0.8, fade - 0.8, rtol=1e-3)
    assert same(after.variables["params"]["generator"], state.variables["params"]["generator"])


def test_which_network_moves_when(subject):
    state, method = subject.state, subject.method
    assert (method.learn.best_by, method.learn.patch_size) == ("", 8)
    expected = [{"critic"}, {"critic", "generator"}, {"critic"}, {"encoder"}, {"encoder"}]
    for i, (moves, crops) in enumerate(zip(expected, subject.crops, strict=True)):
        after, metrics = subject.step(state, crops)
        for tree, networks in (
            (lambda s: s.variables["params"], ("critic", "generator", "encoder")),
            (lambda s: s.opt_state, ("critic", "generator", "encoder")),
            (lambda s: s.variables["batch_stats"], ("generator", "encoder")),
        ):
            moved = {n for n in networks if not same(tree(state)[n], tree(after)[n])}
            assert moved == moves & set(networks), i
        assert set(metrics) == set(METRICS)
        assert all(np.isfinite(value) for value in metrics.values())
        assert (float(metrics["encoder_loss"]) == 0) == (i < 3)
        assert (float(metrics["critic_loss"]) != 0) == (i < 3)
        if i < 3:
            variance = np.var(2 * crops - 1, axis=0).mean()
            np.testing.assert_allclose(metrics["crop_variance"], variance, rtol=1e-5)
        state = after
    assert state.step == 5


@pytest.mark.parametrize("done", [1, 2, 4])
def test_training_goes_on_where_it_stopped(subject, done):
    """In either phase, through host memory as a checkpoint takes it, to the last bit."""
    state = subject.state
    for i, crops in enumerate(subject.crops):
        if i == done:
            kept = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
            key = jax.random.wrap_key_data(jnp.asarray(kept.key), impl="rbg")
            state = jax.tree.map(jnp.asarray, kept)._replace(key=key)
        state, metrics = subject.step(state, crops)
    whole = subject.state
    for crops in subject.crops:
        whole, expected = subject.step(whole, crops)
    equal(numbers(state), numbers(whole))
    equal(metrics, expected)


def test_random_numbers_are_of_the_step_and_of_the_key(subject):
    state, crops = subject.state, subject.crops[0]
    other = state._replace(key=jax.random.key(4, impl="rbg"))
    later = state._replace(step=jnp.int32(2))
    found = [subject.step(s, crops)[1]["sample_variance"] for s in (state, state, later, other)]
    assert found[0] == found[1]
    assert len({float(each) for each in found}) == 3


@pytest.mark.parametrize("at", [0, 1])
def test_jit_equals_eager(linear, at):
    learn, state, step, crops = linear
    state = state._replace(step=jnp.int32(at))
    (one, metrics), (two, expected) = learn.step(state, crops), step(state, crops)
    close((one.variables, one.opt_state, metrics), (two.variables, two.opt_state, expected))


def test_members_under_vmap_are_members_alone(subject, linear):
    """One in each phase, so that each takes the other branch; keys of rbg, which under vmap draw
    other numbers."""
    learn, state, step, crops = linear
    states = [
        state._replace(step=jnp.int32(i), key=jax.random.key(7 + i, impl="rbg")) for i in (0, 1, 0)
    ]
    crops = np.stack([crops, crops[::-1], crops**2])
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    found, metrics = jax.jit(jax.vmap(learn.step))(together, crops)
    for i, state in enumerate(states):
        alone, expected = step(state, crops[i])
        one, given = jax.tree.map(lambda leaf, i=i: leaf[i], (found, metrics))
        close((one.variables, one.opt_state, given), (alone.variables, alone.opt_state, expected))
        assert one.step == alone.step
    # the networks themselves can be mapped, too
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *[subject.state] * 2)
    after, _ = jax.eval_shape(jax.vmap(subject.method.learn.step), together, subject.crops[:2])
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, together)


def test_the_encoder_learns(subject):
    state = subject.state._replace(step=jnp.int32(3))
    frozen = {n: state.variables["params"][n] for n in ("generator", "critic")}
    before = subject.method.learn.validate(state.variables, subject.crops[0])["loss"]
    losses = []
    for _ in range(80):
        state, metrics = subject.step(state, subject.crops[0])
        losses.append(float(metrics["encoder_loss"]))
    assert np.mean(losses[-5:]) < 0.85 * losses[0]
    assert np.isfinite(before)
    assert same(frozen, {n: state.variables["params"][n] for n in frozen})


def test_the_defaults_are_the_papers():
    o = Options()
    assert o.gan_steps == 100 * (10_000 // 64)
    assert o.steps - o.gan_steps == 49_920  # of the paper's 50,000
    assert dataclasses.replace(o, encoder_epochs=320).gan_steps == o.gan_steps
    assert (o.patch_size, o.batch_size, o.width, o.latent) == (64, 64, 64, 128)
    assert (o.critic_steps, o.gradient_penalty, o.kappa, o.z_activation) == (5, 10, 1, "tanh")
    assert (o.learning_rate, o.encoder_learning_rate) == (1e-4, 5e-5)
    assert dataclasses.replace(o, epochs=1, num_patches=64).gan_steps == 1
    known = options.fields(Options)
    assert known["image_score"].metadata["part"] == options.SCORING
    assert known["kappa"].metadata["part"] == options.IDENTITY
    nets = f_anogan.networks(dataclasses.replace(o, z_activation="linear"), 3)
    assert (nets.generator.channels, nets.encoder.activation) == (3, "linear")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"patch_size": 48, "stride": 48}, "--patch_size=48: residual GANs take a power of two"),
        ({"patch_size": 128}, "--patch_size=128 is outside 1..64"),
        ({"patch_size": 32}, "--stride=64 is outside 1..32"),
        ({"epochs": 5, "encoder_epochs": 5}, "--encoder_epochs=5: must be less than --epochs=5"),
        ({"num_patches": 10}, "--batch_size=64 is larger than --num_patches=10"),
        ({"z_activation": "tahn"}, "unknown --z_activation 'tahn': did you mean tanh?"),
        ({"critic_steps": 0}, "--critic_steps=0: must be at least 1"),
        ({"latent": 0}, "--latent=0: must be at least 1"),
        ({"kappa": -1.0}, "--kappa=-1.0: must be at least 0"),
        ({"precision": "float16"}, "unknown --precision 'float16'"),
    ],
)
def test_options_that_cannot_work(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("f_anogan", Options(**flags), 64, 1)
