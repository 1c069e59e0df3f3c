"""AnoGAN: its score, its search and its step by hand; what an image is told does not move."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_nets import Linear, Scaled
from scipy import stats

from cae_jax import methods, options
from cae_jax.methods import anogan
from cae_jax.methods.anogan import Networks, Options
from cae_jax.methods.options.anogan import PRIORS
from cae_jax.training import loop
from cae_jax.types import UsageError

SMALL = Options(
    **{"epochs": 2, "num_patches": 8, "batch_size": 4, "patch_size": 8, "stride": 8},
    **{"width": 2, "latent": 3, "search_steps": 5, "restarts": 2},
)


def linear(**changes):
    o = dataclasses.replace(SMALL, latent=64, **changes)
    nets = Networks(Scaled(), Linear())
    return anogan.steps(nets, o), nets, o


@pytest.fixture(scope="module")
def subject():
    """The method itself, tiny, with what an untrained one says of three images."""
    method = methods.build("anogan", SMALL, 16, 1)
    variables = loop.fresh_state(method.learn, 3).variables
    rng = np.random.default_rng(5)
    # running statistics that are not those of any batch
    variables["batch_stats"] = jax.tree.map(
        lambda leaf: rng.uniform(0.01, 0.1, leaf.shape).astype("f"), variables["batch_stats"]
    )
    inspect, images = jax.jit(method.inspect), rng.random((3, 16, 16, 1), np.float32)
    images[2, :, 8:] = images[2, :, :8] = np.tile(images[2, :8, :8], (2, 1, 1))
    return method, variables, inspect, images, jax.device_get(inspect(variables, images))


def test_priors():
    drawn = {
        name: np.asarray(anogan.draw(name, jax.random.key(1), (400, 50)), float) for name in PRIORS
    }
    for name, spread in {
        "uniform": 1 / 3,
        "normal": 1.0,
        "truncated_normal": stats.truncnorm.var(-2, 2),  # 0.774
    }.items():
        assert abs(drawn[name].mean()) < 0.03, name
        np.testing.assert_allclose(drawn[name].var(), spread, rtol=0.03, err_msg=name)
    assert 0.99 < np.abs(drawn["uniform"]).max() <= 1
    assert 1.9 < np.abs(drawn["truncated_normal"]).max() <= 2
    assert np.abs(drawn["normal"]).max() > 3


@pytest.mark.parametrize("weight", [0.0, 0.1, 1.0])
def test_the_score_is_of_sums(rng, weight):
    """Over 30 pixels' values and 4 features; means would weigh them 7.5 times otherwise."""
    x, made = rng.uniform(-1, 1, (2, 3, 5, 3, 2)).astype("f")
    of_x, of_made = rng.standard_normal((2, 3, 4)).astype("f")
    found = anogan.score(x, made, of_x, of_made, weight)
    for n in range(3):
        pixels = sum(abs(float(a) - float(b)) for a, b in zip(x[n].flat, made[n].flat, strict=True))
        features = sum(abs(float(a) - float(b)) for a, b in zip(of_x[n], of_made[n], strict=True))
        expected = (1 - weight) * pixels + weight * features
        np.testing.assert_allclose(found[n], expected, rtol=1e-5)


def test_rates_are_those_of_the_code():
    o = Options()
    found = anogan.rates(o)
    assert (o.search_steps, o.search_rate, o.feature_weight) == (500, 0.01, 0.1)
    for step, rate in {0: 0.01, 199: 0.01, 200: 0.001, 299: 0.001, 300: 0.0005, 499: 5e-4}.items():
        np.testing.assert_allclose(found(step), rate, rtol=1e-6, err_msg=str(step))
    constant = anogan.rates(dataclasses.replace(o, search_schedule="constant", search_rate=0.02))
    np.testing.assert_allclose([constant(0), constant(499)], 0.02, rtol=1e-6)


