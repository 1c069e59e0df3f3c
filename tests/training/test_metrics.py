"""Metrics of any names: what of them is told, kept, averaged, counted, and stops a training."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train_one

from cae_jax.training import crops, loop
from cae_jax.training.crops import epoch_crops
from cae_jax.training.loop import Member, Progress
from cae_jax.training.members import Plan
from cae_jax.training.schedule import Schedule
from cae_jax.types import CaeError, State, Steps

SCHEDULE = Schedule(epochs=3, batch_size=4, num_patches=13, patch_size=8, seed=7)  # 3 steps each
PLANS = [Plan(), Plan("loop", scan=True), Plan("vmap"), Plan("unroll", scan=True)]


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(3).random((5, 12, 14, 1), np.float32)


def steps_of(bad=None, validate=None) -> Steps:
    """Steps that tell two numbers of their crops and count those brighter than half.

    bad: by metric, the step at which it is not finite, and what it then is.
    """
    bad = bad or {}

    def init(key):
        return State(jnp.zeros((), jnp.int32), key, {"params": jnp.zeros(2)}, ())

    def step(state, patches):
        state = state._replace(step=state.step + 1)
        found = {"gap": patches.max() - patches.min(), "mean_level": patches.mean()}
        for name, (at, value) in bad.items():
            found[name] = jnp.where(state.step == at, value, found[name])
        bright = jnp.sum(patches.mean(axis=(1, 2, 3)) > 0.5)
        return state, {**found, "bright_patches": bright}

    def judged(variables, patches):
        return {"level": patches.mean() + variables["params"].sum(), "peak": patches.max()}

    return Steps(init, step, judged if validate is None else validate, 8, best_by="gap")


def start_of(learn: Steps) -> Progress:
    return Progress(0, learn.init(jax.random.key(0)), [], 0.0)


def cut(images: np.ndarray, where: np.ndarray) -> np.ndarray:
    return np.array([images[i, r : r + 8, c : c + 8] for i, r, c in where], np.float64)


def numpy_rows(images: np.ndarray, held_out: np.ndarray) -> list[dict[str, float]]:
    """The history that `steps_of` has on images, by loops over NumPy's slices."""
    rows = []
    n = math.ceil(13 * len(held_out) / (len(held_out) + len(images)) / 4) * 4
    drawn = crops.draw(held_out.shape, 8, n, (7, 1), "none")
    parts = [cut(held_out, part) for part in np.split(drawn, n // 4)]
    for epoch in range(1, SCHEDULE.epochs + 1):
        batches = [cut(images, where) for where in epoch_crops(images, SCHEDULE, epoch)]
        means = batches[-1].mean(axis=(1, 2, 3))
        rows.append(
            {
                "epoch": epoch,
                "gap": np.mean([batch.max() - batch.min() for batch in batches]),
                "mean_level": np.mean([batch.mean() for batch in batches]),
                "validation_level": np.mean([part.mean() for part in parts]),
                "validation_peak": np.mean([part.max() for part in parts]),
                "bright_patches": np.sum(means > 0.5),
            }
        )
    return rows


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_history(images, plan):
    """Of floats an epoch has the mean, of a count the last; validation has names of its own."""
    learn = steps_of()
    end = train_one.train_member(
        learn, Member(images[:2], images[2:], SCHEDULE, start_of(learn)), plan=plan
    )
    wanted = numpy_rows(images[:2], images[2:])
    assert len(end.history) == 3
    for row, expected in zip(end.history, wanted, strict=True):
        assert list(row) == list(expected)
        assert row == pytest.approx(expected, rel=1e-5)
        assert all(isinstance(value, float) for name, value in row.items() if name != "epoch")


def test_without_images_held_out_validation_is_nan(images):
    learn = steps_of()
    end = train_one.train_member(learn, Member(images, images[:0], SCHEDULE, start_of(learn)))
    for row in end.history:
        assert {name for name, value in row.items() if math.isnan(value)} == {
            "validation_level",
            "validation_peak",
        }


@pytest.mark.parametrize("n_held_out", [0, 2])
def test_steps_that_validate_nothing(images, n_held_out):
    """With or without images held out: there is no such column, and no crop is looked at."""
    learn = steps_of(validate=lambda variables, patches: {})._replace(best_by="")
    start = start_of(learn)
    end = train_one.train_member(learn, Member(images[2:], images[:n_held_out], SCHEDULE, start))
    assert [list(row) for row in end.history] == [
        ["epoch", "gap", "mean_level", "bright_patches"]
    ] * 3


@pytest.mark.parametrize("plan", PLANS[:3], ids=str)
def test_floats_are_told_by_name(images, plan):
    """The means over the members; a count is not one of them."""
    learn, heard = steps_of(), []
    members = [
        Member(images[i : i + 2], images[:0], SCHEDULE._replace(seed=i), start_of(learn))
        for i in range(2)
    ]
    if not plan.stacked:
        members = members[:1]
    loop.train_members(learn, members, plan, lambda *told: heard.append(told))
    assert [step for step, _ in heard] == ([3, 6, 9] if plan.scan else [*range(1, 10)])
    at = -1 if plan.scan else 0  # a scan tells of its last step
    first = [
        cut(member.train, list(epoch_crops(member.train, member.schedule, 1))[at])
        for member in members
    ]
    told = heard[0][1]
    assert {*told} == {"gap", "mean_level"}
    assert told["gap"] == pytest.approx(np.mean([x.max() - x.min() for x in first]), rel=1e-5)
    assert told["mean_level"] == pytest.approx(np.mean([x.mean() for x in first]), rel=1e-5)


@pytest.mark.parametrize("plan", PLANS, ids=str)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"mean_level": (5, jnp.nan)}, "the mean level is nan at step 2 of epoch 2"),
        ({"gap": (4, -jnp.inf)}, "the gap is -inf at step 1 of epoch 2"),
        ({"gap": (6, jnp.inf), "mean_level": (5, jnp.nan)}, "the mean level is nan at step 2 of"),
        ({"gap": (5, jnp.inf), "mean_level": (6, jnp.nan)}, "the gap is inf at step 2 of epoch 2"),
    ],
)
def test_the_first_metric_that_is_not_finite_is_named(images, bad, message, plan):
    learn, saved = steps_of(bad), []
    member = Member(images[:4], images[4:], SCHEDULE, start_of(learn))
    with pytest.raises(CaeError, match=f"^training stopped: {message}.*--learning_rate$"):
        train_one.train_member(learn, member, on_epoch=saved.append, plan=plan)
    assert [at.epoch for at in saved] == [1]


