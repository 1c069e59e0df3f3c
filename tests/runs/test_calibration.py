"""A run whose thresholds come from all training images, each scored out of fold."""

import dataclasses
import json
import shutil

import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

import cae_jax
from cae_jax import data
from cae_jax.data import synthetic
from cae_jax.reports import html
from cae_jax.runs import build, calibration, evaluate, job
from cae_jax.runs import cell as cells
from cae_jax.runs.config import Config, configure
from cae_jax.runs.train import load_trained
from cae_jax.training import cross_fit
from cae_jax.types import UsageError

SIDE, N = 32, 11


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("calibration")
    counts = {"n_train": N, "n_good": 3, "n_defective_per_kind": 1}
    synthetic.write(root / "in", ["tablet"], SIDE, 1, 0, **counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        patch.setattr(evaluate, "_plot", lambda *_: None)
        yield root


def config_of(world, workdir, **changes):
    flags = {"dataset": "folder", "data_dir": str(world / "in"), "category": "tablet"}
    flags |= {"method": "variation_model", "image_size": SIDE, "distance": "deviation"}
    return configure(**(flags | {"workdir": str(world / workdir), "minimum_area": 6} | changes))


def cell_in(world, workdir):
    return world / workdir / "tablet" / "variation_model" / "seed_0"


def frame_in(world, workdir):
    return pd.read_csv(cell_in(world, workdir) / "scores.csv")


def metrics_in(world, workdir):
    return json.loads((cell_in(world, workdir) / "metrics.json").read_text())


def point_of(metrics, rule, percent=None):
    (found,) = [
        point
        for point in metrics["operating_points"]
        if (point["rule"], point["percent"], point["leaks"]) == (rule, percent, False)
    ]
    return found


@pytest.fixture(scope="module")
def finished(world):
    """A run by the defaults."""
    job.run(config_of(world, "finished"))
    return cells.find(world / "finished")[0].config


@pytest.fixture(scope="module")
def maps(finished):
    """NumPy's maps of the training images, each by a model without its fold, in float64."""
    split = build.read_split(finished)
    images = 255 * split.train[..., 0].astype(float)
    found = np.zeros_like(images)
    for own, learned in cross_fit.folds(split.groups, 5, 0):
        good = images[learned]
        found[own] = np.abs(images[own] - good.mean(axis=0)) / (good.std(axis=0) + 1)
    return found


def test_all_training_images_are_scored_out_of_fold(world, finished, maps):
    assert (finished.folds, finished.validation_fraction) == (5, 0.0)
    frame, metrics = frame_in(world, "finished"), metrics_in(world, "finished")
    unseen, test = (frame[frame["split"] == name] for name in ("out-of-fold", "test"))
    assert (len(unseen), len(test), len(frame)) == (N, 7, N + 7)
    assert list(unseen["path"]) == sorted(unseen["path"])
    np.testing.assert_allclose(unseen["distance"], maps.max(axis=(1, 2)), rtol=1e-4)
    assert (metrics["n_train"], metrics["n_validation"], metrics["n_out_of_fold"]) == (N, 0, N)
    assert metrics["cross_fit_seconds"] > 0
    good = np.sort(unseen["distance"])
    at = point_of(metrics, "ceil", 90)
    assert (at["threshold"], at["source"], at["n"]) == (good[9], "out-of-fold good", N)
    assert point_of(metrics, "conformal", 90)["threshold"] == good[-1]  # ceil(12 * .9) = 11
    assert point_of(metrics, "conformal", 95)["threshold"] == "inf"
    assert metrics["good_accuracy_val_90"] == at["good_accuracy"]
    for _, row in test.iterrows():
        assert row["p_value"] == pytest.approx((1 + (good >= row["distance"]).sum()) / (N + 1))


def test_the_run_s_own_model_learns_from_all(finished):
    trained = load_trained(cells.find(finished.folder)[0])
    images = build.read_split(finished).train.astype(float)
    ideal = trained.variables["params"]["ideal"]
    assert len(images) == N
    np.testing.assert_allclose(ideal, images.mean(axis=0), rtol=1e-5)


def test_the_minimum_area_is_of_the_maps_out_of_fold(world, finished, maps):
    """Any lower threshold leaves a region of six pixels on some map."""

    def largest(threshold):
        found = 0
        disc = [[0, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0]]
        for each in maps:
            mask = ndimage.binary_opening(each > threshold, np.array(disc, bool))
            labels, _ = ndimage.label(mask, np.ones((3, 3)))
            found = max(found, np.bincount(labels.ravel())[1:].max(initial=0))
        return found

    at = point_of(metrics_in(world, "finished"), "min_area")
    assert (at["source"], at["n"]) == ("out-of-fold good", N)
    assert largest(at["threshold"] * 1.0001) < 6 <= largest(at["threshold"] * 0.9999)


def test_served_with_the_same_threshold(world, finished):
    frame = frame_in(world, "finished")
    detector = cae_jax.load(world / "finished")
    at = detector.threshold
    assert (at.source, at.leaks, at.n) == ("out-of-fold good", False, N)
    row = frame[frame["split"] == "test"].iloc[0]
    found = detector.score(world / "in" / "tablet" / row["path"])
    assert found.p_value == row["p_value"]
    page = html.write(world / "finished")[0].read_text()
    assert "90 % of out-of-fold good" in page


def test_judged_anew_it_is_as_if_it_had_always_been(world, finished, capsys):
    changes = {"polarity": "dark", "false_alarms": 0.25}
    shutil.copytree(world / "finished", world / "again")
    job.evaluate_again(world / "again", changes=changes)
    job.run(config_of(world, "other", **changes))
    one, two = (cell_in(world, name) / "scores.csv" for name in ("again", "other"))
    assert one.read_bytes() == two.read_bytes()
    assert one.read_bytes() != (cell_in(world, "finished") / "scores.csv").read_bytes()
    good = np.sort(frame_in(world, "again").query("split == 'out-of-fold'")["distance"])
    metrics = metrics_in(world, "again")
    at = point_of(metrics, "false_alarms")
    assert (at["threshold"], at["rate"]) == (good[8], 0.25)  # ceil(12 * .75) = 9
    assert metrics["good_accuracy_false_alarms"] == at["good_accuracy"]
    assert cae_jax.load(world / "again").threshold.value == good[8]
    said = "false alarms about 25 %: needs 3 good images, has 11"
    assert said in capsys.readouterr().err
    assert said in html.write(world / "again")[0].read_text()
    asked = cae_jax.load(world / "again", false_alarms=0.01).threshold
    assert (asked.value, asked.rate) == (good[-1], 0.01)
    said = "8.33 %, the strictest that 11 good images allow: no finite threshold can promise 1 %"
    assert said in capsys.readouterr().err
    assert cae_jax.load(world / "again", 50).threshold.value == good[5]
    assert cae_jax.load(world / "again", false_alarms=0).threshold.value == good[9]
    with pytest.raises(UsageError, match=r"percent=50 and false_alarms=0\.1: take one"):
        cae_jax.load(world / "again", 50, 0.1)


def test_a_run_of_before_is_judged_as_it_was(world, capsys):
    """Its flags know of no folds, and hold a tenth out."""
    job.run(config_of(world, "before", folds=0))
    flags, table = (cell_in(world, "before") / name for name in ("flags.txt", "scores.csv"))
    lines = flags.read_text().splitlines(keepends=True)
    new = ("--folds=", "--false_alarms=")
    flags.write_text("".join(line for line in lines if not line.startswith(new)))
    found = Config.from_flagfile(flags.read_text(), "flags.txt")
    assert (found.folds, found.validation_fraction) == (0, 0.1)
    before, threshold = table.read_bytes(), cae_jax.load(world / "before").threshold
    assert (threshold.source, threshold.n) == ("validation good", 1)
    job.evaluate_again(world / "before")
    assert table.read_bytes() == before
    with pytest.raises(UsageError, match="holds a run with --folds=0, now 5"):
        job.run(config_of(world, "before"))
    job.run(config_of(world, "before", validation_fraction=0.1))
    assert "finished before" in capsys.readouterr().err


def test_a_single_image_has_no_threshold_of_its_own(world, capsys):
    (world / "few" / "tablet").mkdir(parents=True)
    (world / "few" / "tablet" / "test").symlink_to(world / "in" / "tablet" / "test")
    good = world / "few" / "tablet" / "train" / "good"
    good.mkdir(parents=True)
    shutil.copy(next((world / "in/tablet/train/good").iterdir()), good / "0.png")
    shutil.copy(good / "0.png", good / "1.png")  # the same again
    job.run(config_of(world, "single", data_dir=str(world / "few"), false_alarms=0.1))
    said = capsys.readouterr().err
    assert "are one image, which cannot be left out: no threshold from good images alone" in said
    assert "none for --false_alarms=0.1" in said
    assert set(frame_in(world, "single")["split"]) == {"test"}
    assert metrics_in(world, "single")["n_train"] == 2
    assert cae_jax.load(world / "single").threshold.leaks


def test_memory_holds_a_few_maps(world, finished, monkeypatch):
    """In chunks, and with fewer maps kept, the same comes out."""
    split, trained = build.read_split(finished), load_trained(cells.find(finished.folder)[0])
    whole = calibration.calibrate(finished, split, trained)
    assert whole.maps.shape == (N, SIDE, SIDE)
    monkeypatch.setattr(calibration, "_AT_ONCE", 2)
    monkeypatch.setattr(calibration, "_KEPT", 3)
    found = calibration.calibrate(finished, split, trained)
    np.testing.assert_array_equal(found.maps, whole.maps[[0, N // 2, N - 1]])
    assert found.area == whole.area
    for name, values in whole.distances.items():
        np.testing.assert_array_equal(found.distances[name], values)


def test_duplicates_are_left_out_together(finished):
    split = build.read_split(finished)
    assert len(set(split.groups)) == N
    train = split.train.copy()
    train[[4, 9]] = train[2]
    repeated = data.hold_out(dataclasses.replace(split, train=train), 0.0, 0)
    assert repeated.groups[2] == repeated.groups[4] == repeated.groups[9]
    assert len(set(repeated.groups)) == N - 2
    held = data.hold_out(dataclasses.replace(split, train=train), 0.4, 0)
    assert len(held.groups) == len(held.train) < N


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        ({}, (5, 0.0)),
        ({"folds": 3}, (3, 0.0)),
        ({"folds": 0}, (0, 0.1)),
        ({"validation_fraction": 0.3}, (0, 0.3)),
        ({"validation_fraction": 0.0}, (0, 0.0)),
        ({"validation_fraction": 0.1, "folds": 4}, (4, 0.0)),
        ({"method": "f_anogan"}, (0, 0.1)),
    ],
)
def test_what_the_flags_ask_for(flags, wanted):
    found = configure(**({"method": "variation_model"} | flags)).resolved()
    assert (found.folds, found.validation_fraction) == wanted
    assert found.resolved() == found
    again = found.changed(validation_fraction=0.2).resolved()
    assert (again.folds, again.validation_fraction) == (0, 0.2)


def test_a_method_may_have_a_number_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "fork_of_three.py").write_text(
        "import dataclasses\n"
        "from cae_jax.methods import variation_model\n"
        "from cae_jax.methods.variation_model import make\n"
        "from cae_jax.options import flag\n"
        "@dataclasses.dataclass(frozen=True)\n"
        "class Options(variation_model.Options):\n"
        "    folds: int = flag(3, 'of cross-fitting')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    found = configure(method="fork_of_three").resolved()
    assert (found.folds, found.options.folds, found.validation_fraction) == (3, 3, 0.0)
    held_out = configure(method="fork_of_three", validation_fraction=0.2).resolved()
    assert (held_out.folds, held_out.options.folds) == (0, 0)
