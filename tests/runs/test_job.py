"""The main job as a whole, on images of 64 pixels: what it writes, and that it is exact."""

import json
import pathlib
import shutil

import jax
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score
from small_runs import config_of, folder_of, killed

from cae_jax import data, models
from cae_jax.data import images, synthetic
from cae_jax.data.frame import Frame
from cae_jax.methods import autoencoder
from cae_jax.reports import results
from cae_jax.runs import cell as cells
from cae_jax.runs import evaluate, job, train
from cae_jax.runs.config import Config
from cae_jax.scoring import scorer
from cae_jax.training import loop
from cae_jax.training.checkpoints import Checkpoints
from cae_jax.types import CaeError, DataError, UsageError

ROOT = pathlib.Path(__file__).parents[2]
TIMES = ("ms_per_image", "ms_per_patch", "train_seconds")
FILES = {
    *("scores.csv", "good.csv", "defective.csv", "history.csv", "left_out.csv", "metrics.json"),
    *("flags.txt", "versions.json", "training_curve.png", "whiskers.png", "histogram.png"),
    *("gallery.png", "checkpoints", "curves.json", "examples.npz", "report.html"),
    *("duplicates.csv", "fingerprints.csv"),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder with two categories of 10 training, 4 good and 4 defective images, 64 pixels."""
    root = tmp_path_factory.mktemp("runs")
    counts = {"n_train": 10, "n_good": 4, "n_defective_per_kind": 1}
    synthetic.write(root / "in", ["tablet", "weave"], 64, 1, 0, **counts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        yield root


@pytest.fixture
def undrawn(monkeypatch):
    """Leaves the plots out: they take most of a tiny run's time."""
    monkeypatch.setattr(evaluate, "_plot", lambda *_: None)


def metrics_of(cell):
    found = json.loads((cell / "metrics.json").read_text())
    assert all(found.pop(name) > 0 for name in TIMES)
    return found


def last_checkpoints(*configs):
    template = loop.fresh_state(configs[0].build().learn, configs[0].seed)
    for config in configs:
        with Checkpoints(folder_of(config) / "checkpoints") as checkpoints:
            yield checkpoints.restore(template)


@pytest.fixture(scope="module")
def straight(world):
    """A finished run of the thesis's model."""
    config = config_of(world, world / "straight", model="bergmann")
    table = job.run(config)
    return config, folder_of(config), table


@pytest.fixture(scope="module")
def tiny(world):
    """A finished run of the tiny model."""
    config = config_of(world, world / "tiny")
    job.run(config)
    return config, folder_of(config)


def test_everything_is_written(straight, world):
    config, cell, table = straight
    assert {path.name for path in cell.iterdir()} == FILES
    assert sorted(path.name for path in (cell / "checkpoints").iterdir()) == ["1", "2"]
    for path in cell.glob("*.png"):
        with Image.open(path) as image:
            assert min(image.size) > 200, path
            assert np.ptp(np.asarray(image.convert("L"))) > 100, path
    left_out = pd.read_csv(cell / "left_out.csv")
    assert list(left_out.columns) == ["path", "cause"]
    history = pd.read_csv(cell / "history.csv")
    assert list(history["epoch"]) == [1, 2]
    assert (history[["loss", "validation_loss"]] > 0).all(axis=None)
    versions = json.loads((cell / "versions.json").read_text())
    assert versions["jax"] == jax.__version__
    assert versions["numpy"] == np.__version__
    assert versions["seed"] == 0
    assert len(versions["data_fingerprint"]) == 64
    assert Config.from_flagfile((cell / "flags.txt").read_text(), "") == config.resolved()
    row = pd.read_csv(world / "straight" / "results.csv").iloc[0]
    accuracies = [f"{n}_accuracy_{p}" for n in ("good", "defect") for p in (70, 80, 90, 100)]
    wanted = {"dataset": "folder", "category": "tablet", "model": "bergmann", "seed": 0}
    wanted |= {"epochs": 2, "n_train": 9, "n_good": 4, "n_defective": 4}
    assert {name: row[name] for name in wanted} == wanted
    found = json.loads((cell / "metrics.json").read_text())
    for name in [*accuracies, "image_auroc", "ms_per_image", "train_seconds"]:
        assert row[name] == found[name] == table[name].iloc[0], name


def test_scores_name_every_image_once(straight, world):
    _, cell, _ = straight
    frame = pd.read_csv(cell / "scores.csv")
    columns = "path,label,defect_kind,distance,split,l1,l2,ssim,p_value"
    assert ",".join(frame.columns) == columns
    tablet = world / "in" / "tablet"
    test = sorted(p.relative_to(tablet).as_posix() for p in tablet.glob("test/*/*.png"))
    of_test = frame[frame["split"] == "test"]
    assert list(of_test["path"]) == test
    assert list(of_test["defect_kind"]) == [path.split("/")[1] for path in test]
    assert list(of_test["label"]) == [int(not path.startswith("test/good/")) for path in test]
    held_out = frame[frame["split"] == "validation"]
    assert len(held_out) == 1
    assert (tablet / held_out["path"].iloc[0]).parent == tablet / "train" / "good"
    for label, name in enumerate(("good.csv", "defective.csv")):
        part = of_test.loc[of_test["label"] == label, ["path", "distance"]]
        pd.testing.assert_frame_equal(pd.read_csv(cell / name), part.reset_index(drop=True))


def test_metrics_follow_from_the_scores(straight):
    _, cell, _ = straight
    frame = pd.read_csv(cell / "scores.csv")
    test, held_out = frame[frame["split"] == "test"], frame[frame["split"] == "validation"]
    found = json.loads((cell / "metrics.json").read_text())
    assert found["image_auroc"] == pytest.approx(roc_auc_score(test["label"], test["distance"]))
    good = np.sort(test.loc[test["label"] == 0, "distance"])
    defective = test.loc[test["label"] == 1, "distance"]
    for percent, k in ((70, 3), (80, 4), (90, 4), (100, 4)):  # of the four good images
        assert found[f"good_accuracy_{percent}"] == k / 4
        assert found[f"defect_accuracy_{percent}"] == (defective > good[k - 1]).mean()
        leak_free = held_out["distance"].iloc[0]
        assert found[f"good_accuracy_val_{percent}"] == (good <= leak_free).mean()
        assert found[f"defect_accuracy_val_{percent}"] == (defective > leak_free).mean()


def plain_distance(reconstruct, variables, image, size, stride):
    """Sec. 4.1.2 to 4.1.5 by loops: patches, reconstruction, average, squared differences."""
    height, width, _ = image.shape
    padded = np.pad(image, ((0, size), (0, size), (0, 0)), "edge")
    total, count = np.zeros(padded.shape), np.zeros(padded.shape)
    places = [
        np.s_[row : row + size, column : column + size]
        for row in range(0, height, stride)
        for column in range(0, width, stride)
    ]
    made = reconstruct(variables, np.stack([padded[place] for place in places])).output
    for place, patch in zip(places, np.asarray(made, np.float64), strict=True):
        total[place] += patch
        count[place] += 1
    average = (total / np.maximum(count, 1))[:height, :width]
    return np.sum((255 * (image.astype(np.float64) - average)) ** 2)


def test_distances_at_other_sizes_and_in_color(world, undrawn):
    sizes = {"image_size": 50, "patch_size": 24, "stride": 7, "channels": 3, "batch_size": 5}
    config = config_of(world, world / "sizes", category="weave", num_patches=13, **sizes)
    job.run(config)
    reconstruct = autoencoder.reconstructor(models.build("small_net:Tiny", 3, 24, {}))
    cell = cells.Cell(folder_of(config, "weave"), config.resolved())
    variables = train.load_trained(cell).variables
    frame = pd.read_csv(cell.folder / "scores.csv").iloc[[0, 3, -1]]
    for path, distance in zip(frame["path"], frame["distance"], strict=True):
        image = images.decode(world / "in" / "weave" / path, Frame(50, 3))
        plain = plain_distance(reconstruct, variables, image, 24, 7)
        assert distance == pytest.approx(plain, rel=1e-5), path


def test_killed_and_started_again_is_the_same(straight, world, capfd, undrawn):
    config = config_of(world, world / "killed", model="bergmann")
    killed(config, 3)  # in the midst of the second epoch, whose steps are two
    cell = folder_of(config)
    job.run(config)
    assert f"{cell}: goes on after epoch 1 of 2" in capfd.readouterr().err
    assert (cell / "scores.csv").read_bytes() == (straight[1] / "scores.csv").read_bytes()
    assert (cell / "history.csv").read_bytes() == (straight[1] / "history.csv").read_bytes()
    assert metrics_of(cell) == metrics_of(straight[1])
    (epoch, state, _), (_, wanted, _) = last_checkpoints(config, straight[0])
    assert epoch == 2
    assert int(state.step) == 4
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
        if jax.dtypes.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def test_the_seed_decides(tiny, world, undrawn):
    again = config_of(world, world / "again")
    job.run(again)
    other = config_of(world, world / "again", seed=1)
    table = job.run(other)
    same, wanted = ((path / "scores.csv").read_bytes() for path in (folder_of(again), tiny[1]))
    assert same == wanted
    assert (folder_of(other) / "scores.csv").read_bytes() != wanted
    assert list(table["seed"]) == [0, 1]


def test_categories_and_seeds_collect(world, undrawn):
    for seed in (4, 3):
        table = job.run(config_of(world, world / "many", category="all", seed=seed, epochs=1))
    assert table[["category", "seed"]].to_numpy().tolist() == [
        ["tablet", 3],
        ["tablet", 4],
        ["weave", 3],
        ["weave", 4],
    ]
    written = pd.read_csv(world / "many" / "results.csv")
    pd.testing.assert_frame_equal(written, table, check_dtype=False)
    assert list(written["n_defective"]) == [4, 4, 4, 4]


def test_a_finished_run_is_not_done_again(tiny, monkeypatch, capsys):
    config, cell = tiny
    before = {path: path.stat().st_mtime_ns for path in cell.rglob("*") if path.is_file()}

    def fail(*_, **__):
        raise AssertionError("the images were read again")

    monkeypatch.setattr(data, "read", fail)
    table = job.run(config)
    assert list(table["category"]) == ["tablet"]
    assert f"{cell}: finished before" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in cell.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("learning_rate", 1e-3),
        ("stride", 8),
        ("batch_size", 16),
        ("validation_fraction", 0.2),
        ("train_images", 5),
        ("on_bad_image", "skip"),
    ],
)
def test_other_flags_do_not_touch_a_run(tiny, world, flag, value):
    before = (tiny[1] / "metrics.json").read_bytes()
    with pytest.raises(UsageError, match=f"{tiny[1]} holds a run with --{flag}=") as caught:
        job.run(config_of(world, world / "tiny", **{flag: value}))
    assert f"now {value}" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert (tiny[1] / "metrics.json").read_bytes() == before


