"""Training: which crops are seen, in which order, and that a stopped run ends as a straight one."""

import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import train_one

from cae_jax.methods.autoencoder import steps
from cae_jax.methods.gradients import optimizer
from cae_jax.training import crops, members
from cae_jax.training.checkpoints import Checkpoints
from cae_jax.training.crops import epoch_crops
from cae_jax.training.loop import Member, Progress
from cae_jax.training.schedule import Schedule
from cae_jax.types import CaeError, State, Steps

SCHEDULE = Schedule(epochs=4, batch_size=4, num_patches=13, patch_size=8, seed=7)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(3).random((5, 12, 14, 1), np.float32)


@pytest.fixture(scope="module")
def learn(tiny_model) -> Steps:
    return steps(tiny_model, optimizer(1e-2, 1e-5))


@pytest.fixture
def fresh(learn, tiny_state):
    return lambda seed=0: Progress(0, tiny_state(learn, seed), [], 0.0)


def equal_bits(one: State, two: State) -> None:
    plain = [state._replace(key=jax.random.key_data(state.key)) for state in (one, two)]
    jax.tree.map(np.testing.assert_array_equal, *plain)


def rows(progress: Progress) -> list[tuple[float, ...]]:
    return [(row["epoch"], row["loss"], row["validation_loss"]) for row in progress.history]


def test_crops_are_uniform_between_both_ends():
    drawn = crops.draw((3, 12, 20, 1), 9, 6000, (1, 2), "none")
    assert drawn.shape == (6000, 3)
    assert drawn.dtype == np.int32
    for column, n in zip(drawn.T, (3, 12 - 9 + 1, 20 - 9 + 1), strict=True):
        counts = np.bincount(column, minlength=n)
        assert len(counts) == n
        assert np.abs(counts - 6000 / n).max() < 5 * math.sqrt(6000 / n)
    whole = crops.draw((3, 9, 9, 1), 9, 50, (1, 2), "none")
    assert not whole[:, 1:].any()


def test_crops_come_from_their_key():
    keys = [(1, 0), (1, 0), (1, 1)]
    one, again, other = (crops.draw((3, 40, 40, 1), 9, 50, key, "none") for key in keys)
    np.testing.assert_array_equal(one, again)
    assert (one != other).any(axis=1).sum() > 40


def batches(images: np.ndarray, epoch: int, **changes) -> np.ndarray:
    return np.array(list(epoch_crops(images, SCHEDULE._replace(**changes), epoch)))


def test_an_epoch_is_a_permutation(images):
    """The same 12 crops every epoch, each once, in an order of the epoch's own."""
    one, again, two = (batches(images, epoch, num_patches=12) for epoch in (1, 1, 2))
    assert one.shape == (3, 4, 3)
    np.testing.assert_array_equal(one, again)
    in_order = [sorted(map(tuple, epoch.reshape(-1, 3).tolist())) for epoch in (one, two)]
    assert in_order[0] == in_order[1]
    assert len(set(in_order[0])) > 8
    assert (one != two).any()


def test_what_no_batch_takes_differs_from_epoch_to_epoch(images):
    """Of 13 crops each epoch leaves one out, by and by another one."""
    drawn = crops.draw(images.shape, 8, 13, (7, 0), "none").tolist()
    left_out = set()
    for epoch in range(1, 9):
        seen = batches(images, epoch).reshape(-1, 3).tolist()
        assert len(seen) == 12
        rest = [crop for crop in drawn if crop not in seen]
        left_out.update(map(tuple, rest))
    assert len(left_out) > 2


def test_redrawn_crops_are_new_every_epoch(images):
    one, again, two = (batches(images, epoch, redraw=True) for epoch in (1, 1, 2))
    np.testing.assert_array_equal(one, again)
    sets = [set(map(tuple, epoch.reshape(-1, 3).tolist())) for epoch in (one, two)]
    assert len(sets[0] & sets[1]) < 6


def test_augmented_crops_are_the_schedules_own(images):
    """Drawn once from the seed and seen every epoch, unless they are redrawn."""
    one, two = (batches(images, epoch, num_patches=12, augment="texture") for epoch in (1, 2))
    drawn = crops.draw(images.shape, 8, 12, (7, 0), "texture")
    for epoch in (one, two):
        assert epoch.shape == (3, 4, 5)
        assert sorted(epoch.reshape(-1, 5).tolist()) == sorted(drawn.tolist())
    assert (one != two).any()
    again = batches(images, 2, num_patches=12, augment="texture", redraw=True)
    assert not set(again[..., 3].ravel()) & set(drawn[:, 3])


def test_augmented_crops_are_trained_on_and_plain_ones_validated(images):
    """On a slope the mean of a crop, turned or not, is the row of its center."""
    learn = counting()
    slope = np.broadcast_to(np.arange(12, dtype=np.float32)[:, None, None], images.shape)
    schedule = SCHEDULE._replace(epochs=1, augment="texture")
    losses = []
    end = train_one.train_member(
        learn,
        Member(slope, slope[:1], schedule, Progress(0, learn.init(None), [], 0.0)),
        on_step=lambda step, metrics: losses.append(metrics["loss"]),
    )
    centers = [batch[:, 1].mean() + 3.5 for batch in batches(images, 1, augment="texture")]
    np.testing.assert_allclose(losses, centers, rtol=1e-5)
    plain = crops.draw(
        slope[:1].shape, 8, 4, (7, 1), "none"
    )  # a sixth of 13 patches, in whole batches
    assert end.history[0]["validation_loss"] == pytest.approx(plain[:, 1].mean() + 3.5, rel=1e-6)


