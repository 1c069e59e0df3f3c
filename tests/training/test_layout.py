"""A checkpoint's parts: variables that describe themselves, the rest, and the old folder."""

import hashlib
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from cae_jax.training.checkpoints import Checkpoints
from cae_jax.types import DataError, State

# As earlier versions wrote them of `trained`: the shapes of the whole state.
OLD_SHAPES = {
    ".step": "int32[]",
    ".key": "key<rbg>[]",
    ".variables['params']['kernel']": "float32[3, 2]",
    ".variables['params']['layer.0']['bias']": "float32[2]",
    ".variables['batch_stats']['mean']": "float32[5]",
    ".opt_state[0].count": "int32[]",
    ".opt_state[0].mu['kernel']": "float32[3, 2]",
    ".opt_state[0].mu['layer.0']['bias']": "float32[2]",
    ".opt_state[0].nu['kernel']": "float32[3, 2]",
    ".opt_state[0].nu['layer.0']['bias']": "float32[2]",
}


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def trained(seed: int) -> State:
    """A state of Adam's with batch statistics, as after some steps."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {"kernel": draw(3, 2), "layer.0": {"bias": draw(2)}}
    opt_state = jax.tree.map(lambda leaf: leaf + seed + 1, optax.adam(1e-3).init(params))
    key = jax.random.key(seed, impl="rbg")
    variables = {"params": params, "batch_stats": {"mean": draw(5)}}
    return State(jnp.asarray(seed, jnp.int32), key, variables, opt_state)


def equal(found, wanted) -> None:
    """Trees of the same structure, types and bits."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for one, two in zip(*map(jax.tree.leaves, (found, wanted)), strict=True):
        assert isinstance(one, jax.Array)
        assert one.dtype == two.dtype
        if jax.dtypes.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, two = jax.random.key_data(one), jax.random.key_data(two)
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("n", [1, 37])
def test_variables_come_back_without_a_template(tmp_path, n):
    """With statistics, and a memory of whatever size and types; the rest is not needed."""
    rng = np.random.default_rng(n)
    memory = {
        "bank": jnp.asarray(rng.random((n, 5)), jnp.float32),
        "half": jnp.asarray(rng.random((2, n)), jnp.bfloat16),
        "codes": rng.integers(0, 255, (n, 3), np.uint8),
        "used": rng.random(n) < 0.5,
        "count": jnp.asarray(n, jnp.int32),
        "empty": {},
    }
    state = trained(3)
    state = state._replace(variables=state.variables | {"memory": memory})
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore_variables() is None
        checkpoints.save(4, state, {"history": [1]}, loss=0.5)
    assert names(tmp_path / "4") == {"variables", "rest", "notes.json", "manifest.json"}
    with Checkpoints(tmp_path) as checkpoints:
        found = checkpoints.restore_variables()
        equal(found.held, state.variables)
        assert (found.epoch, found.notes) == (4, {"history": [1]})
        equal(checkpoints.restore(trained(0)._replace(variables=state.variables)).held, state)


def test_the_best_variables(tmp_path):
    with Checkpoints(tmp_path, keep=1) as checkpoints:
        for epoch, loss in ((1, 0.5), (2, 0.25), (3, 0.75)):
            checkpoints.save(epoch, trained(epoch), {"at": epoch}, loss=loss)
    with Checkpoints(tmp_path) as checkpoints:
        for best, epoch in ((False, 3), (True, 2)):
            found = checkpoints.restore_variables(trained(0).variables, best)
            assert (found.epoch, found.notes) == (epoch, {"at": epoch})
            equal(found.held, trained(epoch).variables)


def test_without_a_loss_the_best_is_the_last(tmp_path):
    """As adversarial training has it: no metric of it says which epoch was good."""
    with Checkpoints(tmp_path, keep=2) as checkpoints:
        for epoch in (1, 2, 3):
            checkpoints.save(epoch, trained(epoch), {})
        assert checkpoints.restore_variables(best=True).epoch == 3
        assert checkpoints.restore(trained(0), best=True).epoch == 3
    assert names(tmp_path) == {"2", "3"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kernel": (2, 3)}, "['params']['kernel'] is float32[3, 2], not float32[2, 3]"),
        ({"more": (1,)}, "['params']['more'] is absent, not float32[1]"),
    ],
)
def test_other_variables_than_expected(tmp_path, change, message):
    """Compared by shapes alone, before an array is read; arrays serve as well."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, trained(1), {})
    shapes = jax.eval_shape(lambda: trained(2).variables)
    with Checkpoints(tmp_path) as checkpoints:
        equal(checkpoints.restore_variables(shapes).held, trained(1).variables)
        for name, shape in change.items():
            shapes["params"][name] = jax.ShapeDtypeStruct(shape, jnp.float32)
        whole = f"{tmp_path / '1'}: checkpoint of another model: {message}"
        with pytest.raises(DataError, match=f"^{re.escape(whole)}$"):
            checkpoints.restore_variables(shapes)


def test_variables_of_another_run(tmp_path):
    with Checkpoints(tmp_path, identity={"--seed": 1}) as checkpoints:
        checkpoints.save(1, trained(1), {})
    with (
        Checkpoints(tmp_path, identity={"--seed": 2}) as checkpoints,
        pytest.raises(DataError, match=r"1: checkpoint of another run: --seed is 1, not 2$"),
    ):
        checkpoints.restore_variables()


def test_frozen_weights_are_not_saved(tmp_path):
    """They are the template's on restore, and not there where the variables come alone."""
    state, template = trained(5), trained(6)
    pretrained = {"backbone": {"kernel": jnp.full((100, 100), 7.0)}}
    others = {"backbone": {"kernel": jnp.full((2, 2), 8.0)}}
    with Checkpoints(tmp_path) as checkpoints:
        with_it = state._replace(variables=state.variables | {"frozen": pretrained})
        checkpoints.save(1, with_it, {})
    step = tmp_path / "1"
    assert sum(path.stat().st_size for path in step.rglob("*") if path.is_file()) < 30_000
    assert "frozen" not in (step / "notes.json").read_text()
    with Checkpoints(tmp_path) as checkpoints:
        expected = template.variables | {"frozen": others}
        found = checkpoints.restore(template._replace(variables=expected)).held
        equal(found, state._replace(variables=state.variables | {"frozen": others}))
        equal(checkpoints.restore_variables().held, state.variables)
        equal(checkpoints.restore_variables(expected).held, state.variables)