def test_the_search_is_adam_written_out(rng):
    """On G(z) = tanh(W z) and squares, whose gradient is smooth: NumPy's loop in float64."""
    w, x = rng.standard_normal((3, 10)), rng.uniform(-0.9, 0.9, (4, 10))
    start = rng.uniform(-1, 1, (4, 3))
    o = dataclasses.replace(SMALL, search_steps=30, search_rate=0.1)

    def loss(z):
        return jnp.sum(jnp.square(x.astype("f") - jnp.tanh(z @ w.astype("f"))), axis=1)

    found = jax.jit(lambda z: anogan.search(loss, z, o))(start.astype("f"))
    z, first, second = start.copy(), np.zeros((4, 3)), np.zeros((4, 3))
    for i in range(30):
        made = np.tanh(z @ w)
        slope = (2 * (made - x) * (1 - made**2)) @ w.T
        first, second = 0.9 * first + 0.1 * slope, 0.999 * second + 0.001 * slope**2
        rate = 0.1 * (1 if i < 12 else 0.1 if i < 18 else 0.05)
        root = np.sqrt(second / (1 - 0.999 ** (i + 1))) + 1e-8
        z = z - rate * first / (1 - 0.9 ** (i + 1)) / root
    np.testing.assert_allclose(found, z, atol=1e-4)
    assert np.abs(z - start).min() > 1e-3
    assert (np.asarray(loss(found)) < np.asarray(loss(start.astype("f")))).all()


def test_of_restarts_the_best_one_counts(rng):
    """Without steps: G of whichever start is nearest, by scores on the scale of -1..1."""
    _, nets, o = linear(search_steps=0, restarts=5, feature_weight=0.3, z_prior="normal")
    variables = {"params": {"generator": {"scale": 0.5}, "discriminator": {"w": np.ones(64)}}}
    variables["batch_stats"] = {}
    starts = np.asarray(anogan.draw("normal", jax.random.key(0), (5, 64)))
    patches = rng.random((6, 8, 8, 1), np.float32)
    patches[1] = (0.5 * starts[3].reshape(8, 8, 1) + 1) / 2
    found = anogan.reconstructor(nets, o)(variables, patches)
    x, made = (2 * patches - 1).reshape(6, 1, 64), 0.5 * starts
    scores = (0.7 + 0.3 / 2) * np.abs(x - made).sum(axis=2)
    best = scores.argmin(axis=1)
    assert best[1] == 3
    assert len(set(best)) > 1
    np.testing.assert_allclose(found.aux["score"], scores.min(axis=1), rtol=1e-4, atol=1e-4)
    expected = (made[best].reshape(6, 8, 8, 1) + 1) / 2
    np.testing.assert_allclose(found.output, expected, rtol=1e-4, atol=1e-6)


def test_a_step_by_hand():
    """D is linear in w and G in its scale: losses, accuracies and gradients are sums in NumPy."""
    learn, _, _ = linear()
    state = learn.init(jax.random.key(1))
    crops = np.random.default_rng(1).random((50, 8, 8, 1), np.float32)
    after, metrics = jax.jit(learn.step)(state, crops)
    w = np.asarray(state.variables["params"]["discriminator"]["w"], float)
    x = (2 * crops.astype(float) - 1).reshape(50, 64)
    key = jax.random.fold_in(state.key, 0)  # threefry already: the step's own key
    z, again = (
        np.asarray(anogan.draw("uniform", one, (50, 64)), float) for one in jax.random.split(key)
    )
    made = 0.5 * z
    expected = np.log1p(np.exp(-x @ w)).mean() + np.log1p(np.exp(made @ w)).mean()
    np.testing.assert_allclose(metrics["discriminator_loss"], expected, rtol=1e-4)
    np.testing.assert_allclose(metrics["accuracy_on_crops"], (x @ w > 0).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["accuracy_on_generated"], (made @ w < 0).mean(), rtol=1e-6)
    np.testing.assert_allclose(metrics["sample_variance"], made.var(axis=0).mean(), rtol=1e-4)
    np.testing.assert_allclose(metrics["crop_variance"], x.var(axis=0).mean(), rtol=1e-4)
    of_x, of_made = 1 / (1 + np.exp(x @ w)), 1 / (1 + np.exp(-made @ w))
    slope = (of_made[:, None] * made - of_x[:, None] * x).mean(axis=0)
    moments = after.opt_state["discriminator"][0]
    np.testing.assert_allclose(moments.mu["w"], 0.5 * slope, rtol=1e-3, atol=1e-6)
    w = np.asarray(after.variables["params"]["discriminator"]["w"], float)
    # the generator then moves by the new discriminator, on z of its own
    logits = 0.5 * again @ w
    np.testing.assert_allclose(metrics["generator_loss"], np.log1p(np.exp(-logits)).mean(), 1e-4)
    slope = (-(again @ w) / (1 + np.exp(logits))).mean()
    np.testing.assert_allclose(after.opt_state["generator"][0].mu["scale"], 0.5 * slope, rtol=1e-3)
    scale = float(after.variables["params"]["generator"]["scale"])
    np.testing.assert_allclose(scale, 0.5 - math.copysign(2e-4, slope), rtol=1e-5)
    assert after.step == 1


