"""One model for several categories: judged together, and each by itself."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from small_runs import config_of, folder_of, images_in

from cae_jax.evaluation import pixel_metrics
from cae_jax.reports import html
from cae_jax.runs import build, dry_run, evaluate, job
from cae_jax.runs import cell as cells
from cae_jax.runs.config import Config, configure
from cae_jax.serving import trained
from cae_jax.types import UsageError

NAME = "grain+tablet"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("joint")
    with images_in(root, "grain", "tablet", n_good=4, n_defective_per_kind=2):
        job.run(joint_of(root, save_maps=True))
        yield root


def joint_of(root, workdir="run", **changes):
    flags = {"method": "variation_model", "image_size": 32, "validation_fraction": 0.2}
    flags |= {"dataset": "folder", "data_dir": str(root / "in"), "workdir": str(root / workdir)}
    return configure(**(flags | {"category": "tablet,grain", "joint": True} | changes))


@pytest.fixture(scope="module")
def run(world):
    folder = world / "run" / NAME / "variation_model" / "seed_0"
    metrics = json.loads((folder / "metrics.json").read_text())
    return folder, metrics, pd.read_csv(folder / "scores.csv")


def test_it_is_one_run_of_all_images(world, run):
    _, metrics, frame = run
    assert (metrics["category"], metrics["joint"]) == (NAME, True)
    assert (metrics["n_train"], metrics["n_validation"], metrics["n_good"]) == (16, 4, 8)
    assert {path.partition("/")[0] for path in frame["path"]} == {"grain", "tablet"}
    table = pd.read_csv(world / "run" / "results.csv")
    assert table[["category", "joint"]].to_numpy().tolist() == [[NAME, True]]
    test = frame[frame["split"] == "test"]
    assert metrics["image_auroc"] == roc_auc_score(test["label"], test["distance"])
    assert sorted(set(metrics["kinds"]))[0].startswith("grain/")


def test_each_category_by_itself_is_as_if_counted_apart(world, run, monkeypatch):
    _, metrics, frame = run
    (cell,) = cells.find(world / "run")
    split = build.read_split(cell.config)
    maps = []
    real = evaluate.per_category.results
    monkeypatch.setattr(evaluate.per_category, "results", lambda *a: maps.append(a[3]) or real(*a))
    job.evaluate_again(world / "run")
    assert list(metrics["categories"]) == ["grain", "tablet"]
    for category, found in metrics["categories"].items():
        own = frame["path"].str.startswith(f"{category}/")
        test = frame[own & (frame["split"] == "test")]
        assert found["n_train"] == 8
        assert found["n_validation"] == (own & (frame["split"] == "validation")).sum() == 2
        assert found["image_auroc"] == roc_auc_score(test["label"], test["distance"])
        which = [i for i, path in enumerate(split.test_paths) if path.startswith(f"{category}/")]
        of_pixels = pixel_metrics.summary(split.masks[which], maps[0][which])
        assert found["pixel_auroc"] == of_pixels["pixel_auroc"]
        for point in found["operating_points"]:
            value = float(point["threshold"])
            called = test["distance"] > value
            assert point["false_alarms"] == (called & (test["label"] == 0)).sum()
            assert point["misses"] == (~called & (test["label"] == 1)).sum()
            assert point["good_accuracy"] == 1 - point["false_alarms"] / found["n_good"]
            assert point["defect_accuracy"] == 1 - point["misses"] / found["n_defective"]
    for i, whole in enumerate(p for p in metrics["operating_points"] if p["rule"] != "min_area"):
        each = [found["operating_points"][i] for found in metrics["categories"].values()]
        assert {(p["rule"], p["percent"], p["threshold"]) for p in each} == {
            (whole["rule"], whole["percent"], whole["threshold"])
        }
        np.testing.assert_allclose(
            whole["good_accuracy"], 1 - sum(p["false_alarms"] for p in each) / metrics["n_good"]
        )


def test_the_images_held_out_are_those_of_each_alone(world, run):
    _, _, frame = run
    alone = build.read_split(joint_of(world, category="grain", joint=False))
    held_out = frame.loc[frame["split"] == "validation", "path"]
    ours = [path for path in held_out if path.startswith("grain/")]
    assert ours == [f"grain/{path}" for path in alone.validation_paths]


def test_maps_lie_where_each_category_has_its_own(run):
    folder, _, frame = run
    for path in frame.loc[frame["split"] == "test", "path"]:
        assert (folder / "anomaly_maps" / path).with_suffix(".tiff").exists()


def test_the_report_has_each_category(run):
    folder, metrics, _ = run
    page = html.run_page(html.read_run(folder))
    assert "Each category by itself" in page
    assert "One threshold for several products" in page
    auroc = metrics["categories"]["tablet"]["image_auroc"]
    assert f'data-key="{auroc!r}"' in page


def test_the_same_run_in_any_words(world, run, capsys):
    folder, _, _ = run
    flags = Config.from_flagfile((folder / "flags.txt").read_text(), "flags.txt")
    for config in (flags, joint_of(world, category="grain,tablet"), joint_of(world, category=NAME)):
        job.run(config)
        assert "finished before" in capsys.readouterr().err
    assert "20 images to train on, 24 to judge" in dry_run.forecast(job.plan([flags]))
    assert trained.open_run(world / "run", category=NAME).cell.folder == folder


def test_flags_that_cannot_work(world):
    with pytest.raises(UsageError, match="--joint: takes several categories, got grain alone"):
        job.plan([joint_of(world, category="grain")])
    with pytest.raises(UsageError, match="unknown category 'tablt'"):
        job.plan([joint_of(world, category="grain+tablt")])
    own = {"joint": True, "category": "hazelnut,screw", "augment": "auto"}
    with pytest.raises(UsageError, match="--augment=auto: means object_mirror of hazelnut, object"):
        cells.make(config_of(world, **own), "hazelnut+screw")
    config = config_of(world, **(own | {"category": "screw,pill"}))
    assert cells.make(config, "pill+screw").config.options.augment == "object"


def test_a_mixture_has_a_group_for_each(world):
    of_all = joint_of(world, method="gaussian", features="filter_bank")
    assert job.plan([of_all])[0].config.options.mixture == 2
    assert job.plan([of_all.changed(mixture=3)])[0].config.options.mixture == 3
    assert job.plan([of_all.changed(joint=False)])[0].config.options.mixture == 0
    assert folder_of(of_all, NAME).name == "seed_0"
