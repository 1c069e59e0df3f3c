"""Early stopping: by the history alone, so that a stopped run ends where a straight one does."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax.training import members
from cae_jax.training.loop import Member, Progress, ended_early, mark, train_members
from cae_jax.training.schedule import Schedule
from cae_jax.types import State, Steps

SCHEDULE = Schedule(epochs=9, batch_size=4, num_patches=8, patch_size=8, seed=7, patience=3)


def rows(losses, name="validation_loss"):
    return [{"epoch": i, "loss": 9.0 - i, name: x} for i, x in enumerate(losses, 1)]


@pytest.mark.parametrize(
    ("losses", "patience", "early"),
    [
        ([3, 2, 1, 1, 1], 0, False),
        ([3, 2, 1, 2, 2], 3, False),  # two epochs since the lowest
        ([3, 2, 1, 2, 2, 2], 3, True),
        ([3, 2, 1, 1, 1, 1], 3, True),  # equal is not lower
        ([3, 2, 1, 2, 2, 0.9], 3, False),
        ([1, 2, 3], 3, False),  # nothing before to compare with
        ([1, 2, 3, 4], 3, True),
        ([1, 2], 1, True),
        ([], 1, False),
    ],
)
def test_when_a_history_has_ended(losses, patience, early):
    assert ended_early(rows(losses), "loss", patience) == early


def test_the_mark_is_of_images_held_out_where_there_are_any():
    assert mark({"loss": 2.0, "validation_loss": 3.0}, "loss") == 3
    assert mark({"loss": 2.0, "validation_loss": float("nan")}, "loss") == 2
    assert np.isnan(mark({"critic_loss": 2.0}, ""))


def falling(until) -> Steps:
    """Its validation loss falls until a step, of the member's own key, and then rises."""

    def init(key):
        x = jnp.zeros(())
        return State(jnp.zeros((), jnp.int32), key, {"params": {"n": x, "turn": x + until}}, ())

    def step(state, crops):
        params = state.variables["params"]
        params = {**params, "n": params["n"] + 1}
        return State(state.step + 1, state.key, {"params": params}, ()), {"loss": params["n"]}

    def validate(variables, crops):
        p = variables["params"]
        return {"loss": jnp.abs(p["n"] - p["turn"])}

    return Steps(init, step, validate, 8)


@pytest.mark.parametrize("strategy", ["loop", "vmap", "unroll"])
def test_each_member_ends_by_itself(strategy):
    """Two steps an epoch: the lowest loss is at epoch 2 and 4, three epochs later it is over."""
    images = np.random.default_rng(0).random((5, 12, 12, 1), np.float32)
    starts = [Progress(0, falling(turn).init(jax.random.key(i)), [], 0.0)
              for i, turn in enumerate((4.0, 8.0, 99.0))]  # fmt: skip
    group = [Member(images, images[:1], SCHEDULE._replace(seed=i), start)
             for i, start in enumerate(starts)]  # fmt: skip
    seen = []
    plan = members.Plan(strategy)
    learn = falling(0.0)
    ends = train_members(learn, group, plan, on_epoch=lambda i, at: seen.append((i, at.epoch)))
    assert [end.epoch for end in ends] == [5, 7, 9]
    assert [float(end.state.variables["params"]["n"]) for end in ends] == [10, 14, 18]
    assert sorted(seen) == [(i, n) for i, last in enumerate((5, 7, 9)) for n in range(1, last + 1)]
    if strategy == "loop":  # from what is over nothing more is done
        again = [m._replace(start=end) for m, end in zip(group, ends, strict=True)]
        assert [end.epoch for end in train_members(learn, again, plan)] == [5, 7, 9]
