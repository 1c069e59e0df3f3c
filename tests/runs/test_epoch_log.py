"""What a run says of each epoch while it trains: in history.csv, and where --log_to sends it."""

import functools
import importlib.util
import json
import os
import struct
import time
from types import SimpleNamespace

import pandas as pd
import pytest
import small_runs
from small_runs import folder_of

from cae_jax.runs import epoch_log, job
from cae_jax.runs.config import configure
from cae_jax.runs.machine.progress import Bar
from cae_jax.types import UsageError

config_of = functools.partial(small_runs.config_of, epochs=4, num_patches=64, batch_size=32)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("epochs")
    with small_runs.images_in(root, "tablet"):
        yield root


@pytest.fixture(scope="module")
def straight(world):
    config = config_of(world, "straight")
    job.run(config)
    return folder_of(config)


def scalars(folder):
    """{(tag, step): value} of TensorBoard's event files, the later ones last: records of a length,
    its checksum, a message, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for path in sorted(folder.glob("events.*")):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16
            if event.session_log.status == 1 and event.step:  # a start: what follows it is undone
                found = {key: value for key, value in found.items() if key[1] < event.step}
            found |= {(v.tag, event.step): v.simple_value for v in event.summary.value}
    return found


class Killed(BaseException):
    """Nobody catches it."""


def killed(config, step, monkeypatch):
    """Runs a config up to the end of a step of training."""
    steps = []

    def update(self, n, note=""):
        steps.append(note)
        if sum("epoch" in note for note in steps) == step:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Bar, "update", update)
        with pytest.raises(Killed):
            job.run(config)


def test_a_killed_run_leaves_the_rows_of_its_epochs(straight, world, capfd, monkeypatch):
    """Killed in the fourth epoch, with a checkpoint of the second alone: what is done again is in
    the table once, and it ends as one without a kill, to the byte."""
    config = config_of(world, "killed", checkpoint_every=2, log_to="jsonl,tensorboard")
    now = time.time()  # both starts in one second, which is all that an event file's name tells
    monkeypatch.setattr("tensorboardX.event_file_writer.time", SimpleNamespace(time=lambda: now))
    killed(config, 7, monkeypatch)
    folder = folder_of(config)
    rows = (straight / "history.csv").read_text().splitlines(keepends=True)
    assert (folder / "history.csv").read_text() == "".join(rows[:4])  # the head and three epochs
    assert {key[1] for key in scalars(folder / "tensorboard")} == {1, 2, 3}
    capfd.readouterr()
    job.run(config)
    told = capfd.readouterr().out.splitlines()
    for name in ("history.csv", "scores.csv"):
        assert (folder / name).read_bytes() == (straight / name).read_bytes()
    history = pd.read_csv(folder / "history.csv")
    lines = [json.loads(line) for line in told if line.startswith("{")]
    assert [line["epoch"] for line in lines] == [3, 4]
    of = {"event": "epoch", "category": "tablet", "run": "small_net.Tiny", "seed": 0, "epochs": 4}
    for line, (_, row) in zip(lines, history[2:].iterrows(), strict=True):
        assert line.pop("seconds") > 0
        assert line == of | row.to_dict()
    found = scalars(folder / "tensorboard")
    assert {key[1] for key in found} == {1, 2, 3, 4}
    for _, row in history.iterrows():
        for name in ("loss", "validation_loss"):
            assert found[name, row["epoch"]] == pytest.approx(row[name], rel=1e-6)


def test_what_cannot_be_told_is_said_before_anything_is_done(world, monkeypatch):
    with pytest.raises(UsageError, match=r"--log_to 'tensorbord': did you mean tensorboard\?"):
        job.plan([config_of(world, "none", log_to="jsonl,tensorbord")])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for name, package in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        said = f"{name} needs the package {package}, which is not installed: pip install -r req"
        with pytest.raises(UsageError, match=said):
            job.plan([config_of(world, "none", log_to=name)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(UsageError, match="wandb needs a home folder; HOME=FOLDER names one"):
        epoch_log.check("wandb")
    job.plan([config_of(world, "none", log_to="jsonl")])
    assert not (world / "none").exists()


def test_a_number_that_is_none_is_null(world, capsys):
    """Without images held out there is no validation loss."""
    config = config_of(world, "whole", epochs=1, validation_fraction=0.0, log_to="jsonl,wandb")
    job.run(config)
    (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("{")]
    assert json.loads(line)["validation_loss"] is None
    assert pd.read_csv(folder_of(config) / "history.csv")["validation_loss"].isna().all()
    (run,) = folder_of(config).glob("wandb/offline-run-*/*.wandb")
    assert b"loss" in run.read_bytes()


def test_a_log_is_no_part_of_a_run(world):
    one, other = (configure(log_to=text) for text in ("", "jsonl"))
    assert epoch_log.check("jsonl, ,jsonl") is None
    assert one.to_flagfile() != other.to_flagfile()
    job.run(config_of(world, "whole", epochs=1, validation_fraction=0.0))  # finished, not refused
