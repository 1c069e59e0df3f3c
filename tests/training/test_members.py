"""Members trained together, in every way and on any mesh: the numbers of each one trained alone."""

import os
import pathlib
import subprocess
import sys

import jax
import numpy as np
import pytest

from cae_jax.methods.autoencoder import steps
from cae_jax.methods.gradients import optimizer
from cae_jax.training import loop, members
from cae_jax.training.loop import Member, Progress
from cae_jax.training.members import Plan
from cae_jax.training.schedule import Schedule
from cae_jax.types import CaeError, UsageError

ROOT = pathlib.Path(__file__).parents[2]
SCHEDULE = Schedule(epochs=2, batch_size=4, num_patches=13, patch_size=8, seed=0)
PLANS = [Plan("vmap"), Plan("vmap", scan=True), Plan("unroll"), Plan("unroll", scan=True)]
# On four devices: the ends of two members on meshes of 4 x 1 and 2 x 2, of one on 1 x 4.
DEVICES = """
import jax, numpy as np, sys
sys.path.insert(0, "tests")
import training.test_members as t
from cae_jax.training import members
from cae_jax.training.members import Plan
from conftest import Tiny

assert jax.device_count() == 4
learn = t.learn_of(Tiny())
for n, strategy, scan, shape in (
    (4, "vmap", False, (4, 1)),
    (4, "unroll", True, (4, 1)),
    (2, "vmap", True, (2, 2)),
    (2, "unroll", False, (2, 2)),
    (1, "loop", False, (1, 4)),
):
    mesh = members.mesh(n, 4, jax.devices())
    assert mesh.devices.shape == shape, mesh
    ends = t.train_all(learn, n, Plan(strategy, scan, mesh))
    t.assert_same(ends, t.train_all(learn, n, Plan()))
"""


def learn_of(model):
    return steps(model, optimizer(1e-2, 1e-5))


@pytest.fixture(scope="module")
def learn(tiny_model):
    return learn_of(tiny_model)


def members_of(learn, n):
    """Members with images of their own, of different numbers, and with seeds of their own."""
    rng = np.random.default_rng(5)
    made = []
    for seed in range(n):
        images = rng.random((4 + seed, 12, 14, 1), np.float32)
        state = jax.jit(learn.init)(jax.random.key(seed))
        start = Progress(0, state, [], 0.0)
        made.append(Member(images[1:], images[:1], SCHEDULE._replace(seed=seed), start))
    return made


def train_all(learn, n, plan, **how):
    return loop.train_members(learn, members_of(learn, n), plan, **how)


def assert_same(ends, wanted):
    assert len(ends) == len(wanted)
    for end, alone in zip(ends, wanted, strict=True):
        assert end.epoch == alone.epoch == 2
        assert int(end.state.step) == int(alone.state.step) == 6
        for row, other in zip(end.history, alone.history, strict=True):
            assert row == pytest.approx(other, rel=1e-5)
        both = (jax.tree.leaves(each.state.variables) for each in (end, alone))
        for leaf, other in zip(*both, strict=True):
            np.testing.assert_allclose(leaf, other, rtol=2e-4, atol=2e-5)


@pytest.fixture(scope="module")
def alone(learn):
    return train_all(learn, 3, Plan())


@pytest.mark.parametrize("plan", [*PLANS, Plan("loop", scan=True)], ids=str)
def test_together_as_alone(learn, alone, plan):
    saved = []
    ends = train_all(learn, 3, plan, on_epoch=lambda i, at: saved.append((i, at.epoch)))
    assert_same(ends, alone)
    assert sorted(saved) == [(i, epoch) for i in range(3) for epoch in (1, 2)]
    kernels = [end.state.variables["params"]["encoder"]["kernel"] for end in ends]
    assert np.abs(kernels[0] - kernels[1]).max() > 1e-3  # they are not one member thrice