def test_overwrite_replaces(world, undrawn):
    config = config_of(world, world / "replaced", epochs=3)
    job.run(config)
    table = job.run(config_of(world, world / "replaced", epochs=1, overwrite=True))
    assert list(table["epochs"]) == [1]
    assert [path.name for path in (folder_of(config) / "checkpoints").iterdir()] == ["1"]
    assert len(pd.read_csv(folder_of(config) / "history.csv")) == 1


def test_evaluate_makes_everything_again(tiny, world, tmp_path, monkeypatch):
    config, cell = tiny
    wanted, metrics = (cell / "scores.csv").read_bytes(), metrics_of(cell)
    kept = {"checkpoints", "flags.txt", "versions.json", "left_out.csv", "duplicates.csv"}
    kept |= {"fingerprints.csv"}
    for name in FILES - kept:
        (cell / name).unlink()
    (world / "tiny" / "results.csv").unlink()
    shutil.copytree(world / "in", tmp_path / "moved")
    monkeypatch.setattr(loop, "train_members", None)
    table = job.evaluate_again(world / "tiny", str(tmp_path / "moved"))
    assert (cell / "scores.csv").read_bytes() == wanted
    assert metrics_of(cell) == metrics
    assert {path.name for path in cell.iterdir()} == FILES
    pd.testing.assert_frame_equal(
        pd.read_csv(world / "tiny" / "results.csv"), table, check_dtype=False
    )
    assert cells.find(world / "tiny")[0].config == config.resolved()  # the images may move back


