"""The thesis's systems from made-up cells, against plain Python over the printed CSVs."""

import csv
import pathlib
import statistics

import numpy as np
import pandas as pd
import pytest

from cae_jax.reports.thesis import systems, systems_page, tables
from cae_jax.reports.thesis.systems import Missing
from cae_jax.types import CaeError

TABLES = pathlib.Path(tables.__file__).parents[2] / "tables"
SIX = ("ae_ssim", "ae_l2", "anogan", "feature_dictionary", "gmm_texture", "variation_model")


def read(name):
    with open(TABLES / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def cell(rng, system, category, seed=0, image_auroc=0.5, epochs=None, pca=0.9):
    found = {
        key: float(rng.random())
        for key in ("pixel_auroc", "au_pro_30", "train_seconds", "ms_per_image")
    }
    rules = ("min_area", "val_90")
    found |= {f"{k}_accuracy_{r}": float(rng.random()) for k in ("good", "defect") for r in rules}
    found |= {"epochs": epochs, "num_patches": 100} if epochs else {}
    found |= {"n_train": 9, "n_validation": 1, "n_good": 2, "n_defective": 3, "image_size": 64}
    found |= {"dataset": "folder", "device": "2 CPU cores", "jax": "0.0", "seed": seed}
    trivial = {"pca": pca, "contrast": 0.1, "brightness": None}
    own = {"system": system, "category": category, "image_auroc": image_auroc}
    return {**found, **own, "trivial_auroc": trivial}


@pytest.fixture(scope="module")
def cells():
    rng = np.random.default_rng(3)
    return [
        cell(rng, "ae_l2", "grid", 0, 0.8, 4),
        cell(rng, "ae_l2", "grid", 1, 0.9, 4),
        cell(rng, "anogan", "grid", 0, 0.6, 2, pca=0.7),
        cell(rng, "f_anogan", "grid", 0, 0.95, 2),
        cell(rng, "variation_model", "grid", 0, 0.4),
        cell(rng, "anogan", "cookie", 0, 0.5, 2, pca=0.3),
        cell(rng, "variation_model", "cookie", 0, 0.7, pca=0.2),
    ]


MISSING = [Missing("feature_dictionary", "", "no weights"), Missing("ae_l2", "cookie", "diverged")]


def test_tables_2_and_3_are_whole_and_ours_stand_beside(cells):
    table = systems.tables2_3(systems.by_category(cells, MISSING))
    printed = {(r["category"], r["method"]): r for r in read("table2_3_mvtec_baselines")}
    kinds = {r["category"]: r["kind"] for r in read("table1_dataset")}
    numbers = {"object": 2, "texture": 3, None: 0}
    assert len(table) == (15 + 1) * 6
    seen = 0
    for row in table.itertuples():
        assert row.table == numbers[kinds.get(row.category)]
        theirs = printed.get((row.category, row.method))
        seen += theirs is not None
        for kind in ("good", "defect"):
            value = getattr(row, f"{kind}_accuracy_printed")
            assert np.isnan(value) if theirs is None else value == float(theirs[f"{kind}_accuracy"])
    assert seen == len(printed) == 71
    assert table["table"].drop_duplicates().tolist() == [2, 3, 0]
    at = table.set_index(["category", "title"])
    two = cells[:2]
    for kind in ("good", "defect"):
        for ours, rule in (("accuracy", "min_area"), ("leak_free", "val_90")):
            values = [one[f"{kind}_accuracy_{rule}"] for one in two]
            mean = at.loc[("grid", "AE (L2)"), f"{kind}_{ours}"]
            assert mean == pytest.approx(statistics.mean(values))
    assert np.isnan(at.loc[("bottle", "AE (L2)"), "good_accuracy"])
    assert at.loc[("cookie", "AE (L2)"), "error"] == "diverged"


def test_every_system_that_was_asked_for_has_its_row(cells):
    of = systems.by_category(cells, MISSING)
    asked = ["ae_l2", "anogan", "feature_dictionary", "variation_model", "f_anogan", "pca"]
    for category in ("grid", "cookie"):
        assert of.loc[of["category"] == category, "name"].tolist() == asked
    at = of.set_index(["category", "name"])
    assert at["error"][at["error"] != ""].to_dict() == {
        ("grid", "feature_dictionary"): "no weights",
        ("cookie", "feature_dictionary"): "no weights",
        ("cookie", "ae_l2"): "diverged",
    }
    row, two = at.loc[("grid", "ae_l2")], cells[:2]
    assert (row["seeds"], row["patches_seen"], row["image_size"]) == (2, 400, 64)
    assert row["image_auroc"] == pytest.approx(0.85)
    assert row["image_auroc_spread"] == pytest.approx(statistics.stdev([0.8, 0.9]))
    for name in ("train_seconds", "ms_per_image"):
        assert row[name] == pytest.approx(statistics.median([one[name] for one in two]))
    assert np.isnan(at.loc[("grid", "variation_model"), "patches_seen"])
    # of the systems' sizes the best PCA counts: 0.9, not the 0.7 of AnoGAN's images
    assert at.loc[("grid", "pca"), "image_auroc"] == pytest.approx(0.9)
    assert at.loc[("grid", "ae_l2"), "flag"] == "does not beat pca (0.900)"
    assert at.loc[("grid", "f_anogan"), "flag"] == ""


def test_where_gans_are_worse_than_pca_it_says_so(cells):
    of = systems.by_category(cells, MISSING)
    assert systems.gans_against_pca(of) == [
        "grid: worse than PCA (0.900): AnoGAN 0.600; not worse: f-AnoGAN 0.950.",
        "cookie: worse than PCA (0.300): none; not worse: AnoGAN 0.500.",
    ]
    shown = [{**one, "trivial_auroc": {"pca": 0.7, "contrast": 0.9}} for one in cells[2:4]]
    at = systems.by_category(shown, []).set_index("name")["flag"]
    assert at["anogan"] == "does not beat contrast (0.900), worse than pca (0.700)"
    assert at["f_anogan"] == ""
    without = systems.by_category([one for one in cells if "anogan" not in one["system"]], [])
    assert systems.gans_against_pca(without) == []


def test_the_page(cells, tmp_path):
    printed = systems_page.write(tmp_path / "new", cells, MISSING)
    names = {"tables.md", "methods.csv", "tables2_3.csv", "table1.csv"}
    assert {path.name for path in (tmp_path / "new").iterdir()} == names
    text = (tmp_path / "new" / "tables.md").read_text()
    assert text.startswith("# The systems that the thesis names, after few epochs\n")
    assert "saw 200 (AnoGAN, f-AnoGAN); 400 (AE (L2))." in text
    assert "Missing: AE (L2), cookie: diverged" in text
    assert "Missing: CNN feature dictionary, grid, cookie: no weights" in text
    assert "grid: 10 / 2 / 3 images (training, good, defective) where Table 1 prints 264" in text
    assert "- grid: worse than PCA (0.900): AnoGAN 0.600;" in printed
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    third = [line.strip("| ").split(" | ") for line in lines if line.startswith("| grid | thesis")]
    theirs = {r["method"]: r for r in read("table2_3_mvtec_baselines") if r["category"] == "grid"}
    pairs = ["{good_accuracy} / {defect_accuracy}".format(**theirs[k]) for k in theirs]
    assert third[0][2:] == [pairs[0], f"**{pairs[1]}**", *pairs[2:], "-"]
    (failed,) = (line for line in lines if line.startswith("| cookie | AE (L2)"))
    assert failed.endswith(" - | - | missing: diverged |")
    enough = [{**one, "epochs": 20_000} for one in cells]
    systems_page.write(tmp_path / "long", enough, [])
    text = (tmp_path / "long" / "tables.md").read_text()
    assert text.startswith("# The systems that the thesis names\n")
    assert "FEW EPOCHS" not in text
    with pytest.raises(CaeError, match="no cell finished: no weights"):
        systems_page.write(tmp_path / "none", [], MISSING)
    assert not (tmp_path / "none").exists()


def test_the_six_of_tables_2_and_3_are_the_printed_columns():
    listed = systems.listed()
    six = listed[listed["column"] != ""]
    assert tuple(six["name"]) == SIX
    printed = pd.DataFrame(read("table2_3_mvtec_baselines"))["method"].unique()
    assert set(six["column"]) == set(printed)
    assert set(listed.loc[listed["gan"] == 1, "name"]) == {"anogan", "bigan", "f_anogan"}


def test_saturated_overlap_has_a_column_where_there_is_any(tmp_path, cells):
    assert "au_spro_5" not in systems.by_category(cells, MISSING)
    some = [{**one, "au_spro_5": 0.25 * i} for i, one in enumerate(cells[:2], 1)] + cells[2:]
    rows = systems.by_category(some, MISSING).set_index(["category", "name"])
    assert rows.loc[("grid", "ae_l2"), "au_spro_5"] == 0.375
    assert rows["au_spro_5"].count() == 1
    systems_page.write(tmp_path, some, MISSING, excel=True)
    assert "| AU-PRO 0.3 | AU-sPRO 0.05 |" in (tmp_path / "tables.md").read_text()
    for path in tmp_path.glob("*.csv"):
        assert path.read_bytes().startswith(b"\xef\xbb\xbf"), path
