"""Training state on disk: back to the bit, or one line that says which folder is bad."""

import contextlib
import io
import itertools
import math
import os
import pathlib
import pickle
import re
import shutil
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax.methods.autoencoder import steps
from cae_jax.methods.gradients import optimizer
from cae_jax.training import checkpoints as checkpoints_module
from cae_jax.training.checkpoints import Checkpoints
from cae_jax.types import DataError, State

FOUR_DEVICES = """
import pathlib, sys
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from cae_jax.training.checkpoints import Checkpoints
from cae_jax.types import State

mesh = Mesh(np.array(jax.devices()), ("batch",))
assert jax.device_count() == 4
whole, split = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("batch",)))
rng = np.random.default_rng(8)
a, b = rng.random((8, 3)).astype(np.float32), rng.random(5).astype(np.float32)
params = {"a": jax.device_put(a, split), "b": jax.device_put(b, whole)}
state = State(
    jax.device_put(jnp.asarray(5), whole),
    jax.device_put(jax.random.key(4), whole),
    {"params": params},
    {"m": jax.device_put(jnp.arange(4.0), split)},
)
with Checkpoints(pathlib.Path(sys.argv[1])) as checkpoints:
    checkpoints.save(6, state, {})
"""


@pytest.fixture(scope="module")
def state(tiny_model, tiny_state) -> State:
    """As after some steps: no leaf is zero."""
    drawn = tiny_state(steps(tiny_model, optimizer(1e-2, 1e-5)), 1)
    moments = jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3, leaf.dtype), drawn.opt_state)
    key = jax.random.key(11, impl="rbg")  # as `loop.fresh_state` makes it
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


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_the_last_of_several(state, tmp_path):
    """Two are kept; what a killed run half wrote is not looked at; an epoch is saved once."""
    with Checkpoints(tmp_path) as checkpoints:
        for epoch in (1, 2, 3):
            checkpoints.save(epoch, state._replace(step=jnp.asarray(epoch)), {"at": epoch})
    for half in (".4.new", ".1+2.old"):
        (tmp_path / half).mkdir()
        (tmp_path / half / "state").write_bytes(b"half of it")
    with Checkpoints(tmp_path) as checkpoints:
        epoch, found, notes = checkpoints.restore(state)
        assert (epoch, int(found.step), notes) == (3, 3, {"at": 3})
        assert names(tmp_path) == {"2", "3", ".4.new", ".1+2.old"}  # reading changes nothing
        with pytest.raises(DataError, match=re.escape(f"{tmp_path}: epoch 3 is there already")):
            checkpoints.save(3, state, {})
        checkpoints.save(4, state, {"at": 4})
    assert names(tmp_path) == {"3", "4"}


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_and_the_best_are_kept(state, tmp_path, keep):
    """Of losses with the lowest in the midst, across two starts; the best can be had."""
    losses = [0.5, 0.2, 0.4, 0.2, 0.3, math.nan, 0.6]
    for epochs in (range(1, 4), range(4, 8)):
        with Checkpoints(tmp_path, keep) as checkpoints:
            for epoch in epochs:
                checkpoints.save(epoch, state, {"at": epoch}, loss=losses[epoch - 1])
    assert names(tmp_path) == {"2", *map(str, range(8 - keep, 8))}
    with Checkpoints(tmp_path) as checkpoints:
        assert checkpoints.restore(state)[2] == {"at": 7}
        assert checkpoints.restore(state, best=True)[2] == {"at": 2}


def test_steps_of_an_epoch(state, tmp_path):
    """They come after the epoch before them and go with the next; they are never the best."""
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(9, state, {}, loss=0.5)
        checkpoints.save(9, state, {"at": "9+12"}, steps=12, loss=0.1)
        assert checkpoints.restore(state)[::2] == (9, {"at": "9+12"})
        assert checkpoints.restore(state, best=True)[2] == {}
        assert names(tmp_path) == {"9", "9+12"}
        checkpoints.save(10, state, {}, loss=0.6)
    assert names(tmp_path) == {"9", "10"}


def test_saving_does_not_wait_for_the_disk(state, tmp_path, monkeypatch):
    """The call is back before anything is written, and what goes wrong then comes with the next."""
    go, write = threading.Event(), Checkpoints._write

    def late(*args):
        assert go.wait(60)
        write(*args)

    monkeypatch.setattr(Checkpoints, "_write", late)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        assert names(tmp_path) == set()
        go.set()
    assert names(tmp_path) == {"1"}
    monkeypatch.setattr(Checkpoints, "_write", write)
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(2, state, {"not JSON": object()})
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / '2'}: checkpoint cannot be saved")):
        checkpoints.save(3, state, {})
    checkpoints.close()
    assert {name for name in names(tmp_path) if name.isdigit()} == {"1"}


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


@pytest.fixture(scope="module")
def two(state, tmp_path_factory):
    """Checkpoints of epochs 1 and 2, and the names of the files in the second."""
    folder = tmp_path_factory.mktemp("two")
    with Checkpoints(folder, identity={"--seed": 1}) as checkpoints:
        for epoch in (1, 2):
            checkpoints.save(epoch, state._replace(step=jnp.asarray(epoch)), {"at": epoch})
    second = folder / "2"
    return folder, sorted(
        p.relative_to(second).as_posix() for p in second.rglob("*") if p.is_file()
    )


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path):
    path.write_bytes(b"")


