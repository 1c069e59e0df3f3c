"""The tables of a benchmark against loops over its files, and the pages made of them."""

import csv
import json
import re

import numpy as np
import pandas as pd
import pytest
from html_pages import HOSTILE, Document
from scipy import stats
from sklearn.metrics import roc_auc_score

from cae_jax import files
from cae_jax.evaluation import resampling, summary
from cae_jax.evaluation.scores import scores_frame
from cae_jax.reports import benchmark
from cae_jax.reports.benchmark import cells, page, pairs, tables
from cae_jax.types import CaeError, DataError, UsageError

CATEGORIES, ENTRIES, SEEDS = ("nut", "b<i>olt"), ("one", "two", "three"), (0, 1, 2)
QUALITY = {"one": 2.5, "two": 1.2, "three": 0.3}
COSTS = ("train_seconds", "ms_per_image", "model_megabytes")


def write_cell(workdir, entry, category, seed, few=0, held_out=8, good=9, bad=12, **more):
    """A finished cell with random scores; the better its entry, the further they are apart."""
    folder = workdir / cells.folder_name(entry, few) / category / "some_run" / f"seed_{seed}"
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, few, len(entry), len(category)])
    labels = [0] * (held_out + good) + [1] * bad
    splits = ["validation"] * held_out + ["test"] * (good + bad)
    distances = rng.normal(0, 1, len(labels)) + QUALITY.get(entry, 1) * np.array(labels)
    paths = [f"{label}/{i:02}{HOSTILE[0]}" for i, label in enumerate(labels)]
    kinds = ["defect" if label else "good" for label in labels]
    frame = scores_frame(paths, labels, kinds, splits, distances)
    files.write_csv(folder / "scores.csv", frame.sample(frac=1, random_state=seed))
    trivial = {"brightness": rng.random(), "<pca>": rng.random()}
    metrics = {
        **summary.summarize(frame), "dataset": "folder", "category": category, "seed": seed,
        "method": "gaussian", "run": "some_run", "distance": "d", "n_train": few or 30,
        "pixel_auroc": rng.random(), "au_pro_30": rng.random(), "au_pro_5": rng.random(),
        **{name: float(rng.random()) for name in COSTS}, "trivial_auroc": trivial,
        "flag": "", "device": "2 CPU cores", "jax": "0.10", **more,
    }  # fmt: skip
    files.write_json(folder / "metrics.json", metrics)
    channels = 3 if category == "nut" else 1
    flags = f"--image_size=64\n--channels={channels}\n--seed={seed}\n--train_images={few}\n"
    (folder / "flags.txt").write_text(flags + f"--data_dir=x/{category}\n")
    return frame


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A workdir: entries x categories x seeds, from all images and from two; one cell failed."""
    workdir = tmp_path_factory.mktemp("made")
    frames = {
        (entry, category, seed, few): write_cell(workdir, entry, category, seed, few)
        for entry in ENTRIES
        for category in CATEGORIES
        for seed in SEEDS
        for few in (0, 2)
    }
    cells.write_failed(workdir, {"four/nut/x/seed_0": "no <b>memory</b> | at all"})
    return workdir, frames, cells.read(workdir)


def parts(frame):
    test = frame[frame["split"] == "test"].sort_values("path")
    held = np.sort(frame.loc[frame["split"] == "validation", "distance"])
    threshold = held[int(np.ceil(0.9 * len(held))) - 1]
    return test["label"].to_numpy(), test["distance"].to_numpy(), threshold


def test_a_row_for_each_cell(made):
    _, frames, found = made
    table = found.table
    assert len(table) == len(frames) + 1
    for row in table[table["error"] == ""].to_dict("records"):
        labels, scores, threshold = parts(
            frames[row["entry"], row["category"], row["seed"], row["train_images"]]
        )
        called = scores > threshold
        good, bad = 1 - called[labels == 0].mean(), called[labels == 1].mean()
        assert row["image_auroc"] == pytest.approx(roc_auc_score(labels, scores))
        assert row["good_accuracy"] == pytest.approx(good)
        assert row["defect_accuracy"] == pytest.approx(bad)
        assert row["balanced_accuracy"] == pytest.approx((good + bad) / 2)
        assert row["false_alarms"] == pytest.approx(1 - good)
        assert row["image_auroc_low"] <= row["image_auroc"] <= row["image_auroc_high"]
        assert (row["image_size"], row["threshold"]) == (64, "quantile, 90 % of validation good")
    last = table.iloc[-1]
    assert (last["entry"], last["category"], last["seed"]) == ("four", "nut", 0)
    assert last["error"] == "no <b>memory</b> | at all"


def test_every_two_methods_on_the_same_images(made):
    """DeLong has a test of his own; here images, seeds, pairs; verdicts by a loop."""
    workdir, frames, found = made
    rows = pairs.table(found, 0)
    assert len(rows) == 2 * 3
    assert set(rows["n_images"]) == {21}
    for category, part in rows.groupby("category"):
        assert part["one"].tolist() == ["one", "one", "two"]
        smallest = part["p_value"].min()
        assert part["p_holm"].min() == pytest.approx(min(1, 3 * smallest))
        for row in part.to_dict("records"):
            test = {
                name: [parts(frames[row[name], category, seed, 0]) for seed in SEEDS]
                for name in ("one", "other")
            }
            aurocs = {
                name: np.mean([roc_auc_score(labels, scores) for labels, scores, _ in each])
                for name, each in test.items()
            }
            assert row["difference"] == pytest.approx(aurocs["one"] - aurocs["other"])
            assert row["low"] < row["difference"] < row["high"]
            right = {}
            for name, each in test.items():
                labels, scores, threshold = each[0]
                right[name] = (scores > threshold) == (labels == 1)
            only = [(right[a] & ~right[b]).sum() for a, b in (("one", "other"), ("other", "one"))]
            assert [row["only_one"], row["only_other"]] == only
            wanted = stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1
            assert row["verdicts_p_value"] == pytest.approx(wanted)
    assert pairs.table(found, 2)["category"].nunique() == 2
    again = benchmark.write(workdir)
    assert workdir / "pairs.csv" in again.paths
    assert len(pd.read_csv(workdir / "pairs.csv")) == 6


def test_other_images_are_not_compared(tmp_path):
    for entry, good in (("one", 9), ("two", 9), ("three", 8)):
        write_cell(tmp_path, entry, "nut", 0, good=good)
    rows = pairs.table(cells.read(tmp_path), 0)
    assert [*zip(rows["one"], rows["other"], strict=True)] == [("one", "two")]


def test_means_over_seeds_and_categories(made):
    _, _, found = made
    cell = found.table[found.table["error"] == ""].set_index(
        ["train_images", "entry", "category", "seed"]
    )
    by_category, overall = tables.by_category(found), tables.overall(found)
    assert len(by_category) == 2 * 3 * 2
    for row in by_category.to_dict("records"):
        where = row["train_images"], row["entry"], row["category"]
        for name in ("image_auroc", "pixel_auroc", "false_alarms"):
            values = [cell.loc[(*where, seed), name] for seed in SEEDS]
            assert row[name] == pytest.approx(np.mean(values))
            assert row[f"{name}_spread"] == pytest.approx(np.std(values, ddof=1))
        seconds = [cell.loc[(*where, seed), "train_seconds"] for seed in SEEDS]
        assert row["train_seconds"] == np.median(seconds)
    for row in overall.to_dict("records"):
        values = [
            np.mean([cell.loc[(row["train_images"], row["entry"], c, seed), "au_pro_5"]
                     for c in CATEGORIES]) for seed in SEEDS
        ]  # fmt: skip
        assert row["au_pro_5"] == pytest.approx(np.mean(values))
        assert row["au_pro_5_spread"] == pytest.approx(np.std(values, ddof=1))
    at = overall[overall["train_images"] == 0]
    assert at["image_auroc"].is_monotonic_decreasing
    assert set(at["categories"]) == {2}


def test_an_interval_of_a_mean_draws_the_same_images_for_all_seeds(made):
    """The mean AUROC of one category's seeds, each resample counted image by image."""
    _, frames, found = made
    rows = tables.by_category(found).set_index(["train_images", "entry", "category"])
    labels = parts(frames["two", "nut", 0, 0])[0]
    counts = resampling.draws(labels, [0, cells.zlib.crc32(b"nut")])
    drawn = [np.repeat(np.arange(labels.size), count) for count in counts]
    scores = [parts(frames["two", "nut", seed, 0])[1] for seed in SEEDS]
    means = [np.mean([auroc(labels[i], one[i]) for one in scores]) for i in drawn]
    row = rows.loc[(0, "two", "nut")]
    wanted = np.quantile(means, [0.025, 0.975])
    np.testing.assert_allclose([row["image_auroc_low"], row["image_auroc_high"]], wanted)
    whole = tables.overall(found).set_index(["train_images", "entry"]).loc[(0, "two")]
    assert whole["image_auroc_high"] - whole["image_auroc_low"] < wanted[1] - wanted[0]


