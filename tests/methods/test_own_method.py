"""The README's method of one's own, word for word, taken through everything that a method gets."""

import sys

import numpy as np
import pandas as pd
import pytest
from command_lines import ROOT, run_all
from test_docs import marked

from cae_jax import data, methods
from cae_jax.data import synthetic
from cae_jax.reports import html
from cae_jax.runs import dry_run, evaluate, job, train
from cae_jax.runs.config import configure
from cae_jax.scoring import scorer
from cae_jax.serving import folder, trained
from cae_jax.training import cross_fit
from cae_jax.types import UsageError

NAME, SIDE, WINDOW = "my_package.my_method", 32, 3


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The method as a module that can be imported, and images."""
    root = tmp_path_factory.mktemp("own")
    (root / "my_package").mkdir()
    (root / "my_package" / "__init__.py").touch()
    (root / "my_package" / "my_method.py").write_text(marked("method"))
    counts = {"n_train": 12, "n_good": 3, "n_defective_per_kind": 1}
    synthetic.write(root / "in", ["weave"], SIDE, 1, 0, **counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield root
    methods.build.cache_clear()
    for name in (NAME, "my_package"):
        sys.modules.pop(name, None)


def config_of(world, workdir, **changes):
    flags = {"dataset": "folder", "data_dir": str(world / "in"), "category": "weave"}
    flags |= {"image_size": SIDE, "method": NAME, "window": WINDOW, "workdir": str(world / workdir)}
    return configure(**(flags | changes))


def cell_in(world, workdir):
    return world / workdir / "weave" / NAME / "seed_0"


@pytest.fixture(scope="module")
def finished(world):
    """A finished run with its plots."""
    config = config_of(world, "finished")
    job.run(config)
    return config


def split_of(config):
    c = config.resolved()
    split = data.read(c.dataset, c.data_dir, c.category, c.frame, c.seed)
    return data.hold_out(split, c.validation_fraction, c.seed)


def rx_maps(train, images):
    """Reed and Yu's distance of every neighbourhood, by loops and in float64: [n, S, S]."""
    n, w = SIDE - WINDOW + 1, WINDOW
    mean = train.mean(dtype=np.float64)

    def neighbourhoods(image):
        return np.array(
            [
                image[row : row + w, column : column + w].ravel() - mean
                for row in range(n)
                for column in range(n)
            ]
        )

    rows = np.concatenate([neighbourhoods(image.astype(np.float64)) for image in train])
    covariance = rows.T @ rows / len(rows) + 1e-4 * np.eye(w * w)
    found = []
    for image in images:
        each = neighbourhoods(image.astype(np.float64))
        found.append([row @ np.linalg.solve(covariance, row) for row in each])
    return np.array(found).reshape(-1, n, n)


def resized(maps):
    """To the images' size: linear between the centers of pixels, the outer ones going on."""
    n = maps.shape[1]
    at = np.clip((np.arange(SIDE) + 0.5) * n / SIDE - 0.5, 0, n - 1)
    low = np.minimum(at.astype(int), n - 2)
    share = at - low
    maps = maps[:, low] * (1 - share)[:, None] + maps[:, low + 1] * share[:, None]
    return maps[:, :, low] * (1 - share) + maps[:, :, low + 1] * share


@pytest.fixture(scope="module")
def wanted(finished):
    """NumPy's maps of the training images, each by a model without its fold, and of the test
    images, in the order of scores.csv."""
    split = split_of(finished)
    unseen = {}
    for own, learned in cross_fit.folds(split.groups, 5, 0):
        found = rx_maps(split.train[learned], split.train[own])
        unseen |= dict(zip(own.tolist(), found, strict=True))
    maps = [*(unseen[i] for i in range(len(split.train))), *rx_maps(split.train, split.test)]
    return resized(np.array(maps))


def test_scores_are_numpys(world, finished, wanted):
    frame = pd.read_csv(cell_in(world, "finished") / "scores.csv")
    assert list(frame)[5:] == ["rx", "p_value"]
    np.testing.assert_allclose(frame["distance"], wanted.sum(axis=(1, 2)), rtol=1e-3)


def test_everything_is_written(world, finished):
    files = {path.name for path in cell_in(world, "finished").iterdir()}
    assert {"scores.csv", "metrics.json", "gallery.png", "report.html", "checkpoints"} <= files
    assert not {"history.csv", "training_curve.png"} & files
    assert (world / "finished" / "results.csv").exists()