def test_a_rerun_is_the_same_to_the_bit(learn):
    one, two = (train_all(learn, 3, PLANS[0]) for _ in range(2))
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        if isinstance(a, jax.Array) and not jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("plan", [PLANS[0], PLANS[1], Plan()], ids=str)
def test_one_that_fails_does_not_stop_the_others(learn, alone, plan):
    three = members_of(learn, 3)
    three[1].train[:] = np.nan
    saved = []
    ends = loop.train_members(learn, three, plan, on_epoch=lambda i, at: saved.append(i))
    assert isinstance(ends[1], CaeError)
    assert "the loss is nan at step 1 of epoch 1" in str(ends[1])
    assert_same([ends[0], ends[2]], [alone[0], alone[2]])
    assert sorted(saved) == [0, 0, 2, 2]


def test_steps_are_told(learn):
    heard = {plan.scan: [] for plan in PLANS}
    for plan in PLANS[:2]:
        train_all(learn, 3, plan, on_step=lambda *at, scan=plan.scan: heard[scan].append(at))
    assert [step for step, _ in heard[False]] == [1, 2, 3, 4, 5, 6]
    assert [step for step, _ in heard[True]] == [3, 6]
    losses = [[metrics["loss"] for _, metrics in heard[scan]] for scan in (False, True)]
    np.testing.assert_allclose(losses[0][2::3], losses[1], rtol=1e-6)


@pytest.mark.parametrize("plan", [PLANS[0], PLANS[1], Plan()], ids=str)
def test_nothing_goes_to_or_from_the_host_unasked(learn, alone, plan):
    """A guard against implicit transfers: each one that is left is written out in the source."""
    made = members_of(learn, 3)
    with jax.transfer_guard("disallow"):
        ends = loop.train_members(learn, made, plan)
    assert_same(ends, alone)


def test_only_like_members_train_together(learn):
    two = members_of(learn, 2)
    two[1] = two[1]._replace(schedule=SCHEDULE._replace(epochs=3))
    with pytest.raises(ValueError, match="share their schedule"):
        loop.train_members(learn, two, PLANS[0])


@pytest.mark.parametrize(
    ("n_members", "batch_size", "n_devices", "shape"),
    [(15, 128, 4, (1, 4)), (16, 128, 8, (8, 1)), (6, 128, 4, (2, 2)), (1, 9, 3, (1, 3))],
)
def test_devices_lie_along_members_first(n_members, batch_size, n_devices, shape):
    devices = [object() for _ in range(n_devices)]
    laid = []

    def note(grid, names, **_):
        laid.append((grid.shape, names))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "Mesh", note)
        members.mesh(n_members, batch_size, devices)
    assert laid == [(shape, ("members", "batch"))]
    assert members.mesh(n_members, batch_size, devices[:1]) is None


@pytest.mark.parametrize(
    ("n_devices", "n_members", "batch_size", "shape"),
    [
        (3, 1, 16, (1, 2)),
        (4, 1, 10, (1, 2)),
        (7, 3, 16, (3, 2)),
        (6, 2, 9, (2, 3)),
        (3, 1, 7, None),
    ],
)
def test_a_batch_that_cannot_be_split_takes_fewer_devices(n_devices, n_members, batch_size, shape):
    laid = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(members, "Mesh", lambda grid, *_, **__: laid.append(grid.shape))
        members.mesh(n_members, batch_size, [object() for _ in range(n_devices)])
    assert laid == ([shape] if shape else [])


def test_the_plan_is_of_the_device():
    assert members.default_plan("auto", 3, 8) == Plan("loop", False, None)  # tests are on a CPU
    assert members.default_plan("vmap", 3, 8).strategy == "vmap"
    with pytest.raises(UsageError, match="--members 'vmp': did you mean vmap"):
        members.default_plan("vmp", 3, 8)


def test_on_four_devices_as_on_one():
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, "-c", DEVICES],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