def auroc(labels, scores):
    above = scores[labels == 1][:, None] - scores[labels == 0]
    return np.mean((above > 0) + (above == 0) / 2)


def test_trivial_scores_are_rows_to_beat(made):
    _, _, found = made
    rows = tables.trivial(found).set_index(["category", "entry"])["image_auroc"]
    cell = found.table[(found.table["error"] == "") & (found.table["train_images"] == 0)]
    for name in ("brightness", "<pca>"):
        best = [
            max(
                cell[(cell["category"] == c) & (cell["entry"] == e)][f"trivial_{name}"].mean()
                for e in ENTRIES
            )
            for c in CATEGORIES
        ]
        assert [rows[c, name] for c in CATEGORIES] == pytest.approx(best)
        assert rows["", name] == pytest.approx(np.mean(best))


def test_ranks_and_what_they_may_be_taken_for(made, rng):
    _, _, found = made
    base = tables.by_category(found).query("train_images == 0")
    of = tables.ranked(base)
    assert set(of.categories) == set(CATEGORIES)
    at = base.set_index(["category", "entry"])["image_auroc"]
    values = np.array([[at[c, e] for e in of.entries] for c in of.categories])
    np.testing.assert_array_equal(of.found.ranks, stats.rankdata(-values, axis=1))
    said = tables.words(of)
    wanted = stats.friedmanchisquare(*values.T)
    assert f"chi-square {wanted.statistic:.2f}, p = {wanted.pvalue:.3f}" in said
    assert "rough with so few categories" in said
    assert "CD = 2.34" in said
    assert "at most 2 apart: with 2 categories no difference" in said
    two = tables.words(tables.ranked(base[base["entry"] != "one"]))
    assert "needs three methods" in two
    one = tables.ranked(base[base["entry"] == "one"])
    assert tables.words(one) == "One method: nothing to rank."
    lacking = base[(base["entry"] != "two") | (base["category"] == "nut")]
    assert tables.ranked(lacking).absent == ["two"]
    assert tables.words(tables.ranked(lacking)).endswith("for want of a category: two.")
    rare = pd.concat([base, base.head(1).assign(category="rare")])
    assert set(tables.ranked(rare).categories) == set(CATEGORIES)
    assert tables.ranked(base.assign(image_auroc=np.nan)) is None
    many = [{"category": str(c), "entry": e, "image_auroc": QUALITY[e] + rng.random() / 9}
            for c in range(20) for e in ENTRIES]  # fmt: skip
    said = tables.words(tables.ranked(pd.DataFrame(many)))
    assert "p < 0.001. " in said
    assert "at most" not in said


