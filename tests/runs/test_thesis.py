"""All systems of the thesis side by side, on images of 32 pixels: planned, run, missing."""

import shutil

import pandas as pd
import pytest
import small_runs
from command_lines import ROOT, run_all

from cae_jax import data
from cae_jax.models import weights
from cae_jax.reports import thesis as report
from cae_jax.reports.thesis import systems
from cae_jax.runs import benchmark, presets, thesis
from cae_jax.types import UsageError, WeightsError

KEYS = ("name", "title", "column", "entry", "flags")
ROWS = [
    ("ae_l2", "AE (L2)", "AE (L2)", "autoencoder", "model=bergmann,loss=l2"),
    ("variation_model", "Variation", "Variational Model", "variation_model", "mode=robust"),
    ("dictionary", "Dictionary", "", "gaussian", "features=lite2,channels=3"),
]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A category, and one with a test image that is none."""
    root = tmp_path_factory.mktemp("thesis")
    with small_runs.images_in(root, "weave", n_train=8, n_good=3, size=32):
        shutil.copytree(root / "in/weave", root / "in/broken")
        (root / "in/broken/test/good/000.png").write_text("no image")
        yield root


@pytest.fixture
def few(monkeypatch):
    """A table of three systems, the last one's weights not there."""
    rows = [{"where": "", "gan": 0} | dict(zip(KEYS, r, strict=True)) for r in ROWS]

    def missing(package):
        raise WeightsError(f"the package {package} is not installed")

    monkeypatch.setattr(weights, "find", missing)
    for module in (thesis, systems):
        monkeypatch.setattr(module, "listed", lambda: pd.DataFrame(rows))


def given(world, **more):
    return {"dataset": "folder", "data_dir": str(world / "in"), "image_size": 32, **more}


def test_flags_of_a_system_of_a_method_and_of_a_category(few, world, tmp_path):
    flags = given(world, epochs=3, batch_size=4, num_patches=8, patch_size=32, stride=32)
    of = thesis.planned(
        ["ae_l2", "variation_model"],
        [0, 4],
        flags,
        {"autoencoder": {"epochs": "5", "stride": "16"}, "ae_l2": {"epochs": "6"}},
        {"broken": {"stride": "8", "intensity": "median"}},
        tmp_path,
    )
    found = {(each.title, c.category): c for each in of.grids for c in each.configs}
    assert [len(each.configs) for each in of.grids] == 4 * [2]
    one = found["ae_l2", "weave"]
    assert (one.options.epochs, one.options.stride, one.options.batch_size) == (6, 16, 4)
    assert (one.seed, one.folder, one.intensity) == (4, tmp_path / "ae_l2", "none")
    one = found["ae_l2", "broken"]
    assert (one.options.epochs, one.options.stride, one.intensity) == (6, 8, "median")
    one = found["variation_model", "broken"]
    assert (one.options.mode, one.image_size, one.intensity) == ("robust", 32, "median")
    (few_of,) = thesis.planned(
        *(["variation_model"], [0], given(world, category="weave", train_images=3), {}, {}),
        tmp_path,
    ).grids
    assert few_of.configs[0].train_images == 3


def test_what_cannot_work_is_named_before_anything_is_run(few, world, tmp_path, monkeypatch):
    for words, change in {
        "name in --methods 'ae_l3': did you mean ae_l2": {"asked": ["ae_l3"]},
        "--methods=: must be one or more": {"asked": []},
        "dictionary: the package efficientnet_lite2": {"asked": ["dictionary"]},
        "name in --flags_of_method 'al2'": {"of": {"al2": {"mode": "robust"}}},
        "flag of --flags_of_method 'mod': did you mean mode": {
            "of": {"variation_model": {"mod": "robust"}}
        },
        "variation_model: unknown --mode 'robus'": {"of": {"variation_model": {"mode": "robus"}}},
        "unknown flag '--epochs'": {"more": {"epochs": 3}},
        "category of --flags_of 'weav'": {"category": {"weav": {"channels": "1"}}},
    }.items():
        asked = change.get("asked", ["variation_model"])
        flags = given(world, **change.get("more", {}))
        of, category = change.get("of", {}), change.get("category", {})
        with pytest.raises(UsageError, match=words):
            thesis.planned(asked, [0], flags, of, category, tmp_path)
    rows = thesis.listed().replace({"entry": {"variation_model": "nowhere"}})
    monkeypatch.setattr(thesis, "listed", lambda: rows)
    with pytest.raises(UsageError, match="variation_model: unknown preset or method 'nowhere'"):
        thesis.planned(["variation_model"], [0], given(world), {}, {}, tmp_path)
    assert thesis.methods_of(["all"]) == ["autoencoder", "gaussian"]
    for words, on_it in {
        "--models=gong: not together with --methods": {"methods": "", "models": "--models=gong"},
        "--tables_only: only with --methods": {"tables_only": "--tables_only"},
    }.items():
        with pytest.raises(UsageError, match=words):
            thesis.check_flags(on_it)