def altered(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [truncated, emptied, altered, pathlib.Path.unlink])
def test_each_file_damaged_one_at_a_time(two, state, tmp_path, capsys, damage):
    """The one before is used, and the file is named; without one before, that is the error."""
    folder, files = two
    assert {"manifest.json", "notes.json", "variables/_METADATA", "rest/_METADATA"} <= set(files)
    assert len(files) > 8
    for i, name in enumerate(files):
        copy = tmp_path / str(i)
        shutil.copytree(folder, copy)
        damage(copy / "2" / name)
        with Checkpoints(copy, identity={"--seed": 1}) as checkpoints:
            epoch, found, notes = checkpoints.restore(state)
            assert (epoch, int(found.step), notes) == (1, 1, {"at": 1}), name
            warned = capsys.readouterr().err
            assert re.fullmatch(
                f"warning: {re.escape(str(copy / '2' / name))} .*: checkpoint 1 is used\n", warned
            )
            shutil.rmtree(copy / "1")
            with pytest.raises(DataError, match=re.escape(str(copy / "2" / name))):
                checkpoints.restore(state)
            checkpoints.save(2, state, {"at": "again"})  # in place of the damaged one
        with Checkpoints(copy) as checkpoints:
            assert checkpoints.restore(state)[2] == {"at": "again"}


def test_another_file_beside_is_no_damage(two, state, tmp_path, capsys):
    shutil.copytree(two[0], tmp_path / "copy")
    (tmp_path / "copy" / "2" / "readme.txt").write_text("mine")
    (tmp_path / "copy" / "notes of mine").mkdir()
    with Checkpoints(tmp_path / "copy") as checkpoints:
        assert checkpoints.restore(state)[0] == 2
    assert capsys.readouterr().err == ""


class Planted:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def plant_everywhere(whole, root):
    """Reads copies of a checkpoint with one file each replaced by a pickle or an .npy of objects,
    under a manifest that vouches for it; none of them may do more than fail."""
    planted = root / "planted"
    pickled = pickle.dumps(Planted(planted))
    with io.BytesIO() as stream:
        np.save(stream, np.array([Planted(planted)], object), allow_pickle=True)
        of_numpy = stream.getvalue()
    pickle.loads(pickled).close()
    assert planted.exists()  # it works
    planted.unlink()
    params = {name: {"kernel": jnp.zeros((2, 2))} for name in ("decoder", "encoder")}
    template = State(jnp.asarray(0), jax.random.key(0), {"params": params}, ())
    with Checkpoints(whole.parent) as checkpoints:
        checkpoints.save(1, template, {})
    files = [p.relative_to(whole) for p in whole.rglob("*") if p.is_file()]
    for i, (name, content) in enumerate(itertools.product(files, (pickled, of_numpy))):
        step = root / str(i) / "1"
        shutil.copytree(whole, step)
        (step / name).write_bytes(content)
        if name.name != "manifest.json":
            (step / "manifest.json").unlink()
            (step / "manifest.json").write_text(checkpoints_module._manifest(step))
        with Checkpoints(step.parent) as checkpoints, contextlib.suppress(DataError):
            _, found, _ = checkpoints.restore(template)
            equal_arrays(found, template)
        with Checkpoints(step.parent) as checkpoints, contextlib.suppress(DataError):
            _, variables, _ = checkpoints.restore_variables()
            equal_arrays(template._replace(variables=variables), template)
        assert not planted.exists(), name
    print(len(files), "files")


def test_nothing_in_a_checkpoint_is_run(tmp_path):
    """In a process of its own: orbax's threads go on complaining after the error."""
    code = "import pathlib, sys, training.test_checkpoints as t\n"
    code += "t.plant_everywhere(*map(pathlib.Path, sys.argv[1:]))"
    done = in_a_process(code, tmp_path / "whole" / "1", tmp_path)
    assert int(done.split()[0]) > 8


def in_a_process(code, *args, **environment):
    root = pathlib.Path(__file__).parents[2]
    path = os.pathsep.join([str(root), str(root / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def equal_arrays(one: State, two: State) -> None:
    for a, b in zip(*(jax.tree.leaves(s._replace(key=())) for s in (one, two)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_of_another_run(two, state):
    """The difference is named; what one of the two does not know is none."""
    folder = two[0]
    with (
        Checkpoints(folder, identity={"--seed": 2, "--new": 3}) as checkpoints,
        pytest.raises(DataError, match=r"2: checkpoint of another run: --seed is 1, not 2$"),
    ):
        checkpoints.restore(state)


def test_a_folder_whose_name_orbax_cannot_take(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="udcff': the name is not UTF-8; rename the folder"):
        Checkpoints(tmp_path / "w\udcff")
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "ascii")
    with pytest.raises(DataError, match="taken as ascii here, which PYTHONUTF8=1 changes"):
        Checkpoints(tmp_path / "w\udcc3\udcb6")


def test_one_of_four_devices_is_read_on_one(state, tmp_path):
    """Replicated and split over a mesh; the bits are the same."""
    flags = os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=4"
    in_a_process(FOUR_DEVICES, tmp_path, XLA_FLAGS=flags)
    rng = np.random.default_rng(8)
    variables = {"params": {"a": rng.random((8, 3)), "b": rng.random(5)}}
    wanted = jax.tree.map(lambda leaf: leaf.astype(np.float32), variables)
    template = State(
        jnp.asarray(0), jax.random.key(0), jax.tree.map(jnp.zeros_like, wanted), {"m": jnp.zeros(4)}
    )
    with Checkpoints(tmp_path) as checkpoints:
        epoch, found, _ = checkpoints.restore(template)
    assert (epoch, int(found.step)) == (6, 5)
    assert jax.device_count() == 1
    jax.tree.map(np.testing.assert_array_equal, found.variables, wanted)
    np.testing.assert_array_equal(found.opt_state["m"], np.float32([0, 1, 2, 3]))
    assert found.key == jax.random.key(4)