def counting() -> Steps:
    """Steps whose loss says what it saw, its only variable the number of steps."""

    def init(key):
        return State(jnp.zeros((), jnp.int32), key, {"params": jnp.zeros(())}, ())

    def step(state, patches):
        state = state._replace(step=state.step + 1)
        loss = jnp.where(state.step == 5, jnp.inf, patches.mean())
        return state, {"loss": loss}

    return Steps(init, step, lambda variables, patches: {"loss": patches.mean()}, patch_size=8)


def test_losses_are_means_over_the_epochs_crops(images):
    learn = counting()
    start = Progress(0, learn.init(jax.random.key(0)), [], 0.0)
    held_out = np.full((1, 12, 14, 1), 0.25, np.float32)
    heard = []
    end = train_one.train_member(
        learn,
        Member(images, held_out, SCHEDULE._replace(epochs=1), start),
        on_step=lambda step, metrics: heard.append((step, metrics["loss"])),
    )
    cut = [
        np.mean([images[i, r : r + 8, c : c + 8].mean() for i, r, c in batch])
        for batch in batches(images, 1)
    ]
    assert [step for step, _ in heard] == [1, 2, 3]
    np.testing.assert_allclose([loss for _, loss in heard], cut, rtol=1e-5)
    np.testing.assert_allclose(end.history[0]["loss"], np.mean(cut), rtol=1e-5)
    assert end.history[0]["validation_loss"] == 0.25
    assert end.seconds > 0


def test_a_loss_that_is_not_finite_stops(images):
    learn = counting()
    saved = []
    start = Progress(0, learn.init(jax.random.key(0)), [], 0.0)
    with pytest.raises(CaeError, match=r"the loss is inf at step 2 of epoch 2; .*--learning_rate"):
        train_one.train_member(
            learn, Member(images, images[:0], SCHEDULE, start), on_epoch=saved.append
        )
    assert [progress.epoch for progress in saved] == [1]


def test_validation_does_not_touch_training(learn, fresh, images, monkeypatch):
    """Its crops are a stream of their own, and so the training is the same without any."""
    keys = []
    draw = crops.draw

    def noting(shape, patch_size, n, key, kind):
        keys.append((shape[0], n, key))
        return draw(shape, patch_size, n, key, kind)

    monkeypatch.setattr(crops, "draw", noting)
    schedule = SCHEDULE._replace(epochs=2)
    without = train_one.train_member(learn, Member(images[:4], images[:0], schedule, fresh()))
    assert {key for _, _, key in keys} == {(7, 0)}
    keys.clear()
    held_out = train_one.train_member(learn, Member(images[:4], images[4:], schedule, fresh()))
    equal_bits(without.state, held_out.state)
    assert [row[:2] for row in rows(without)] == [row[:2] for row in rows(held_out)]
    assert all(math.isnan(row[2]) for row in rows(without))
    assert all(math.isfinite(row[2]) for row in rows(held_out))
    # a fifth of the images: a fifth of 13 patches, in whole batches of 4
    assert {(m, n) for m, n, key in keys if key != (7, 0)} == {(1, 4)}


def test_stopped_and_started_again_is_straight(learn, fresh, images, tmp_path):
    """To the bit, through a checkpoint, from an epoch after which two are left."""
    arrays = images[:4], images[4:]
    straight = train_one.train_member(learn, Member(*arrays, SCHEDULE, fresh()))
    with Checkpoints(tmp_path) as checkpoints:
        train_one.train_member(
            learn,
            Member(*arrays, SCHEDULE._replace(epochs=2), fresh()),
            on_epoch=lambda at: checkpoints.save(at.epoch, at.state, {"history": at.history}),
        )
    with Checkpoints(tmp_path) as checkpoints:
        epoch, state, notes = checkpoints.restore(fresh(seed=1).state)
    start = Progress(epoch, state, notes["history"], 100.0)
    again = train_one.train_member(learn, Member(*arrays, SCHEDULE, start))
    equal_bits(straight.state, again.state)
    assert rows(straight) == rows(again)
    assert [row[0] for row in rows(again)] == [1, 2, 3, 4]
    assert again.seconds > 100
    assert straight.state.step == 12


@pytest.mark.parametrize("changes", [{"start": 1}, {"seed": 8}])
def test_another_seed_is_another_course(learn, fresh, images, changes):
    """Of the parameters, and of the crops."""
    schedule = SCHEDULE._replace(epochs=1)
    one = train_one.train_member(learn, Member(images, images[:0], schedule, fresh()))
    start, seed = changes.get("start", 0), changes.get("seed", 7)
    two = train_one.train_member(
        learn, Member(images, images[:0], schedule._replace(seed=seed), fresh(start))
    )
    assert rows(one)[0][1] != rows(two)[0][1]
    kernels = [end.state.variables["params"]["encoder"]["kernel"] for end in (one, two)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0


@pytest.mark.parametrize(("restored", "kind"), [(False, "none"), (True, "none"), (False, "object")])
def test_the_step_is_compiled_once(learn, fresh, images, tmp_path, caplog, restored, kind):
    start = fresh()
    if restored:
        with Checkpoints(tmp_path) as checkpoints:
            checkpoints.save(1, start.state, {})
        with Checkpoints(tmp_path) as checkpoints:
            start = start._replace(state=checkpoints.restore(start.state)[1])
    members.compile_step.cache_clear()
    members.compile_validation.cache_clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        train_one.train_member(
            learn, Member(images[:4], images[4:], SCHEDULE._replace(augment=kind), start)
        )
    compiled = [r.getMessage() for r in caplog.records if "XLA compilation of" in r.getMessage()]
    for name in ("jit(train_step)", "jit(validate)"):
        assert len([message for message in compiled if name in message]) == 1, compiled
