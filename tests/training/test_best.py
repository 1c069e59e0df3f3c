"""Which checkpoint is the best one: by the metric that a method names, or the last one by none."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs

from cae_jax.runs import cell as cells
from cae_jax.runs.build import read_split
from cae_jax.runs.config import Config
from cae_jax.runs.train import load_trained, train_cells
from cae_jax.types import Evidence, Method, State, Steps

# By epoch, of two steps each. Both metrics of training and of validation are lowest elsewhere.
LOSS = (0.5, 0.25, 0.375, 0.5, 0.75)
GAP = (0.5, 0.75, 0.25, 0.5, 0.5)
HELD_OUT = (0.75, 0.5, 0.5, 0.25, 0.5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("best")
    with small_runs.images_in(root, "tablet"):
        yield root


def method_of(best_by: str, validated: str) -> Method:
    """A method whose metrics are those above, whatever it sees; its variable is the steps done."""

    def init(key):
        return State(jnp.zeros((), jnp.int32), key, {"params": jnp.zeros(())}, ())

    def step(state, patches):
        epoch = state.step // 2
        done = State(state.step + 1, state.key, {"params": state.step + 1.0}, ())
        return done, {"loss": jnp.array(LOSS)[epoch], "gap": jnp.array(GAP)[epoch]}

    def validate(variables, patches):
        epoch = (variables["params"] / 2).astype(int) - 1
        return {validated: jnp.array(HELD_OUT)[epoch]} if validated else {}

    def inspect(variables, images):
        return Evidence({"l2": images[..., 0] * variables["params"]})

    return Method(Steps(init, step, validate, 32, best_by), inspect, ("l2",))


@pytest.mark.parametrize(
    ("best_by", "validated", "fraction", "best"),
    [
        ("loss", "", 0.1, 2),
        ("gap", "", 0.1, 3),
        ("gap", "gap", 0.1, 4),  # of validation, where that has it
        ("gap", "gap", 0.0, 3),  # and there is an image held out
        ("loss", "gap", 0.1, 2),
        ("", "gap", 0.1, 5),
    ],
)
def test_best(world, tmp_path, monkeypatch, best_by, validated, fraction, best):
    method = method_of(best_by, validated)
    monkeypatch.setattr(Config, "build", lambda self: method)
    flags = {"epochs": 5, "keep": 1, "validation_fraction": fraction}
    config = small_runs.config_of(world, **flags).changed(workdir=str(tmp_path)).resolved()
    cell = cells.make(config, "tablet")
    split = read_split(cell.config)
    cells.prepare(cell, split)
    (trained,) = train_cells([(cell, split)])
    assert trained.variables["params"] == 10
    kept = {path.name for path in (cell.folder / "checkpoints").iterdir()}
    assert kept == {"5", str(best)}
    for which, epoch in (("last", 5), ("best", best)):
        found = load_trained(cell._replace(config=cell.config.changed(checkpoint=which)))
        assert found.variables["params"] == 2 * epoch
        assert isinstance(found.variables["params"], jax.Array)
        np.testing.assert_array_equal([row["loss"] for row in found.history], LOSS)
        np.testing.assert_array_equal([row["gap"] for row in found.history], GAP)
        if validated:
            column = [row[f"validation_{validated}"] for row in found.history]
            wanted = HELD_OUT if fraction else [math.nan] * 5
            np.testing.assert_array_equal(column, wanted)