def test_evaluate_needs_a_run_trained_out(world, tmp_path):
    for workdir, why in ((tmp_path, "no run in it"), (tmp_path / "missing", "no such folder")):
        with pytest.raises(UsageError, match=f"--workdir={workdir}: {why}"):
            job.evaluate_again(workdir)
    config = config_of(world, tmp_path)
    folder_of(config).mkdir(parents=True)
    (folder_of(config) / "flags.txt").write_text(config.to_flagfile())
    with pytest.raises(DataError, match=f"{folder_of(config)}: not trained to the end"):
        job.evaluate_again(tmp_path)


def test_other_images_are_noticed(world, tmp_path, capsys, undrawn):
    shutil.copytree(world / "in", tmp_path / "in")
    config = config_of(world, tmp_path / "out", data_dir=str(tmp_path / "in"), epochs=1)
    job.run(config)
    Image.fromarray(np.full((64, 64), 99, np.uint8)).save(tmp_path / "in/tablet/test/good/000.png")
    capsys.readouterr()
    job.evaluate_again(tmp_path / "out")
    assert "warning: these are not the images of the training run" in capsys.readouterr().err
    (folder_of(config) / "metrics.json").unlink()  # as if it had been stopped
    with pytest.raises(DataError, match=f"{folder_of(config)}: the images changed"):
        job.run(config)


