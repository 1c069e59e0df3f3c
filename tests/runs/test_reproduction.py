"""The grid of categories, models and seeds, with the README's own architecture as a model."""

import itertools
import json
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cae_jax import data, models
from cae_jax.data import synthetic
from cae_jax.reports import architectures, thesis
from cae_jax.runs import cell as cells
from cae_jax.runs import job
from cae_jax.runs import thesis as thesis_runs
from cae_jax.runs.config import configure
from cae_jax.types import CaeError, UsageError

ROOT = pathlib.Path(__file__).parents[2]
MODELS, LOSSES = ["my_nets:Shallow"], ["l2", "ssim"]
SIZES = {"image_size": 64, "patch_size": 32, "stride": 16, "num_patches": 32, "batch_size": 16}


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """The README's architecture, word for word, as a module that can be imported."""
    text = (ROOT / "README.md").read_text()
    source = re.search(r"<!-- fork -->\n```python\n(.*?)```", text, re.DOTALL).group(1)
    assert len(source.splitlines()) < 30
    folder = tmp_path_factory.mktemp("fork")
    (folder / "my_nets.py").write_text(source)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("my_nets", None)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two good categories, and one with a test image that is none."""
    folder = tmp_path_factory.mktemp("images")
    names = ("grain", "weave")
    synthetic.write(folder, names, 64, 1, 0, n_train=8, n_good=3, n_defective_per_kind=1)
    for part in ("train/good", "test/good"):
        (folder / "broken" / part).mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for i in range(4):
        Image.fromarray(pixels).save(folder / "broken" / "train" / "good" / f"{i}.png")
    (folder / "broken" / "test" / "good" / "0.png").write_text("no image")
    return folder


@pytest.fixture(scope="module")
def grid(fork, images, tmp_path_factory):
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))
    workdir = tmp_path_factory.mktemp("work")
    how = {"epochs": 1, "members": "vmap", "workdir": str(workdir)}
    config = configure(dataset="folder", data_dir=str(images), **how, **SIZES)
    return config, job.run_grid(thesis_runs.grid(config, MODELS, [0, 1], LOSSES))


def test_cells_that_fail_do_not_stop_the_rest(grid):
    _, outcome = grid
    rows = outcome.rows()
    done = [(c["category"], c["model"], c["seed"], c["loss"]) for c in rows]
    wanted = itertools.product(("grain", "weave"), MODELS, (0, 1), LOSSES)
    assert done == list(wanted)
    assert all(cell["distance"] == cell["loss"] for cell in rows)
    names = ("my_nets.Shallow", "my_nets.Shallow-ssim")
    assert set(outcome.failed) == {
        f"broken/{name}/seed_{seed}" for name in names for seed in (0, 1)
    }
    assert all("0.png" in str(cause) for cause in outcome.failed.values())


def test_what_is_done_is_not_done_again(grid, monkeypatch):
    config, outcome = grid
    config = config.changed(category="grain,weave")

    def never(*_, **__):
        raise AssertionError("read again")

    monkeypatch.setattr(data, "read", never)
    again = job.run_grid(thesis_runs.grid(config, MODELS, [0, 1], LOSSES))
    assert again.failed == {}
    found = [[c["image_auroc"] for c in one.rows()] for one in (again, outcome)]
    assert found[0] == found[1]


def test_a_usage_error_comes_before_any_work(grid):
    config, _ = grid
    with pytest.raises(UsageError, match="bergmann"):
        job.run_grid(thesis_runs.grid(config, ["my_nets:Shallow", "bergman"], [0], ["l2"]))


def test_tables_are_written(grid, tmp_path):
    _, outcome = grid
    causes = {name: str(cause) for name, cause in outcome.failed.items()}
    thesis.write_tables(tmp_path, outcome.rows(), causes)
    names = {"table1.csv", "table5.csv", "table6.csv", "tables11_14.csv", "auroc.csv"}
    names |= {"tables2_3.csv", "localization.csv", "thresholds.csv"}
    assert {p.name for p in tmp_path.iterdir()} == names | {"tables.md", "table11.png"}
    table = pd.read_csv(tmp_path / "tables11_14.csv")
    assert len(table) == 4 * 2
    assert (table["seeds"] == 2).all()  # of the models trained on l2 alone, as the thesis's are
    both = pd.read_csv(tmp_path / "tables2_3.csv")
    assert list(zip(both["category"], both["loss"], strict=True)) == list(
        itertools.product(("grain", "weave"), LOSSES)
    )
    cells = [c for c in outcome.rows() if (c["category"], c["loss"]) == ("weave", "ssim")]
    for name in ("good_accuracy", "defect_accuracy"):
        values = [cell[f"{name}_min_area"] for cell in cells]
        assert both[name].iloc[-1] == pytest.approx(np.mean(values))
        assert both[f"{name}_spread"].iloc[-1] == pytest.approx(np.std(values, ddof=1))
    where = pd.read_csv(tmp_path / "localization.csv")
    assert len(where) == 2 * len(LOSSES) * 3  # every distance of every model
    at = where.query("category == 'weave' and loss == 'ssim' and distance == 'l2'")
    values = [cell["distances"]["l2"]["pixel_auroc"] for cell in cells]
    assert at["pixel_auroc"].item() == pytest.approx(np.mean(values))
    page = (tmp_path / "tables.md").read_text()
    assert "Failed: broken/my_nets.Shallow/seed_0" in page
    assert "batch 16" in page
    assert "stride 16" in page


def test_nothing_finished_is_an_error(tmp_path):
    with pytest.raises(CaeError, match="no space"):
        thesis.write_tables(tmp_path, [], {"a/b/seed_0": "no space"})


def test_the_forks_model_is_described_and_learns(grid, fork):
    one = architectures.architecture("my_nets:Shallow", 1, 32, {"code": "8"})
    assert one["parameters"] == 16 * 16 + 16 + (256 * 8 + 8) + (128 * 16 + 16) + (256 + 1)
    config, _ = grid
    cell = cells.make(config.changed(model="my_nets:Shallow"), "grain")
    scores = pd.read_csv(cell.folder / "scores.csv")
    assert np.isfinite(scores["distance"]).all()
    assert models.build("my_nets:Shallow", 3, 64, {}).channels == 3


def test_the_benchmark_runs_on_it(fork, tmp_path):
    command = [sys.executable, "-m", "benchmarks.inference", "--model=my_nets:Shallow"]
    command += ["--image_size=64", "--patch_size=32", "--stride=16", "--batch_size=1,3"]
    command += ["--repeats=2", f"--json={tmp_path / 'found.json'}"]
    environment = {**os.environ, "PYTHONPATH": str(fork)}
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment)
    found = json.loads((tmp_path / "found.json").read_text())
    assert [one["batch_size"] for one in found] == [1, 3]
    for one in found:
        assert 0 < one["p50_ms_per_image"] <= one["p95_ms_per_image"] <= one["p99_ms_per_image"]
        assert one["p50_ms_per_patch"] == pytest.approx(one["p50_ms_per_image"] / 16)