def test_the_pages(made):
    workdir, frames, _ = made
    written = benchmark.write(workdir)
    names = {f"benchmark.{kind}" for kind in ("csv", "md", "html")}
    names |= {"pairs.csv", "ranks.png", "few_images.png"}
    assert {path.name for path in written.paths} == names
    html = Document((workdir / "benchmark.html").read_text())
    assert html.all("b") == html.all("pca") == []  # nothing of the data is a tag
    assert {a["src"].partition(",")[0] for a in html.all("img")} == {"data:image/png;base64"}
    assert all(int(a["width"]) > 100 for a in html.all("img"))
    links = [a["href"] for a in html.all("a") if a["href"].endswith("report.html")]
    assert len(links) == len(frames)
    assert "./one-train_2/b%3Ci%3Eolt/some_run/seed_1/report.html" in links
    assert "four/nut/x/seed_0" in html.text
    anchors = {a["href"][1:] for a in html.all("a") if a["href"].startswith("#")}
    assert anchors <= {a["id"] for _, a in html.elements if "id" in a}
    text = (workdir / "benchmark.md").read_text()
    assert "one: --channels is 1 (b<i>olt); 3 (nut)" in text
    assert "Failed: four/nut/x/seed_0: no <b>memory</b> \\| at all" in text
    assert "nut (38 training, 9 good, 12 defective)" in text
    assert "computed on: 2 CPU cores, jax 0.10" in text
    tables_of = [line for line in text.splitlines() if line.startswith("|")]
    assert all(len(re.findall(r"(?<!\\)\|", line)) in (17, 18, 11, 5) for line in tables_of)
    assert "## Few images" in text
    assert "trivial: brightness" in written.text
    with open(workdir / "benchmark.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(frames) + 1
    before = {name: (workdir / name).read_bytes() for name in names}
    benchmark.write(workdir)
    assert {name: (workdir / name).read_bytes() for name in names} == before


def test_without_images_held_out_no_accuracy_is_given(tmp_path):
    """The threshold that counts then comes from the test images, so it is no one's to show."""
    write_cell(tmp_path, "one", "nut", 0, held_out=0)
    row = cells.read(tmp_path).table.iloc[0]
    names = ["good_accuracy", "balanced_accuracy", "false_alarms", "balanced_accuracy_low"]
    assert row[names].isna().all()
    assert row["threshold"] == ""
    (tmp_path / "ranks.png").write_text("of before")
    written = benchmark.write(tmp_path)
    assert {path.suffix for path in written.paths} == {".csv", ".md", ".html"}
    assert not (tmp_path / "ranks.png").exists()
    assert "One method: nothing to rank." in written.text
    assert "Each category" in (tmp_path / "benchmark.md").read_text()


def test_one_class_alone_and_metrics_of_an_older_version(tmp_path):
    write_cell(tmp_path, "one", "nut", 0, good=0)
    path = tmp_path / "one/nut/some_run/seed_0/metrics.json"
    metrics = json.loads(path.read_text())
    del metrics["model_megabytes"], metrics["trivial_auroc"]
    files.write_json(path, metrics)
    benchmark.write(tmp_path)
    assert np.isnan(cells.read(tmp_path).table["image_auroc"].astype(float)).all()


def test_what_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="no such folder"):
        benchmark.write(tmp_path / "none")
    with pytest.raises(CaeError, match="nothing was run"):
        benchmark.write(tmp_path)
    cells.write_failed(tmp_path, {"a/b/c/seed_0": "no space"})
    with pytest.raises(CaeError, match="no space"):
        benchmark.write(tmp_path)
    write_cell(tmp_path, "a", "b", 0)
    (tmp_path / "failed.json").write_text("[1]")
    with pytest.raises(DataError, match=r"failed.json: cannot be read"):
        benchmark.write(tmp_path)


