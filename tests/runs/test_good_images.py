"""A folder of good images alone, from training to verdicts on new ones."""

import json
import os
import re
import shutil

import numpy as np
import pandas as pd
import pytest
from small_runs import config_of, images_in

from cae_jax.evaluation import scores
from cae_jax.reports import html, results
from cae_jax.reports.run_files import read_run
from cae_jax.runs import build, dry_run, job
from cae_jax.runs.config import configure
from cae_jax.serving import folder, trained
from cae_jax.serving.export import check
from cae_jax.types import CaeError, DataError

N = 10


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """in/tablet/train/good holds ten good images, in/tablet/test others."""
    root = tmp_path_factory.mktemp("good")
    with images_in(root, "tablet", n_train=N) as patch:
        patch.undo()  # pictures are drawn, too
        patch.setenv("XDG_CACHE_HOME", str(root / "cache"))
        job.run(config(root))
        yield root


def config(root, **changes):
    flags = {"method": "variation_model", "image_size": 32, "dataset": "folder"}
    flags |= {"data_dir": str(root / "in/tablet/train/good"), "workdir": str(root / "run")}
    return configure(**(flags | changes))


@pytest.fixture(scope="module")
def cell(world):
    return world / "run" / "good" / "variation_model" / "seed_0"


def test_the_threshold_rests_on_images_out_of_fold(cell):
    metrics = json.loads((cell / "metrics.json").read_text())
    frame = scores.read_scores(cell / "scores.csv")
    assert set(frame["split"]) == {"out-of-fold"}
    assert (metrics["n_good"], metrics["n_defective"], metrics["n_out_of_fold"]) == (0, 0, N)
    assert (metrics["image_auroc"], metrics["flag"]) == (None, "")
    at_90 = next(p for p in metrics["operating_points"] if p["percent"] == 90)
    assert at_90["threshold"] == np.sort(frame["distance"])[8]  # of ten, nine are called good
    assert all(not point["leaks"] for point in metrics["operating_points"])


def test_pictures_are_of_the_good_images(world, cell):
    run = read_run(cell)
    assert run.absent == ("history.csv",)
    assert sorted(run.examples.row) == list(range(N))
    assert not run.examples.mask.any()
    page = html.run_page(run)
    assert "AUROC" not in re.sub("<style.*?</style>|<script.*?</script>", "", page, flags=re.S)
    assert "90 % of out-of-fold good, 10 images" in page
    assert (cell / "gallery.png").exists()
    samples = check.samples(job.plan([config(world)])[0])
    assert {sample.name for sample in samples} <= set(run.frame["path"])


def test_the_table_says_what_it_rests_on_and_has_no_dashes(world):
    table = pd.read_csv(world / "run" / "results.csv")
    lines = results.format_table(table).splitlines()
    assert lines[2].split()[:5] == ["category", "model", "seed", "learned", "from"]
    row = lines[4].split()
    assert row[:3] == ["good", "variation_model", "0"]
    assert (row[3], row[4:8]) == (str(N), [str(N), "out", "of", "fold"])
    assert "-" not in row
    mixed = pd.concat([table, table.assign(n_good=3, n_defective=4, image_auroc=0.75)])
    text = results.format_table(mixed)
    assert (text.count("AUROC  "), text.count("threshold from  ")) == (1, 1)


def test_it_is_forecast_evaluated_and_finished_as_any_run(world, cell, capsys):
    before = json.loads((cell / "metrics.json").read_text())
    assert "finished; 10 images to train on, 0 to judge" in dry_run.forecast(
        job.plan([config(world)])
    )
    job.run(config(world))
    assert "finished before" in capsys.readouterr().err
    job.evaluate_again(world / "run")
    after = json.loads((cell / "metrics.json").read_text())
    assert after["operating_points"] == before["operating_points"]


def test_new_images_get_verdicts(world, cell):
    run = trained.open_run(world / "run")
    images, output = world / "in" / "tablet" / "test", world / "out"
    found = folder.score_folder(run, images, output)
    table = pd.read_csv(output / "scores.csv")
    assert len(table) == found.n_images > 2
    unseen = scores.read_scores(cell / "scores.csv")["distance"].to_numpy()
    for distance, p_value, defective in table[["distance", "p_value", "defective"]].to_numpy():
        assert defective == (distance > np.sort(unseen)[8])
        assert p_value == pytest.approx((1 + np.sum(unseen >= distance)) / (N + 1))