def test_what_it_says_of_images(subject):
    method, variables, _, images, found = subject
    assert method.distances == ("anogan", "l2", "l1", "ssim")
    assert (method.learn.best_by, method.learn.patch_size) == ("", 8)
    assert method.learn.validate(variables, images) == {}
    made = found.reconstruction
    assert made.shape == images.shape
    error = 255 * np.abs(images - made).sum(axis=-1)
    np.testing.assert_allclose(found.maps["anogan"], error, rtol=1e-4, atol=1e-3)
    # batch norm by its running statistics, features after the discriminator's last activation
    nets = anogan.networks(SMALL, 1)
    of_x, of_made = (
        np.asarray(nets.apply("discriminator", variables, 2 * cut(each) - 1)[0][1])
        for each in (images, made)
    )
    pixels = np.abs(2 * (cut(images) - cut(made))).sum(axis=(1, 2, 3))
    scores = 0.9 * pixels + 0.1 * np.abs(of_x - of_made).sum(axis=1)
    worst = scores.reshape(3, 4).max(axis=1)
    np.testing.assert_allclose(found.numbers["anogan"], worst, rtol=1e-4)


def cut(images):
    """Patches [12, 8, 8, 1] of three images, in reading order."""
    return images.reshape(3, 2, 8, 2, 8, 1).swapaxes(2, 3).reshape(12, 8, 8, 1)


def test_evidence_knows_neither_batch_nor_place(subject):
    _, variables, inspect, images, found = subject
    others = np.random.default_rng(9).random(images.shape, np.float32)
    others[0], others[1] = images[2], images[0]
    again = inspect(variables, others)
    for now, before in ((0, 2), (1, 0)):  # to the bit
        np.testing.assert_array_equal(again.maps["anogan"][now], found.maps["anogan"][before])
        np.testing.assert_array_equal(again.numbers["anogan"][now], found.numbers["anogan"][before])
    made = found.reconstruction[2]  # of four equal patches
    for y, x in ((0, 8), (8, 0), (8, 8)):
        np.testing.assert_allclose(made[y : y + 8, x : x + 8], made[:8, :8], rtol=1e-5, atol=1e-6)


def test_which_flags_judge_anew():
    known = options.fields(Options)
    parts = {name: field.metadata["part"] for name, field in known.items()}
    judged = {"search_steps", "search_rate", "search_schedule", "restarts", "feature_weight"}
    assert {parts[name] for name in judged} == {options.SCORING}
    identity = ("z_prior", "latent", "width", "epochs", "learning_rate")
    assert {parts[name] for name in identity} == {options.IDENTITY}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"patch_size": 48, "stride": 48}, "--patch_size=48: a DCGAN takes a power of two"),
        ({"patch_size": 128}, "--patch_size=128 is outside 1..64"),
        ({"num_patches": 10}, "--batch_size=64 is larger than --num_patches=10"),
        ({"z_prior": "unifrom"}, "unknown --z_prior 'unifrom': did you mean uniform?"),
        ({"search_schedule": "cosine"}, "unknown --search_schedule 'cosine'"),
        ({"restarts": 0}, "--restarts=0: must be at least 1"),
        ({"feature_weight": 1.5}, "--feature_weight=1.5: must be"),
    ],
)
def test_options_that_cannot_work(flags, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        methods.build("anogan", Options(**flags), 64, 1)