def test_a_failure_is_forgotten_once_its_cell_is_finished(tmp_path):
    cells.write_failed(tmp_path, {"one/nut/some_run/seed_0": "no space", "x/y/z/seed_1": "why"})
    write_cell(tmp_path, "one", "nut", 0)
    assert cells.read_failed(tmp_path) == {"x/y/z/seed_1": "why"}
    write_cell(tmp_path, "x", "y", 1)
    (tmp_path / "x/y/some_run").rename(tmp_path / "x/y/z")
    cells.write_failed(tmp_path, {})
    assert not (tmp_path / "failed.json").exists()


def test_a_table_of_markdown_is_one():
    shown = page.grid(page.Table("", ["a", "b"], [[page.words("x|y"), page.figure("1", 1, "[0]")]]))
    assert shown == ["| a | b |", "| --- | --- |", "| x\\|y | 1 [0] |"]


def test_saturated_overlap_has_columns_where_there_is_any(tmp_path, made):
    values = {"one": (0.25, 0.5), "two": (0.75, 0.875)}
    for entry, pair in values.items():
        for seed, value in enumerate(pair):
            more = {"au_spro_30": 1.0, "au_spro_5": value, "au_spro_1": 0.0}
            write_cell(tmp_path, entry, "nut", seed, **more)
        write_cell(tmp_path, entry, "washer", 0)
    written = benchmark.write(tmp_path, excel=True)
    found = cells.read(tmp_path)
    means = tables.by_category(found).set_index(["category", "entry"])
    for entry, pair in values.items():
        assert means.loc[("nut", entry), "au_spro_5"] == pytest.approx(np.mean(pair))
        assert means.loc[("nut", entry), "au_spro_5_spread"] == pytest.approx(np.std(pair, ddof=1))
        assert np.isnan(means.loc[("washer", entry), "au_spro_5"])
    text = (tmp_path / "benchmark.md").read_text()
    assert "| AU-PRO 0.05 | AU-sPRO 0.3 | AU-sPRO 0.05 | good right |" in text
    assert "0.812 ± 0.088" in text
    for path in (tmp_path / "benchmark.csv", tmp_path / "pairs.csv"):
        assert path in written.paths
        assert path.read_bytes().startswith(b"\xef\xbb\xbf")
        pd.testing.assert_index_equal(files.read_csv(path).columns, pd.read_csv(path).columns)
    without = page.page(made[2])
    assert "sPRO" not in page.markdown(without)
    assert not [name for name in made[2].table if "spro" in name]