def test_held_out_and_joint(world):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cae_jax.runs.evaluate._plot", lambda *_: None)
        held = config_of(
            world, "held", data_dir=str(world / "in/tablet/train/good"), category="all"
        )
        job.run(held)
        (world / "two" / "a").mkdir(parents=True)
        (world / "two" / "b").mkdir()
        for i, file in enumerate(sorted((world / "in/tablet/train/good").iterdir())):
            (world / "two" / "ab"[i % 2] / file.name).write_bytes(file.read_bytes())
        where = {"data_dir": str(world / "two"), "workdir": str(world / "joint")}
        job.run(config(world, category="a,b", joint=True, folds=2, **where))
    (metrics,) = (world / "held").glob("*/*/*/metrics.json")
    assert json.loads(metrics.read_text())["n_validation"] == 1
    (metrics,) = (world / "joint").glob("a+b/*/*/metrics.json")
    assert json.loads(metrics.read_text())["n_out_of_fold"] == N


@pytest.mark.parametrize(
    ("n", "flags", "said"),
    [
        (2, {"folds": 5}, "only 2 unseen good images"),
        (3, {"folds": 0, "validation_fraction": 0.1}, "only 1 unseen good image "),
        (N, {"folds": 5}, "only 10 unseen good images"),
    ],
)
def test_so_few_images_are_named_with_what_was_read(world, n, flags, said):
    asked = config(world, category="good", train_images=n, **flags).resolved()
    lines = build.summary(asked, build.read_split(asked)).splitlines()
    assert any(line.startswith(f"  warning: {said}") for line in lines)


def test_one_good_image_alone_is_refused_in_true_words(world):
    asked = config(world, train_images=1, workdir=str(world / "one"))
    with pytest.raises(DataError, match=r"good: one good image, and there is no other.*take 2"):
        job.run(asked)


def test_nothing_to_pick_a_threshold_on_is_said_before_training(world):
    with pytest.raises(DataError, match=r"none held out.*--validation_fraction or --folds"):
        job.run(config(world, workdir=str(world / "none"), folds=0, validation_fraction=0.0))


def test_all_categories_but_the_unusable_one_are_done_and_foreseen(world, capsys):
    good = sorted((world / "in/tablet/train/good").iterdir())
    for name, n in (("a", 4), ("b", 1), ("c", 0), ("d", 4)):
        (world / "all" / name / "train/good").mkdir(parents=True)
        for file in good[:n]:
            (world / "all" / name / "train/good" / file.name).write_bytes(file.read_bytes())
    where = {"data_dir": str(world / "all"), "workdir": str(world / "each")}
    each = config(world, category="all", folds=0, validation_fraction=0.25, **where)
    lines = dry_run.forecast(job.plan([each])).splitlines()
    assert [line.split(": ")[1].split(";")[0] for line in lines[1:5]] == [
        *("new", "cannot be done", "cannot be done", "new")
    ]
    assert lines[-1] == "warning: 2 of 4 cannot be done; the others are"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cae_jax.runs.evaluate._plot", lambda *_: None)
        with pytest.raises(DataError, match="b: 1 training image, of which 1"):
            job.run(each)
    done = pd.read_csv(world / "each" / "results.csv")["category"].tolist()
    assert done == ["a", "d"]
    assert "c/variation_model/seed_0: not done: " in capsys.readouterr().err
    with pytest.raises(DataError, match="b: 1 training image"):
        dry_run.forecast(job.plan([each.changed(category="b")]))
    shutil.rmtree(world / "all" / "a")
    table, metrics = (
        world / "each" / "results.csv",
        world / "each/d/variation_model/seed_0/metrics.json",
    )
    for file in (table, metrics):
        os.utime(file, (0, 0))
    with pytest.raises(CaeError, match="category 'a'"):
        job.evaluate_again(world / "each")
    assert min(file.stat().st_mtime for file in (table, metrics)) > 0  # d was judged anew
