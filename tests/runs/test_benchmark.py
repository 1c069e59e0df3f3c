"""Methods side by side, on images of 32 pixels: what is run, what is not, and the binary."""

import json
import shutil

import jax
import pytest
import small_runs
from command_lines import ROOT, run_all
from PIL import Image

from cae_jax import data
from cae_jax.models import weights
from cae_jax.reports import benchmark as tables
from cae_jax.runs import benchmark, presets, train
from cae_jax.runs import cell as cells
from cae_jax.types import UsageError, WeightsError

METHODS = ["variation_model", "gaussian"]
NAMES = {"broken", "tablet", "weave"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Two categories, and one with a test image that is none."""
    root = tmp_path_factory.mktemp("side")
    with small_runs.images_in(root, "tablet", "weave", n_train=8, n_good=3, size=32):
        shutil.copytree(root / "in/weave", root / "in/broken")
        (root / "in/broken/test/good/000.png").write_text("no image")
        yield root


def given(world, **more):
    flags = {"dataset": "folder", "data_dir": str(world / "in"), "image_size": 32}
    return {**flags, "features": "filter_bank", "validation_fraction": 0.25, **more}


@pytest.fixture(scope="module")
def done(world):
    """The workdir of a benchmark of two seeds, from all images and from three; what failed."""
    workdir = world / "out"
    grids = benchmark.grids(METHODS, [0, 1], [0, 3], given(world), {}, workdir)
    return workdir, benchmark.run(grids, workdir)


def cells_in(workdir):
    found = [path.parent.relative_to(workdir) for path in workdir.glob("*/*/*/*/metrics.json")]
    return {path.as_posix() for path in found}


def test_every_cell_but_the_failing_ones_is_done(done):
    workdir, failed = done
    wanted = {
        f"{method}{few}/{{}}/{method}/seed_{seed}"
        for method in METHODS
        for few in ("", "-train_3")
        for seed in (0, 1)
    }
    good = {path.format(name) for path in wanted for name in ("tablet", "weave")}
    assert cells_in(workdir) == good
    assert set(failed) == {path.format("broken") for path in wanted}
    assert all("test/good/000.png" in cause for cause in failed.values())
    assert json.loads((workdir / "failed.json").read_text()) == failed
    (few,), (whole,) = (
        [cell for cell in cells.find(workdir / name) if cell.name == "weave/gaussian/seed_1"]
        for name in ("gaussian-train_3", "gaussian")
    )
    metrics = json.loads((few.folder / "metrics.json").read_text())
    assert (metrics["n_train"], metrics["n_validation"]) == (2, 1)
    metrics = json.loads((whole.folder / "metrics.json").read_text())
    held = train.load_trained(whole).variables
    assert metrics["model_megabytes"] == sum(x.nbytes for x in jax.tree.leaves(held)) / 1e6


def test_what_is_done_is_not_done_again_and_a_failure_can_be_mended(done, world, monkeypatch):
    workdir, _ = done
    before = {path: path.stat().st_mtime_ns for path in workdir.rglob("metrics.json")}
    read, seen = data.read, []

    def noted(dataset, data_dir, category, *rest, **more):
        seen.append(category)
        return read(dataset, data_dir, category, *rest, **more)

    monkeypatch.setattr(data, "read", noted)
    path = world / "in/broken/test/good/000.png"
    whole = world / "in/weave/test/good/000.png"
    monkeypatch.setattr("builtins.print", lambda *_, **__: None)
    path.write_bytes(whole.read_bytes())
    grids = benchmark.grids(["variation_model"], [1], [0], given(world), {}, workdir)
    assert benchmark.run(grids, workdir) == {}
    path.write_text("no image")
    assert seen == ["broken"]
    after = {path: path.stat().st_mtime_ns for path in workdir.rglob("metrics.json")}
    (new,) = after.keys() - before.keys()
    assert "variation_model/broken/" in str(new)
    assert before == {path: after[path] for path in before}
    assert len(json.loads((workdir / "failed.json").read_text())) == 7


def test_flags_go_to_the_entries_that_have_them(world, tmp_path):
    flags = given(world, intensity="median", mode="robust", category="weave,tablet")
    del flags["validation_fraction"]
    of = benchmark.flags_by_category(["weave:channels=3,intensity=none", "weave:mode=standard", ""])
    mine = tmp_path / "mine.flags"
    mine.write_text("# a comment\n--method=gaussian\n--features=filter_bank\n--save_maps\n\n")
    asked = [*METHODS, str(mine)]
    grids = benchmark.grids(asked, [4], [0, 2], flags, of, tmp_path)
    found = {
        (grid.title, config.category, config.train_images): config
        for grid in grids
        for config in grid.configs
    }
    assert len(found) == 3 * 2 * 2
    for (title, category, few), config in found.items():
        of_weave = category == "weave"
        assert config.folder == tmp_path / (f"{title}-train_2" if few else title)
        assert config.channels == (3 if of_weave else {"gaussian": 3}.get(title, 1))
        assert (config.seed, config.image_size) == (4, 32)
        assert config.validation_fraction == 0.1  # of no use to what is cross-fitted
        assert config.save_maps == (title == "mine")
        own = config.options
        if title == "variation_model":
            assert own.mode == ("standard" if of_weave else "robust")
        else:
            assert config.intensity == ("none" if of_weave else "median")
    # a preset's own data set is not taken, nor its category
    flags = {"category": "tablet", "image_size": 64}
    whole, few = benchmark.grids(["quickstart"], [0], [0, 2], flags, {}, tmp_path)
    (one,), (other,) = whole.configs, few.configs
    assert (one.dataset, one.category, one.image_size) == ("synthetic", "tablet", 64)
    assert (one.validation_fraction, other.validation_fraction) == (0.1, 0)


def test_what_cannot_work_is_named_before_anything_is_run(world, done, tmp_path):
    workdir, _ = done
    for words, change in {
        "unknown preset or method 'gausian': did you mean gaussian": {"entries": ["gausian"]},
        "no such flagfile": {"entries": ["none.flags"]},
        "two entries are called gaussian": {"entries": ["gaussian", "x/gaussian.flags"]},
        "category of --flags_of 'weav': did you mean weave": {"of": {"weav": {"channels": "1"}}},
        "flag of --flags_of 'chanels': did you mean channels": {"of": {"weave": {"chanels": "1"}}},
        "gaussian: --flags_of: channels takes a int, got 'x'": {"of": {"weave": {"channels": "x"}}},
        "gaussian: --channels=2": {"more": {"channels": 2}},
        "gaussian: .*--shrinkage=0.01, now 0.5: take another": {"more": {"shrinkage": 0.5}},
    }.items():
        asked = change.get("entries", ["gaussian"])
        flags = given(world, **change.get("more", {}))
        with pytest.raises(UsageError, match=words):
            benchmark.grids(asked, [0], [0], flags, change.get("of", {}), workdir)
    for text in ("weave", ":channels=1", "weave:channels"):
        with pytest.raises(UsageError, match="--flags_of="):
            benchmark.flags_by_category([text])
    assert benchmark.whole_numbers("seeds", ["3", " 1", "3"], 9) == [3, 1]
    for texts in ([], ["1", ""], ["-1"], ["x"], ["10"]):
        with pytest.raises(UsageError, match="--seeds="):
            benchmark.whole_numbers("seeds", texts, 9)


def test_without_their_weights_entries_are_left_out(world, tmp_path, monkeypatch, capsys):
    def missing(package):
        raise WeightsError(f"the package {package} is not installed")

    monkeypatch.setattr(weights, "find", missing)
    other = tmp_path / "other.flags"
    other.write_text("--method=gaussian\n--features=lite2\n--channels=3\n")
    flags = given(world)
    del flags["features"]
    grids = benchmark.grids(["variation_model", str(other)], [0], [0], flags, {}, tmp_path)
    assert {grid.title for grid in grids} == {"variation_model"}
    assert f"left out: {other}: the package efficientnet_lite2" in capsys.readouterr().err
    with pytest.raises(UsageError, match="none is left to run"):
        benchmark.grids([str(other)], [0], [0], flags, {}, tmp_path)


def test_whatever_a_method_raises_the_others_are_run(world, tmp_path, monkeypatch):
    fit, calls = train.fit.of, []

    def failing(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("out of\nmemory")
        return fit(*arguments)

    monkeypatch.setattr(train.fit, "of", failing)
    flags = given(world, category="tablet,weave")
    grids = benchmark.grids(["variation_model"], [0], [0], flags, {}, tmp_path)
    failed = benchmark.run(grids, tmp_path)
    cell = "variation_model/{}/variation_model/seed_0".format
    assert failed == {cell("tablet"): "RuntimeError: out of memory"}
    assert cells_in(tmp_path) == {cell("weave")}


def test_the_default_list_is_what_a_cpu_can_do():
    found = presets.for_a_cpu()
    assert {"filter_bank", "gaussian", "feature_pca", "variation_model", "quickstart"} <= set(found)
    assert not {"thesis", "cvpr2019_objects", "smoke"} & set(found)
    assert presets.read("filter_bank").options.head == "gaussian"
    assert presets.methods_of(["quickstart", "gaussian", "inspect", "feature_memory"]) == [
        *("autoencoder", "gaussian", "feature_memory"),
    ]


def test_the_binary(done, world):
    """All of it is done already but the failing cells, and the second start writes tables alone."""
    workdir, _ = done
    command = [f"--methods={','.join(METHODS)}", "--dataset=folder", "--train_images=0,3"]
    command += [f"--data_dir={world}/in", "--image_size=32", "--features=filter_bank"]
    command += ["--seeds=0,1", "--validation_fraction=0.25", f"--workdir={workdir}"]
    lines = {
        "whole": command,
        "dry": [*command, "--dry_run"],
        "tables": ["--tables_only", f"--workdir={workdir}"],
        "nowhere": ["--tables_only", f"--workdir={world}/none"],
        "method": ["--methods=gausian"],
        "other": ["--methods=gaussian", "--epochs=3"],
        "seeds": ["--seeds=x"],
        "range": ["--methods=filter_bank", "--image_size=4"],
        "help": ["--help"],
    }
    asked = {name: ("benchmark_methods", flags, "") for name, flags in lines.items()}
    where = {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(world / "cache")}
    told = run_all(asked, world, **where)
    left = len(json.loads((workdir / "failed.json").read_text()))
    code, out, err = told["whole"]
    assert code == 1, err
    assert err.count("error: ") == left
    assert err.count("finished before") == 24 - left
    assert "trivial: pca" in out
    assert f"{workdir}/benchmark.html" in out
    written = {"benchmark.csv", "benchmark.md", "benchmark.html", "ranks.png", "few_images.png"}
    before = {name: (workdir / name).read_bytes() for name in written}
    for name in ("ranks.png", "few_images.png"):
        with Image.open(workdir / name) as image:
            assert min(image.size) > 150
    assert told["tables"][0] == 0
    assert told["tables"][1] == out
    tables.write(workdir)
    assert {name: (workdir / name).read_bytes() for name in written} == before
    # one of those that failed had finished before its image was spoiled
    assert f"cells: {left - 1} new, 0 go on, {25 - left} finished" in told["dry"][1]
    for name, words in {
        "nowhere": "none: no such folder",
        "method": "did you mean gaussian",
        "other": "--epochs: a flag of --method=anogan or autoencoder or bigan or distilled",
        "seeds": "--seeds=x: must be whole numbers from 0 on",
        "range": "--image_size=4: must be from 8 to 8192",
    }.items():
        assert told[name][0] == 2, name
        assert words in told[name][2].splitlines()[-1], name
    assert told["help"][0] == 0
    assert "f_anogan_small,feature_autoencoder" in "".join(told["help"][1].split())