def test_another_scoring_needs_no_other_fit(world, finished, wanted, monkeypatch):
    job.run(config_of(world, "judged_again"))
    monkeypatch.setattr(train, "fit", None)
    job.evaluate_again(world / "judged_again", changes={"image_score": "max"})
    frame = pd.read_csv(cell_in(world, "judged_again") / "scores.csv")
    np.testing.assert_allclose(frame["distance"], wanted.max(axis=(1, 2)), rtol=1e-3)
    with pytest.raises(UsageError, match="--window=3, now 5"):
        job.run(config_of(world, "finished", window=5))


def test_a_folder_and_an_image_get_the_scores_of_the_run(world, finished):
    opened = trained.open_run(world / "finished")
    images = world / "in" / "weave"
    found = folder.score_folder(opened, images / "test", world / "scored", save_maps=True)
    run = pd.read_csv(cell_in(world, "finished") / "scores.csv")
    run = run[run["split"] == "test"].reset_index(drop=True)
    scored = pd.read_csv(world / "scored" / "scores.csv")
    assert list("test/" + scored["path"]) == list(run["path"])
    np.testing.assert_allclose(scored["distance"], run["distance"], rtol=1e-5)
    np.testing.assert_array_equal(scored["p_value"], run["p_value"])
    assert found.n_defective == (run["distance"] > opened.judge.threshold.value).sum()
    one = opened.detector.score(images / run["path"][0])
    assert one.distance == pytest.approx(run["distance"][0], rel=1e-5)
    assert one.reconstruction is None
    assert one.residual.shape == one.mask.shape == (SIDE, SIDE)


def test_the_report_names_it(world, finished):
    page, overview = html.write(world / "finished")
    for path in (page, overview):
        assert NAME in path.read_text()


def test_stopped_before_it_was_scored_it_is_not_fitted_again(world, finished, monkeypatch):
    config = config_of(world, "stopped")
    with monkeypatch.context() as patch:
        patch.setattr(scorer, "score_all", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            job.run(config)
    assert not (cell_in(world, "stopped") / "metrics.json").exists()
    monkeypatch.setattr(train, "fit", None)
    monkeypatch.setattr(evaluate, "_plot", lambda *_: None)
    job.run(config)
    one, other = (cell_in(world, name) / "scores.csv" for name in ("stopped", "finished"))
    assert one.read_bytes() == other.read_bytes()


def test_a_dry_run_counts_what_it_will_learn(world, finished):
    said = dry_run.forecast(job.plan([config_of(world, "dry")]))
    assert f"{NAME}: {1 + WINDOW**4} parameters" in said  # a mean, an inverse of 9 x 9
    assert "12 images to train on, 7 to judge" in said
    assert not (world / "dry").exists()
    assert "0 new, 0 go on, 1 finished" in dry_run.forecast(job.plan([finished]))


def test_on_the_command_line(world):
    run = ["--dataset=folder", "--data_dir=in", f"--method={NAME}", f"--image_size={SIDE}"]
    score = ["--workdir=line", "--images=in/weave/test", "--output=scored_by_line"]
    lines = {
        "help": ("run", [f"--method={NAME}", "--help"], ""),
        "of another": ("run", [*run, "--epochs=3"], ""),
        "out of range": ("run", [*run, "--window=16"], ""),
        "run": ("run", [*run, "--workdir=line"], ""),
        "evaluate": ("evaluate", ["--workdir=line", "--residual_smooth=1"], ""),
        "score": ("score", score, ""),
        "report": ("report", ["--workdir=line"], ""),
    }
    path = f"{world}:{ROOT}"
    found = run_all(lines, world, PYTHONPATH=path)
    assert "--window: side of a neighbourhood" in found["help"][1]
    of_another = "--epochs: a flag of --method=anogan or autoencoder or bigan"
    assert of_another in found["of another"][2]
    assert "--window=16: must be from 1 to 15" in found["out of range"][2]
    assert [found[name][0] for name in ("of another", "out of range")] == [2, 2]
    for name in ("run", "evaluate", "score", "report"):
        assert found[name][0] in (0, "none"), found[name]
    assert NAME[:13] in found["run"][1]
    assert "7 images scored" in found["score"][1]
