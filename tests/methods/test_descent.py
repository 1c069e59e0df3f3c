"""Schedules, clipping and averaged parameters: the arithmetic, and that all methods have them."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import train_one

from cae_jax import methods, options
from cae_jax.methods import descent
from cae_jax.methods.autoencoder import steps
from cae_jax.methods.descent import Descent
from cae_jax.methods.gradients import optimizer
from cae_jax.training.loop import Member, Progress
from cae_jax.training.schedule import Schedule, Training
from cae_jax.types import State, Steps, UsageError

SCHEDULE = Schedule(epochs=3, batch_size=4, num_patches=8, patch_size=8, seed=7)
ALL = {"schedule": "cosine_decay", "gradient_clip": 0.05, "ema": 0.9}


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(3).random((5, 12, 14, 1), np.float32)


def test_nothing_asked_for_is_nothing_changed(tiny_model):
    tx = optimizer(1e-2, 1e-5)
    assert descent.guided(tx, Descent(), 100) is tx
    learn = steps(tiny_model, tx)
    assert descent.averaged(learn, Descent()) is learn


def cosine(share):
    return (1 + math.cos(math.pi * share)) / 2


@pytest.mark.parametrize(
    ("schedule", "given", "expected"),  # of 200 steps: {step: share of the rate}
    [
        ("cosine_decay", "", {0: 1, 50: cosine(0.25), 100: 0.5, 200: 0}),
        ("cosine_decay", "alpha=0.1,decay_steps=100", {50: 0.55, 100: 0.1, 200: 0.1}),
        ("warmup_cosine_decay", "", {0: 0, 5: 0.5, 10: 1, 105: 0.5, 200: 0}),
        ("warmup_cosine_decay", "warmup_steps=100,end_value=0.2", {50: 0.5, 150: 0.6, 200: 0.2}),
        ("warmup_constant", "", {0: 0, 5: 0.5, 10: 1, 200: 1}),
        ("exponential_decay", "", {0: 1, 100: 0.1, 200: 0.01}),
        ("exponential_decay", "decay_rate=0.25,staircase=true", {100: 1, 200: 0.25}),
        ("linear", "", {0: 1, 50: 0.75, 200: 0}),
        ("linear", "end_value=0.5,transition_begin=100", {100: 1, 200: 0.75, 300: 0.5}),
        ("polynomial", "", {0: 1, 100: 0.25, 200: 0}),
        ("piecewise_constant", "", {0: 1, 99: 1, 101: 0.1, 151: 0.01}),
        ("piecewise_constant", "20=0.5, 60=0.1", {19: 1, 21: 0.5, 61: 0.05}),
        ("constant", "", None),
    ],
)
def test_schedules(schedule, given, expected):
    rate = descent.factor(Descent(schedule, given), 200)
    if expected is None:
        assert rate is None
        return
    found = {step: float(rate(step)) for step in expected}
    assert found == pytest.approx(expected, abs=1e-6)


def test_a_warmup_of_the_only_steps_that_learn():
    """Of 2,000 steps all but the second have no rate; a few samples would not see it."""
    given = "warmup_steps=1,decay_steps=2"
    rate = descent.factor(Descent("warmup_cosine_decay", given), 2000)
    assert [float(rate(step)) for step in range(4)] == pytest.approx([0, 1, 0, 0], abs=1e-6)


def test_one_cycle_rises_and_falls():
    rate = descent.factor(Descent("cosine_onecycle", "pct_start=0.25"), 200)
    values = [float(rate(step)) for step in range(201)]
    assert np.argmax(values) == 50
    assert (values[0], values[50]) == pytest.approx((1 / 25, 1))
    assert values[200] < 1e-3


@pytest.mark.parametrize(
    ("schedule", "given", "said"),
    [
        (
            "cosine_decay",
            "alfa=1",
            "option of --schedule=cosine_decay .alfa.: did you mean",
        ),
        ("cosine_decay", "alpha=x", "alpha takes a number, got 'x'"),
        ("cosine_decay", "alpha=-1", "alpha must be at least 0"),
        ("cosine_decay", "decay_steps=1.5", "decay_steps takes a number, got '1.5'"),
        ("cosine_decay", "decay_steps=0", "positive"),
        ("warmup_cosine_decay", "warmup_steps=300", "positive"),
        ("warmup_constant", "warmup_steps=0", "0 at every step"),
        ("linear", "transition_steps=0", "transition_steps must be above 0"),
        ("exponential_decay", "decay_rate=0", "decay_rate must be above 0"),
        ("cosine_onecycle", "div_factor=0", "zero"),
        ("cosine_decay", "decay_steps=4294967296", "decay_steps must be at most 2147483647"),
        ("piecewise_constant", "4294967296=0.1", "a step is at most 2147483647"),
        ("cosine_onecycle", "pct_start=1", "pct_start must be below 1"),
        ("piecewise_constant", "9=0.5,9=0.1", "gives 9 twice"),
        ("piecewise_constant", "0=0", "0 at every step"),
        ("piecewise_constant", "half=0.1", "expected STEP=SCALE"),
        ("constant", "alpha=1", "--schedule=constant has none"),
        ("linear", "end_value", "expected name=value"),
    ],
)
def test_bad_options_are_said(schedule, given, said):
    with pytest.raises(UsageError, match=said):
        descent.factor(Descent(schedule, given), 200)


@pytest.mark.parametrize("decoupled", [False, True])
def test_a_schedule_is_one_of_the_learning_rate(decoupled):
    """As optax's own of a rate that falls, L2 or AdamW's decay with it."""
    rate = optax.cosine_decay_schedule(0.1, 20)
    wanted = (
        optax.adamw(rate, weight_decay=0.01)
        if decoupled
        else optax.chain(optax.add_decayed_weights(0.01), optax.adam(rate))
    )
    tx = descent.guided(optimizer(0.1, 0.01, decoupled), Descent("cosine_decay"), 20)
    ends = []
    for each in (wanted, tx):
        x, state = jnp.array([1.0, -2.0]), each.init(jnp.zeros(2))
        for _ in range(20):
            updates, state = each.update(jnp.sin(5 * x), state, x)
            x = optax.apply_updates(x, updates)
        ends.append(x)
    np.testing.assert_allclose(*ends, rtol=1e-5)


def test_a_clipped_gradient_keeps_its_direction():
    gradient = {"a": jnp.array([3.0, 0.0]), "b": jnp.array([[4.0]])}  # of norm 5
    for clip, factor in ((1.0, 0.2), (5.5, 1.0)):
        tx = descent.guided(optax.sgd(1.0), Descent(gradient_clip=clip), 9)
        found, _ = tx.update(gradient, tx.init(gradient))
        np.testing.assert_allclose(found["a"], [-3 * factor, 0], rtol=1e-6)
        np.testing.assert_allclose(found["b"], [[-4 * factor]], rtol=1e-6)


def counting() -> Steps:
    """Its one parameter is the number of steps, and so is its one statistic."""

    def init(key):
        variables = {"params": {"n": jnp.zeros(())}, "batch_stats": {"n": jnp.zeros(())}}
        return State(jnp.zeros((), jnp.int32), key, variables, ())

    def step(state, crops):
        variables = jax.tree.map(lambda x: x + 1, state.variables)
        loss = {"loss": variables["params"]["n"]}
        return State(state.step + 1, state.key, variables, ()), loss

    return Steps(init, step, lambda variables, crops: {"loss": variables["params"]["n"]}, 8)


def test_the_average_is_what_is_validated_and_kept(images):
    """1, 2, 3 ... averaged by hand; the statistics are the learner's own."""
    learn = descent.averaged(counting(), Descent(ema=0.5))
    start = Progress(0, jax.jit(learn.init)(jax.random.key(0)), [], 0.0)
    end = train_one.train_member(learn, Member(images, images[:1], SCHEDULE, start))
    average, averages = 0.0, []
    for n in range(1, 7):
        decay = min(0.5, (1 + n) / (10 + n))
        average = decay * average + (1 - decay) * n
        averages.append(average)
    assert float(end.state.variables["params"]["n"]) == pytest.approx(average, rel=1e-6)
    assert float(end.state.variables["batch_stats"]["n"]) == 6
    assert float(end.state.opt_state.params["n"]) == 6
    found = [row["validation_loss"] for row in end.history]
    assert found == pytest.approx(averages[1::2], rel=1e-6)
    assert [row["loss"] for row in end.history] == [1.5, 3.5, 5.5]


def test_a_decay_of_one_never_learns():
    with pytest.raises(UsageError, match=r"--ema=1.0: must be below 1"):
        descent.averaged(counting(), Descent(ema=1.0))


@pytest.mark.parametrize("name", methods.names())
def test_all_methods_that_learn_by_steps_have_them(name):
    own = methods.resolve(name).Options
    assert issubclass(own, Training) == issubclass(own, Descent)
    assert ("schedule" in options.fields(own)) == issubclass(own, Descent)
