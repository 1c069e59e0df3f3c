"""Runs with a schedule, a clip, averaged parameters, early stopping: stopped anywhere they end as
straight ones, to the bit."""

import functools
import json
import os
import pathlib
import signal

import pandas as pd
import pytest
import small_runs
from small_runs import folder_of

from cae_jax.runs import job
from cae_jax.runs.machine.progress import Bar
from cae_jax.types import DataError, UsageError

GUIDED = {"schedule": "warmup_cosine_decay", "gradient_clip": 0.1, "ema": 0.8}
# After the fourth step nothing is learned, so that the loss of epoch 2 is the lowest for good.
EARLY = {"epochs": 50, "early_stopping": 2, "schedule": "piecewise_constant"}
EARLY |= {"schedule_options": "4=0"}
config_of = functools.partial(small_runs.config_of, epochs=3)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("early")
    with small_runs.images_in(root, "tablet"):
        yield root


def outcome(config):
    folder = folder_of(config)
    return [(folder / name).read_bytes() for name in ("history.csv", "scores.csv")]


def interrupted(config, step, monkeypatch):
    """Runs a config up to Ctrl-C at a step of training, in the midst of an epoch of two."""
    steps = []

    def update(self, n, note=""):
        steps.extend([note] if "epoch" in note else [])
        if len(steps) == step:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "update", update)
        with pytest.raises(KeyboardInterrupt):
            job.run(config)


@pytest.mark.parametrize("asked", [GUIDED, EARLY], ids=["guided", "early"])
def test_a_run_goes_on_to_the_bit(asked, world, monkeypatch, capsys):
    name = "early" if "early_stopping" in asked else "guided"
    straight = config_of(world, name, **asked)
    job.run(straight)
    stopped = config_of(world, f"{name}_stopped", **asked)
    interrupted(stopped, 3, monkeypatch)
    job.run(stopped)
    assert outcome(stopped) == outcome(straight)
    plain = config_of(world, "plain")
    job.run(plain)
    assert outcome(straight) != outcome(plain)
    found = json.loads((folder_of(straight) / "metrics.json").read_text())
    assert (found["epochs"], found["epochs_done"]) == ((50, 4) if name == "early" else (3, 3))
    if name == "early":
        assert (
            "stopped early, after epoch 4 of 50: for 2 epochs the loss" in capsys.readouterr().err
        )
        losses = pd.read_csv(folder_of(straight) / "history.csv")["validation_loss"]
        assert losses[1] == losses[2] == losses[3] < losses[0]


def test_what_ended_early_is_trained_out(world, monkeypatch):
    """It is judged anew from its last checkpoint, and not gone on with; one that has some patience
    left is not trained to the end."""
    config = config_of(world, "again", **EARLY, checkpoint_every=3)
    job.run(config)
    before, folder = outcome(config), folder_of(config)
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 50
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"3", "4"}
    job.evaluate_again(pathlib.Path(config.workdir))
    (folder / "metrics.json").unlink()
    job.run(config)
    assert outcome(config) == before
    flags = (folder / "flags.txt").read_text()
    (folder / "flags.txt").write_text(flags.replace("early_stopping=2", "early_stopping=3"))
    with pytest.raises(DataError, match=r"not trained to the end|early_stopping is 2, not 3"):
        job.evaluate_again(pathlib.Path(config.workdir))


def test_what_has_no_best_epoch_cannot_stop_early(world):
    config = config_of(world, "none").changed(method="f_anogan", early_stopping=3)
    with pytest.raises(UsageError, match=r"--early_stopping=3: --method=f_anogan has no loss that"):
        job.plan([config])
