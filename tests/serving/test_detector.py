"""A trained run as an object: it says of an image what the run itself wrote."""

import functools
import json
import math
import pathlib
import shutil

import numpy as np
import pandas as pd
import pytest
import small_runs
from PIL import Image

import cae_jax
from cae_jax.data import arrays
from cae_jax.runs import job
from cae_jax.training import checkpoints
from cae_jax.types import DataError, UsageError

config_of = functools.partial(small_runs.config_of, validation_fraction=0.3)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two categories, and a workdir "one" with a run on tablet, "two" with runs on both."""
    root = tmp_path_factory.mktemp("detector")
    with small_runs.images_in(root, "tablet", "weave", n_good=4, n_defective_per_kind=2):
        job.run(config_of(root, "one"))
        job.run(config_of(root, "two", category="all", epochs=1))
        yield root


def scores_of(world):
    return pd.read_csv(world / "one" / "tablet" / "small_net.Tiny" / "seed_0" / "scores.csv")


@pytest.fixture(scope="module")
def detector(world):
    return cae_jax.load(world / "one")


def test_what_is_printed_is_a_line_without_pixels(detector, world):
    said = repr(detector)
    assert str(world / "one") in said
    assert "tablet, small_net.Tiny, seed 0" in said
    assert f"l2 > {detector.threshold.value:.6g} is defective" in said
    verdict = detector.score(np.zeros((9, 9), np.uint8))
    split = arrays.split(np.zeros((40, 8, 9), np.uint8), np.zeros((2, 8, 9), np.uint8), [0, 1])
    assert f"{int(verdict.mask.sum())} of " in repr([verdict])
    assert "40 to learn from, 0 held out, 2 to judge, [8, 9, 1]" in repr(split)
    for line in (said, repr([verdict]), repr(split)):
        assert len(line.splitlines()) == 1
        assert len(line.replace(str(world), "")) < 200


def test_it_says_what_the_run_wrote(detector, world):
    frame = scores_of(world)
    held_out = frame.loc[frame["split"] == "validation", "distance"]
    assert len(held_out) == 3
    verdicts = []
    for path, distance in zip(frame["path"], frame["distance"], strict=True):
        file = world / "in" / "tablet" / path
        verdict = detector.score(str(file))
        assert verdict.distance == pytest.approx(distance, rel=1e-5)
        array = np.asarray(Image.open(file))
        assert array.dtype == np.uint8
        assert detector.score(array).distance == pytest.approx(distance, rel=1e-5)
        assert verdict.defective == (verdict.distance > verdict.threshold.value)
        verdicts.append(verdict.defective)
    # 90 % of three: all three must be called good
    assert verdicts == list(frame["distance"] > held_out.max())
    strict = cae_jax.load(world / "one", percent=1)
    images = [world / "in" / "tablet" / path for path in frame["path"]]
    verdicts = [strict.score(image).defective for image in images]
    assert verdicts == list(frame["distance"] > held_out.min())
    assert set(verdicts) == {False, True}


def test_residual_and_reconstruction(detector, world):
    file = world / "in" / "tablet" / "test" / "spot" / "000.png"
    verdict = detector.score(file)
    image = np.asarray(Image.open(file), np.float64)
    assert verdict.residual.shape == (64, 64)
    assert verdict.reconstruction.shape == (64, 64, 1)
    residual = (image - 255 * verdict.reconstruction[..., 0].astype(np.float64)) ** 2
    np.testing.assert_allclose(verdict.residual, residual, rtol=1e-3, atol=1e-2)
    assert verdict.distance == pytest.approx(residual.sum(), rel=1e-5)


def test_other_arrays(detector, world):
    image = np.asarray(Image.open(world / "in" / "tablet" / "test" / "good" / "000.png"))
    wanted = detector.score(image).distance
    for same in (image[..., None], image.astype(np.uint16) * 257, image / 255.0):
        assert detector.score(same).distance == pytest.approx(wanted, rel=1e-5)
    assert detector.score(np.stack([image] * 3, -1)).distance == pytest.approx(wanted, rel=1e-5)
    larger = np.kron(image, np.ones((3, 2), np.uint8))
    assert detector.score(larger).residual.shape == (64, 64)


def test_what_is_no_image_is_named(detector, tmp_path):
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(DataError, match=r"text\.png"):
        detector.score(tmp_path / "text.png")
    with pytest.raises(DataError, match=r"missing\.png"):
        detector.score(str(tmp_path / "missing.png"))
    with pytest.raises(DataError, match=r"\[64, 64, 5\]"):
        detector.score(np.ones((64, 64, 5)))
    with pytest.raises(DataError, match="int64"):
        detector.score(np.ones((64, 64), np.int64))
    with pytest.raises(DataError, match=r"^image 1: an image array has integer"):
        detector.score_batch([np.ones((64, 64)), np.ones((64, 64), np.int64)])


@pytest.mark.parametrize(("percent", "k"), [(100, 3), (67, 3), (66, 2), (34, 2), (33, 1)])
def test_the_threshold_is_of_the_held_out_images(world, percent, k):
    frame = scores_of(world)
    held_out = np.sort(frame.loc[frame["split"] == "validation", "distance"])
    threshold = cae_jax.load(str(world / "one"), percent=percent).threshold
    assert threshold.value == held_out[k - 1]
    assert (threshold.source, threshold.percent, threshold.n) == ("validation good", percent, 3)
    assert not threshold.leaks


def test_without_validation_it_is_of_the_good_test_images(world, tmp_path):
    config = config_of(world, tmp_path, validation_fraction=0.0, epochs=1)
    job.run(config)
    detector = cae_jax.load(tmp_path)
    folder = small_runs.folder_of(config)
    frame = pd.read_csv(folder / "scores.csv")
    good = frame.loc[frame["label"] == 0, "distance"].sort_values().tolist()
    assert detector.threshold.percent == 70  # the thesis's, by which the report goes too
    assert detector.threshold.value == good[math.ceil(0.7 * len(good)) - 1]
    assert cae_jax.load(tmp_path, percent=90).threshold.value == good[-1]
    assert detector.threshold.leaks
    scores = (folder / "scores.csv").read_text().splitlines()
    bad = [line for line in scores if ",good," not in line]
    (folder / "scores.csv").write_text("\n".join(bad) + "\n")
    with pytest.raises(DataError, match=r"seed_0: no good image"):
        cae_jax.load(tmp_path)


def test_one_of_several_must_be_named(world):
    with pytest.raises(UsageError, match="2 runs fit") as caught:
        cae_jax.load(world / "two")
    for name in ("tablet", "weave"):
        assert f"{name}/small_net.Tiny/seed_0" in str(caught.value)
        assert cae_jax.load(world / "two", category=name).model.category == name
    with pytest.raises(UsageError, match="0 runs fit"):
        cae_jax.load(world / "two", category="tablet", seed=5)
    with pytest.raises(UsageError, match="2 runs fit"):
        cae_jax.load(world / "two", model="small_net:Tiny", seed=0)


def test_no_run_and_a_wrong_percent(world, tmp_path):
    with pytest.raises(UsageError, match=f"--workdir={tmp_path}: no run in it"):
        cae_jax.load(tmp_path)
    with pytest.raises(UsageError, match="percent must be an integer from 1 to 100, got 0"):
        cae_jax.load(world / "one", percent=0)


def test_a_run_that_was_not_finished(world, tmp_path):
    cell = pathlib.Path("tablet", "small_net.Tiny", "seed_0")
    shutil.copytree(world / "one" / cell, tmp_path / cell)
    (tmp_path / cell / "scores.csv").unlink()
    with pytest.raises(DataError, match=r"scores\.csv: cannot be read"):
        cae_jax.load(tmp_path)
    shutil.rmtree(tmp_path / cell / "checkpoints" / "2")
    with pytest.raises(DataError, match="seed_0: not trained to the end"):
        cae_jax.load(tmp_path)


def test_a_damaged_checkpoint_is_named(world, tmp_path):
    cell = pathlib.Path("tablet", "small_net.Tiny", "seed_0")
    shutil.copytree(world / "one" / cell, tmp_path / cell)
    for path in (tmp_path / cell / "checkpoints" / "2" / "variables").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:5])
    with pytest.raises(DataError, match=r"2/variables/\S+ has 5 bytes, not \d+") as caught:
        cae_jax.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_rule_and_a_checkpoint_in_place_of_the_runs_own(world, capsys):
    frame = scores_of(world)
    held_out = frame.loc[frame["split"] == "validation", "distance"]
    test = frame[frame["split"] == "test"]
    good = test.loc[test["label"] == 0, "distance"]
    assert cae_jax.load(world / "one", threshold="max").threshold.value == held_out.max()
    assert "leaks" not in capsys.readouterr().err
    thesis = cae_jax.load(world / "one", threshold="thesis:50")
    assert thesis.threshold.value == sorted(good)[1]
    assert "the threshold (thesis, 50 % of test good) leaks" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"conformal:0\.1: needs 9 unseen good images, has 3"):
        cae_jax.load(world / "one", threshold="conformal:0.1")
    with pytest.raises(UsageError, match="percent=9 and threshold=max: take one of them"):
        cae_jax.load(world / "one", percent=9, threshold="max")
    best = cae_jax.load(world / "two", category="weave", checkpoint="best")
    last = cae_jax.load(world / "two", category="weave")
    assert best.threshold == last.threshold  # of one epoch


def test_another_checkpoint_brings_the_threshold_of_its_own_scores(world, monkeypatch, capsys):
    """The best of this run is made its first epoch."""
    shutil.copytree(world / "one", world / "best")
    (cell,) = (world / "best").glob("*/*/seed_0")
    for step, loss in (("1", 0.0), ("2", 9.0)):
        notes = cell / "checkpoints" / step / "notes.json"
        found = json.loads(notes.read_text())
        notes.write_text(json.dumps(found | {"loss": loss}))
        monkeypatch.setattr(checkpoints, "_fault", lambda _: "")  # it was altered
    first = cae_jax.load(world / "best", checkpoint="best", threshold="max")
    files = sorted((world / "in" / "tablet").glob("train/good/*.png"))
    names = [file.relative_to(world / "in" / "tablet").as_posix() for file in files]
    frame = scores_of(world)
    held_out = set(frame.loc[frame["split"] == "validation", "path"])
    distances = [
        first.score(f).distance for f, name in zip(files, names, strict=True) if name in held_out
    ]
    assert first.threshold.value == pytest.approx(max(distances), rel=1e-5)
    assert first.threshold.value != frame.loc[frame["path"].isin(held_out), "distance"].max()
    job.evaluate_again(world / "best", changes={"checkpoint": "best", "threshold": "f1_best"})
    assert "best F1 (oracle)) leaks" in capsys.readouterr().err
    metrics = json.loads((cell / "metrics.json").read_text())
    *_, asked = metrics["operating_points"]
    assert (asked["rule"], asked["asked"], asked["leaks"]) == ("f1_best", True, True)
    assert len(pd.read_csv(cell / "history.csv")) == 2  # of all training
    detector = cae_jax.load(world / "best")
    assert detector.threshold.value == asked["threshold"]
    job.evaluate_again(world / "best", changes={"false_alarms": 0.4, "csv": "excel"})
    for table in (cell / "scores.csv", world / "best" / "results.csv"):
        assert table.read_bytes().startswith(b"\xef\xbb\xbf")
    assert cae_jax.load(world / "best").threshold.rule == "false_alarms"