def test_a_fault_while_scoring_leaves_no_finished_run(tiny, world, monkeypatch, capsys, undrawn):
    config = config_of(world, world / "fault")
    with monkeypatch.context() as patch:
        patch.setattr(scorer, "score_all", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            job.run(config)
    cell = folder_of(config)
    assert not {"metrics.json", "scores.csv"} & {path.name for path in cell.iterdir()}
    monkeypatch.setattr(loop, "epoch_crops", None)  # nothing is left to train
    job.run(config)
    assert "goes on after epoch 2 of 2" in capsys.readouterr().err
    assert (cell / "scores.csv").read_bytes() == (tiny[1] / "scores.csv").read_bytes()


def test_no_space_for_a_checkpoint(world, monkeypatch):
    full = shutil.disk_usage(world)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    config = config_of(world, world / "full")
    said = f"{folder_of(config)}: no space left for a checkpoint of 1.28 kB, 1 kB are free"
    with pytest.raises(DataError, match=f"^{said}$"):
        job.run(config)


def test_a_loss_that_is_not_finite_stops(world):
    config = config_of(world, world / "diverged", learning_rate=1e30)
    with pytest.raises(CaeError, match=r"loss is (nan|inf) at step \d of epoch \d") as caught:
        job.run(config)
    assert "--learning_rate" in str(caught.value)
    assert not (folder_of(config) / "metrics.json").exists()


def test_masks_good_test_images_and_validation_are_optional(world, tmp_path):
    source = tmp_path / "in" / "tablet"
    shutil.copytree(world / "in" / "tablet", source)
    shutil.rmtree(source / "ground_truth")
    shutil.rmtree(source / "test" / "good")
    config = config_of(world, tmp_path / "out", data_dir=str(tmp_path / "in"), epochs=1)
    table = job.run(config.changed(validation_fraction=0.0))
    assert len(pd.read_csv(folder_of(config) / "scores.csv")) == 4
    assert len(pd.read_csv(folder_of(config) / "left_out.csv")) == 4  # defects without a mask
    assert table[["n_train", "n_good", "n_defective"]].iloc[0].tolist() == [10, 0, 4]
    assert table["image_auroc"].isna().all()
    assert "Results:" in results.format_table(table)