def test_a_validation_metric_that_is_not_finite_is_named(images):
    """Also the second of them, and after the epoch's steps."""

    def validate(variables, patches):
        return {"level": patches.mean(), "log_peak": jnp.log(patches.min() - 2)}

    learn = steps_of(validate=validate)
    member = Member(images[:4], images[4:], SCHEDULE, start_of(learn))
    message = "^training stopped: the validation log peak is nan after epoch 1$"
    with pytest.raises(CaeError, match=message):
        train_one.train_member(learn, member)


@pytest.mark.parametrize("plan", [Plan(), Plan("vmap")], ids=str)
@pytest.mark.parametrize("after", [1, 4, 5])
def test_stopped_within_an_epoch_and_started_again_is_straight(images, plan, after):
    """Through JSON, as a checkpoint's notes go: counts stay counts, floats keep their bits."""
    learn = steps_of()
    arrays = images[:4], images[4:]
    straight = train_one.train_member(learn, Member(*arrays, SCHEDULE, start_of(learn)), plan=plan)
    told, stopped = [], []
    (end,) = loop.train_members(
        *(learn, [Member(*arrays, SCHEDULE, start_of(learn))], plan),
        on_step=lambda step, metrics: told.append(step),
        stop=lambda: len(told) >= after,
        on_stop=lambda i, at: stopped.append(at),
    )
    assert [at.steps for at in stopped] == [after % 3]
    assert {*end.partial} == {"gap", "mean_level", "bright_patches"}
    partial, history = json.loads(json.dumps([end.partial, end.history]))
    start = Progress(end.epoch, end.state, history, end.seconds, partial)
    again = train_one.train_member(learn, Member(*arrays, SCHEDULE, start), plan=plan)
    assert again.history == straight.history
    assert int(again.state.step) == 9