def test_a_fit_has_no_rest(tmp_path):
    """Variables alone are saved and read; they cannot be trained on, and that is said."""
    variables = {"memory": {"bank": jnp.ones((7, 3))}, "frozen": {"kernel": jnp.ones(9)}}
    saved = {"memory": variables["memory"]}
    with Checkpoints(tmp_path, identity={"--seed": 1}) as checkpoints:
        checkpoints.save(1, variables, {"seconds": 0.5})
    assert names(tmp_path / "1") == {"variables", "notes.json", "manifest.json"}
    with Checkpoints(tmp_path, identity={"--seed": 1}) as checkpoints:
        epoch, found, notes = checkpoints.restore_variables()
        assert (epoch, notes) == (1, {"seconds": 0.5})
        equal(found, saved)
        with pytest.raises(DataError, match=r"another model: \.\w+.* is absent, not"):
            checkpoints.restore(trained(0)._replace(variables=saved))


def write_old(folder, epoch, state, loss=None, identity=None) -> None:
    """Writes a checkpoint of `trained` as earlier versions did: one folder for the whole state."""
    step = folder / str(epoch)
    step.mkdir(parents=True)
    host = state._replace(key=jax.random.key_data(state.key))
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
        host = jax.tree.map(np.array, host)
        writer.save((step / "state").absolute(), args=ocp.args.StandardSave(host))
    notes = {"history": [{"epoch": epoch}], "seconds": 1.5}
    found = {"notes": notes, "identity": identity or {}, "shapes": OLD_SHAPES, "loss": loss}
    (step / "notes.json").write_text(json.dumps(found))
    sums = {}
    for path in sorted(path for path in step.rglob("*") if path.is_file()):
        content = path.read_bytes()
        sums[path.relative_to(step).as_posix()] = [
            len(content),
            hashlib.sha256(content).hexdigest(),
        ]
    digest = hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()
    (step / "manifest.json").write_text(json.dumps({"files": sums, "sha256": digest}, indent=1))


def test_the_old_layout_is_read(tmp_path):
    """To train on, to score by, the last and the best; what is saved beside it is of the new."""
    for epoch, loss in ((3, 0.25), (4, 0.5)):
        write_old(tmp_path, epoch, trained(epoch), loss, {"--seed": 1})
    with Checkpoints(tmp_path, identity={"--seed": 1, "--method": "autoencoder"}) as checkpoints:
        for best, epoch in ((False, 4), (True, 3)):
            found = checkpoints.restore(trained(0), best)
            equal(found.held, trained(epoch))
            assert found.epoch == epoch
            assert found.notes == {"history": [{"epoch": epoch}], "seconds": 1.5}
            drawn = [jax.random.normal(s.key, (3,)) for s in (found.held, trained(epoch))]
            np.testing.assert_array_equal(*drawn)
            for expected in (None, jax.eval_shape(lambda: trained(0).variables)):
                alone = checkpoints.restore_variables(expected, best)
                equal(alone.held, trained(epoch).variables)
                assert (alone.epoch, alone.notes) == (found.epoch, found.notes)
        checkpoints.save(5, trained(5), {}, loss=0.75)
    assert names(tmp_path) == {"3", "4", "5"}
    assert names(tmp_path / "5") >= {"variables", "rest"}
    with Checkpoints(tmp_path) as checkpoints:
        equal(checkpoints.restore(trained(0)).held, trained(5))
        equal(checkpoints.restore_variables(best=True).held, trained(3).variables)


def test_what_differs_from_an_old_checkpoint_is_named(tmp_path):
    write_old(tmp_path, 2, trained(2), identity={"--seed": 1})
    wide = trained(0)
    wide.variables["params"]["kernel"] = jnp.zeros((4, 2))
    whole = r"2: checkpoint of another model: .*\['kernel'\] is float32\[3, 2\], not float32\[4, 2"
    with Checkpoints(tmp_path) as checkpoints:
        for read, template in (
            (checkpoints.restore, wide),
            (checkpoints.restore_variables, wide.variables),
        ):
            with pytest.raises(DataError, match=whole):
                read(template)
    with (
        Checkpoints(tmp_path, identity={"--seed": 2}) as checkpoints,
        pytest.raises(DataError, match="another run: --seed is 1, not 2"),
    ):
        checkpoints.restore_variables()