def test_what_fails_has_a_row_and_what_is_done_is_not_done_again(few, world, tmp_path, monkeypatch):
    asked = ["variation_model", "dictionary"]
    of = thesis.planned(asked, [0], given(world), {}, {}, tmp_path)
    cells, missing = thesis.finished(of, tmp_path)
    assert cells == []
    assert [each.cause for each in missing[1:]] == ["not run yet", "not run yet"]
    benchmark.run(of.grids, tmp_path)
    cells, missing = thesis.finished(of, tmp_path)
    (one,) = cells
    assert (one["system"], one["category"], one["mode"]) == ("variation_model", "weave", "robust")
    weightless, broken = missing
    assert weightless[:2] == ("dictionary", "")
    assert "efficientnet_lite2" in weightless.cause
    assert broken[:2] == ("variation_model", "broken")
    assert "test/good/000.png" in broken.cause
    text = report.write_systems(tmp_path / "tables", cells, missing)
    table = pd.read_csv(tmp_path / "tables" / "methods.csv").set_index(["category", "name"])
    row = table.loc["weave", "variation_model"]
    assert row["image_auroc"] == one["image_auroc"]
    assert row["good_leak_free"] == one["good_accuracy_val_90"]
    assert row["defect_accuracy"] == one["defect_accuracy_min_area"]
    assert table.loc["weave", "pca"]["image_auroc"] == one["trivial_auroc"]["pca"]
    assert "000.png" in table.loc["broken", "variation_model"]["error"]
    assert f"missing: {weightless.cause}" in text
    read, seen = data.read, []

    def noted(dataset, data_dir, category, *rest, **more):
        seen.append(category)
        return read(dataset, data_dir, category, *rest, **more)

    monkeypatch.setattr(data, "read", noted)
    benchmark.run(of.grids, tmp_path)
    assert seen == ["broken"]


def test_the_binary(world, tmp_path):
    """Of the table itself: run, and written anew from what was run."""
    command = ["--methods=variation_model", "--dataset=folder", f"--data_dir={world}/in"]
    command += ["--image_size=32", "--category=weave", f"--workdir={tmp_path}/run"]
    lines = {
        "dry": [*command, "--dry_run"],
        "none": [*command, "--tables_only"],
        "run": command,
        "again": [*command, "--tables_only", f"--tables_dir={tmp_path}/other"],
        "help": ["--methods=variation_model", "--help"],
        "models": [*command, "--models=gong"],
        "method": [*command, "--method=gaussian"],
    }
    asked = {name: ("reproduce_thesis", flags, "") for name, flags in lines.items()}
    told = run_all(asked, tmp_path, PYTHONPATH=str(ROOT), XDG_CACHE_HOME=str(world / "cache"))
    assert "cells: 1 new" in told["dry"][1]
    assert told["none"][0] == 1
    assert told["none"][2].splitlines()[-1] == "error: no cell finished: not run yet"
    code, out, err = told["run"]
    assert code == 0, err
    assert "| weave | Variation model | Tables 2, 3 |" in out
    assert f"Tables: {tmp_path}/run/tables" in out
    assert told["again"][0] == 0
    for name in ("tables.md", "methods.csv", "tables2_3.csv", "table1.csv"):
        first, second = (tmp_path / folder / name for folder in ("run/tables", "other"))
        assert first.read_bytes() == second.read_bytes()
    assert told["help"][0] == 0
    assert "--mode:" in told["help"][1]
    assert "--epochs:" not in told["help"][1]
    for name, words in {"models": "not together with", "method": "'method'"}.items():
        assert told[name][0] == 2
        assert words in told[name][2].splitlines()[-1]


def test_every_system_of_the_table_can_be_built(world, tmp_path):
    flags = given(world, category="weave", image_size=256)
    found = thesis.planned(["all"], [0], flags, {}, {}, tmp_path)
    names = systems.listed()["name"].tolist()
    assert {each.title for each in found.grids} | set(found.left_out) == set(names)
    own = {each.title: each.configs[0].flags() for each in found.grids}
    rows = systems.listed().set_index("name")
    for name, flags in own.items():
        assert flags["method"] == presets.read(rows.at[name, "entry"]).method
        for pair in filter(None, rows.at[name, "flags"].split(",")):
            key, _, value = pair.partition("=")
            assert str(flags[key]) == value
