"""Run folders and commands of the versions before there were methods: they still work.

The folders in tests/fixtures/runs_before_methods.tar.xz were made by commit fe5a6e1 on synthetic
images, with `small_net:Tiny`: two finished runs, on L2 and on SSIM, one that was stopped in the
midst of its third epoch, and the tables of the same one that nobody stopped.
"""

import math
import pathlib
import tarfile

import numpy as np
import pandas as pd
import pytest

from cae_jax.data import synthetic
from cae_jax.reports import html
from cae_jax.runs import cell as cells
from cae_jax.runs import evaluate, job
from cae_jax.runs.config import Config
from cae_jax.serving import folder, trained
from cae_jax.types import UsageError

MADE = pathlib.Path(__file__).parents[1] / "fixtures" / "runs_before_methods.tar.xz"


@pytest.fixture
def world(tmp_path, monkeypatch):
    with tarfile.open(MADE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(evaluate, "_plot", lambda *_: None)
    return tmp_path


def scores_in(workdir):
    (path,) = workdir.rglob("scores.csv")
    return pd.read_csv(path)


@pytest.mark.parametrize(("name", "seed"), [("finished", 0), ("finished_ssim", 0)])
def test_a_finished_run_is_judged_again(world, name, seed):
    before = scores_in(world / name)
    job.evaluate_again(world / name)
    after = scores_in(world / name)
    assert list(after) == list(before)
    for column in ("distance", "l1", "l2", "ssim"):
        np.testing.assert_allclose(after[column], before[column], rtol=1e-5)
    assert html.write(world / name)[-1].exists()


def test_a_finished_run_is_loaded_and_scores(world):
    before = scores_in(world / "finished")
    opened = trained.open_run(world / "finished")
    split = synthetic.read("tablet", 64, 1, 0)
    table = before[before["split"] == "test"].set_index("path")
    for i in (0, 30):
        verdict = opened.detector.score(split.test[i])
        wanted = table.loc[split.test_paths[i]]
        assert verdict.distance == pytest.approx(wanted["distance"], rel=1e-5)
        assert verdict.p_value == pytest.approx(wanted["p_value"])
    held_out = before.loc[before["split"] == "validation", "distance"].sort_values().tolist()
    assert opened.judge.threshold.value == held_out[math.ceil(0.9 * len(held_out)) - 1]


def test_a_folder_is_scored(world):
    synthetic.write(world / "in", ["tablet"], 64, 1, 0, n_train=2, n_good=2, n_defective_per_kind=1)
    opened = trained.open_run(world / "finished_ssim")
    found = folder.score_folder(opened, world / "in/tablet/test", world / "out")
    assert found.n_images == 6


def test_a_stopped_run_goes_on_to_the_same_end(world, capsys):
    (cell,) = cells.find(world / "stopped")
    job.run(cell.config)
    assert "goes on after epoch 2 and 1 steps of 4" in capsys.readouterr().err
    history = [
        pd.read_csv(next((world / name).rglob("history.csv"))) for name in ("stopped", "straight")
    ]
    assert list(history[0]) == list(history[1])
    np.testing.assert_allclose(history[0], history[1], rtol=1e-5)
    ours, wanted = scores_in(world / "stopped"), scores_in(world / "straight")
    np.testing.assert_allclose(ours["distance"], wanted["distance"], rtol=1e-4)


def test_a_finished_run_is_not_done_again_and_another_one_is_refused(world, capsys):
    (cell,) = cells.find(world / "finished")
    job.run(cell.config)
    assert "finished before" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"holds a run with --learning_rate=.*, now 0\.5"):
        job.run(cell.config.changed(learning_rate=0.5))


def test_flags_are_read_as_they_were_written(world):
    text = next((world / "finished").rglob("flags.txt")).read_text()
    config = Config.from_flagfile(text, "flags.txt")
    assert config.method == "autoencoder"
    assert config.label == "small_net.Tiny"
    written = dict(line[2:].split("=", 1) for line in text.splitlines())
    again = dict(line[2:].split("=", 1) for line in config.to_flagfile().splitlines())
    since = {"method": "autoencoder", "folds": "0", "false_alarms": "0.0", "train_images": "0"}
    since |= {"intensity": "none", "joint": "false", "code": "0"}
    since |= {"corruption": "none", "corruption_strength": "0.0"}
    since |= {"early_stopping": "0", "log_to": "", "schedule": "constant", "schedule_options": ""}
    since |= {"gradient_clip": "0.0", "ema": "0.0", "bit_depth": "auto", "background": "none"}
    since |= {"layout": "auto", "good_name": "", "mask_pattern": "", "mask_ground": "auto"}
    since |= {"test_fraction": "0.0"}
    since |= {"resize": "stretch", "roi": "", "ignore": "", "tile": "0", "tile_overlap": "32"}
    since |= {"threshold": "", "checkpoint": "last", "csv": "plain", "images_in": "auto"}
    assert again == written | since
