"""A finished run trained on: what it comes to is what a run of that many epochs comes to."""

import json
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from small_runs import config_of, folder_of, images_in

from cae_jax.runs import cell as cells
from cae_jax.runs import dry_run, job, longer, train
from cae_jax.runs.config import configure
from cae_jax.types import UsageError


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Runs of one and of three epochs."""
    root = tmp_path_factory.mktemp("longer")
    with images_in(root, "tablet"):
        for name, epochs in (("one", 1), ("three", 3)):
            job.run(config_of(root, name, epochs=epochs))
        yield root


def parts(config):
    (cell,) = cells.find(config.folder)
    trained = train.load_trained(cell)
    return jax.tree.leaves(trained.variables), trained.history


def test_it_is_the_longer_run_to_the_bit(world, capsys):
    shutil.copytree(world / "one", world / "on")
    config = config_of(world, "on", epochs=3)
    assert "goes on after epoch 1" in dry_run.forecast(job.plan([config]))
    table = job.run(config)
    assert f"{folder_of(config)}: goes on after epoch 1 of 3" in capsys.readouterr().err
    assert table["epochs"].tolist() == [3]
    wanted = config_of(world, "three", epochs=3)
    ours, theirs = parts(config), parts(wanted)
    for mine, other in zip(ours[0], theirs[0], strict=True):
        np.testing.assert_array_equal(mine, other)
    assert ours[1] == theirs[1]
    assert len(ours[1]) == 3
    for name in ("scores.csv", "history.csv"):
        ours, theirs = ((folder_of(each) / name).read_bytes() for each in (config, wanted))
        assert ours == theirs
    metrics = json.loads((folder_of(config) / "metrics.json").read_text())
    assert metrics["epochs"] == 3
    assert len(pd.read_csv(world / "on" / "results.csv")) == 1
    job.run(config)
    assert "finished before" in capsys.readouterr().err


def test_fewer_epochs_cannot_be_had(world):
    config = config_of(world, "three", epochs=2)
    before = (folder_of(config) / "metrics.json").read_bytes()
    with pytest.raises(UsageError, match="--epochs=3, now 2: 3 are done, and fewer cannot be had"):
        job.run(config)
    assert (folder_of(config) / "metrics.json").read_bytes() == before
    with pytest.raises(UsageError, match="holds a run with --stride=16, now 8"):
        job.run(config.changed(epochs=4, stride=8))


def test_of_a_run_that_was_stopped_fewer_can_be_had_down_to_what_is_done(world, capsys):
    shutil.copytree(world / "one", world / "stopped")
    config = config_of(world, "stopped", epochs=9)
    (folder_of(config) / "metrics.json").unlink()
    (folder_of(config) / "flags.txt").write_text(config.resolved().to_flagfile())
    table = job.run(config.changed(epochs=2))
    assert "goes on after epoch 1 of 2" in capsys.readouterr().err
    assert table["epochs"].tolist() == [2]


@pytest.mark.parametrize(
    ("method", "flags"),
    [
        ("autoencoder", {"model": "small_net:Tiny"}),
        ("f_anogan", {}),  # its last epochs train another network
    ],
)
def test_steps_that_go_by_the_number_of_epochs_are_found(tmp_path, method, flags):
    sizes = {"image_size": 64, "patch_size": 32, "batch_size": 8, "num_patches": 8, "stride": 32}
    made = [configure(method=method, epochs=n, **sizes, **flags).resolved() for n in (8, 16)]
    if method == "autoencoder":
        longer.check(tmp_path, *made)
        return
    with pytest.raises(UsageError, match="goes by the number of epochs") as caught:
        longer.check(tmp_path, *made)
    assert "another --workdir, or --overwrite" in str(caught.value)
