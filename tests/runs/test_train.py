"""A cell's training from its last checkpoint on: which one may be gone on from, and which not."""

import functools
import pathlib
import re
import shutil

import jax
import numpy as np
import pytest
import small_runs
from small_runs import folder_of

from cae_jax.data import synthetic
from cae_jax.runs import cell as cells
from cae_jax.runs import job, train
from cae_jax.training import loop
from cae_jax.types import DataError

config_of = functools.partial(small_runs.config_of, epochs=3, num_patches=80, batch_size=16)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("resume")
    counts = {"n_train": 8, "n_good": 2, "n_defective_per_kind": 1}
    synthetic.write(root / "others", ["tablet"], 64, 1, 1, **counts)
    with small_runs.images_in(root, "tablet", **counts):
        yield root


@pytest.fixture(scope="module")
def finished(world):
    config = config_of(world, "finished")
    job.run(config)
    return folder_of(config)


def copy_of(finished, world, name, **changes):
    """A copy of the finished run, as if it had been stopped before it was scored."""
    config = config_of(world, name, **changes)
    shutil.copytree(finished, folder_of(config))
    (folder_of(config) / "metrics.json").unlink()
    return config, folder_of(config)


def test_a_damaged_checkpoint_costs_an_epoch(finished, world, capsys):
    config, cell = copy_of(finished, world, "damaged")
    (cell / "checkpoints" / "3" / "notes.json").write_text("{}")
    job.run(config)
    said = capsys.readouterr().err
    assert f"warning: {cell / 'checkpoints' / '3' / 'notes.json'} has 2 bytes" in said
    assert f"{cell}: goes on after epoch 2 of 3" in said
    for name in ("scores.csv", "history.csv"):
        assert (cell / name).read_bytes() == (finished / name).read_bytes()
    job.evaluate_again(pathlib.Path(config.workdir))  # the damaged one was replaced
    assert "warning: " not in capsys.readouterr().err.replace("warning: tablet", "")


def test_a_damaged_checkpoint_of_a_finished_run_is_not_scored(finished, world):
    config, cell = copy_of(finished, world, "finished_damaged")
    shutil.copy(finished / "metrics.json", cell)
    (cell / "checkpoints" / "3" / "manifest.json").unlink()
    metrics = re.escape(str(cell / "metrics.json"))
    said = rf"is of epoch 2 \(\S+3/manifest\.json is missing\); remove {metrics} and run"
    with pytest.raises(DataError, match=said):
        job.evaluate_again(pathlib.Path(config.workdir))
    assert (cell / "scores.csv").read_bytes() == (finished / "scores.csv").read_bytes()
    (cell / "metrics.json").unlink()
    job.run(config)
    job.evaluate_again(pathlib.Path(config.workdir))


def test_one_without_a_whole_checkpoint_does_not_stop_the_others(finished, world):
    config, cell = copy_of(finished, world, "one_of_two")
    shutil.rmtree(cell / "checkpoints" / "2")
    (cell / "checkpoints" / "3" / "variables" / "_METADATA").write_bytes(b"")
    outcome = job.run_grid([config, config.changed(seed=1)])
    (error,) = outcome.failed.values()
    assert set(outcome.failed) == {"tablet/small_net.Tiny/seed_0"}
    assert "3/variables/_METADATA has 0 bytes" in str(error)
    assert [each.name for each in outcome.cells] == ["tablet/small_net.Tiny/seed_1"]
    assert outcome.cells[0].finished


@pytest.mark.parametrize(
    ("changes", "difference"),
    [({"seed": 1}, "--seed is 1, not 0"), ({"data_dir": "others"}, "data_fingerprint is '")],
)
def test_a_checkpoint_of_another_run_is_refused(finished, world, changes, difference):
    """Copied into this run's folder; the difference is named, for training and for scoring."""
    if "data_dir" in changes:
        changes = {"data_dir": str(world / changes["data_dir"])}
    name = "other_" + "_".join(changes)
    other = config_of(world, name, **changes)
    job.run(other)
    config, cell = copy_of(finished, world, f"into_{name}")
    shutil.copytree(folder_of(other) / "checkpoints" / "3", cell / "checkpoints" / "9")
    said = re.escape(f"{cell / 'checkpoints' / '9'}: checkpoint of another run: {difference}")
    with pytest.raises(DataError, match=said):
        job.run(config)
    with pytest.raises(DataError, match=said):
        job.evaluate_again(pathlib.Path(config.workdir))
    assert not (cell / "metrics.json").exists()


def test_keep(world, monkeypatch):
    """The last and the best, here the second of five; another --keep is the same run."""
    config = config_of(world, "keep", epochs=5, keep=1)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "mark", lambda row, _: abs(row["epoch"] - 2.0))
        job.run(config)
    kept = {path.name for path in (folder_of(config) / "checkpoints").iterdir()}
    assert kept == {"2", "5"}
    job.run(config.changed(keep=3))
    (cell,) = cells.find(pathlib.Path(config.workdir))
    best = cell._replace(config=cell.config.changed(checkpoint="best"))
    found, last = train.load_trained(best), train.load_trained(cell)
    assert len(found.history) == len(last.history) == 5
    assert not np.array_equal(*(jax.tree.leaves(each.variables)[0] for each in (found, last)))
