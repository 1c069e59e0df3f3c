"""Training state on disk: back to the bit, or one line that says which folder is bad."""

import re
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax.checkpoints import Checkpoints
from cae_jax.methods.autoencoder import autoencoder, optimizer
from cae_jax.types import DataError, State


@pytest.fixture(scope="module")
def state(tiny_model, tiny_state) -> State:
    """As after some steps: no leaf is zero."""
    drawn = tiny_state(autoencoder(tiny_model, optimizer(1e-2, 1e-5)), 1)
    moments = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3, leaf.dtype), drawn.opt_state)
    key = jax.random.key(11, impl="rbg")  # as `runs.fresh_state` makes it
    return drawn._replace(step=jnp.asarray(17, jnp.int32), key=key, opt_state=moments)


def zeros_like(state: State) -> State:
    rest = jax.tree.map(jnp.zeros_like, state._replace(key=()))
    return rest._replace(key=jax.random.key(0, impl="rbg"))


def test_round_trip(state, tmp_path):
    notes = {"history": [{"epoch": 1, "loss": 0.1234567890123, "note": "ü"}], "seconds": 1.5}
    with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
        assert checkpoints.restore(state) is None
        checkpoints.save(3, state, notes)
    with Checkpoints(tmp_path / "new" / "folder") as checkpoints:
        epoch, found, read = checkpoints.restore(zeros_like(state))
    assert (epoch, read) == (3, notes)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    assert found.key.dtype == state.key.dtype
    assert found.key == state.key
    for one, two in zip(
        *map(jax.tree.leaves, (found._replace(key=()), state._replace(key=()))), strict=True
    ):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    drawn = [np.asarray(jax.random.normal(s.key, (5,))) for s in (found, state)]
    np.testing.assert_array_equal(*drawn)


def test_the_last_of_several(state, tmp_path):
    """Two are kept; what a killed run half wrote is not looked at; an epoch is saved once."""
    with Checkpoints(tmp_path) as checkpoints:
        for epoch in (1, 2, 3):
            checkpoints.save(epoch, state._replace(step=jnp.asarray(epoch)), {"at": epoch})
    half = tmp_path / "7.orbax-checkpoint-tmp"
    half.mkdir()
    (half / "state").write_bytes(b"half of it")
    with Checkpoints(tmp_path) as checkpoints:
        epoch, found, notes = checkpoints.restore(state)
        assert (epoch, int(found.step), notes) == (3, 3, {"at": 3})
        with pytest.raises(DataError, match=re.escape(f"{tmp_path}: epoch 3 is there already")):
            checkpoints.save(3, state, {})
        checkpoints.save(4, state, {"at": 4})
    deadline = time.monotonic() + 20  # cleared away in the background
    while half.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert {path.name for path in tmp_path.iterdir()} == {"3", "4"}


def test_what_is_saved_is_the_state_at_the_call(tmp_path):
    """The next steps take the buffers while the file is still being written."""
    big = State(jnp.asarray(0), jax.random.key(0), {"params": jnp.ones((1500, 1500))}, ())
    step = jax.jit(
        lambda s: s._replace(variables={"params": s.variables["params"] + 1}), donate_argnums=0
    )
    going = step(big)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, going, {})
        for _ in range(10):
            going = step(going)
        jax.block_until_ready(going)
    with Checkpoints(tmp_path) as checkpoints:
        _, found, _ = checkpoints.restore(going)
    assert np.unique(found.variables["params"]).tolist() == [2]


def wider(state: State) -> State:
    variables = jax.tree.map(lambda leaf: jnp.concatenate([leaf, leaf]), state.variables)
    return state._replace(variables=variables)


def renamed(state: State) -> State:
    params = dict(state.variables["params"])
    params["other"] = params.pop("decoder")
    return state._replace(variables={"params": params})


@pytest.mark.parametrize("change", [wider, renamed])
def test_a_checkpoint_of_another_model(state, tmp_path, change):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state, {})
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(DataError, match=re.escape(str(tmp_path / "5"))) as caught,
    ):
        checkpoints.restore(change(state))
    assert "\n" not in str(caught.value)


def test_a_damaged_checkpoint(state, tmp_path):
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(5, state, {})
    for path in (tmp_path / "5" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with (
        Checkpoints(tmp_path) as checkpoints,
        pytest.raises(DataError, match=re.escape(str(tmp_path / "5"))),
    ):
        checkpoints.restore(state)
