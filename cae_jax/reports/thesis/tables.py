"""The thesis's tables with ours beside its own: from the finished cells of a workdir.

Printed values are package data (`cae_jax/tables`), as strings in the CSVs: Tables 1, 5, 6, and 11
to 14 of the thesis, and Tables 2 and 3, which it takes from Bergmann et al., CVPR 2019.
"""

from __future__ import annotations

import importlib.resources
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cae_jax.evaluation import trivial_scores
from cae_jax.reports.run_files import label

PERCENTS = {11: 70, 12: 100, 13: 90, 14: 80}  # table -> share of the accuracies
PRINTED = {  # model -> its column in Tables 11 to 14
    "bergmann": "bergmann2019_impl",
    "oh_yun": "oh_yun2018",
    "chow": "chow2020",
    "gong": "gong2019",
}
PAPER = "bergmann2019_paper"
AUTOENCODERS = {"l2": "AE (L2)", "ssim": "AE (SSIM)"}  # loss -> method in Tables 2 and 3
SATURATED = ("au_spro_30", "au_spro_5", "au_spro_1")  # where the data have saturations
LOCALIZATION = ("image_auroc", "pixel_auroc", "pixel_ap", "au_pro_30", "au_pro_5", "au_pro_1")
_BY = ["category", "model"]
_BY_LOSS = ["category", "model", "loss", "distance"]


def printed(table: str) -> pd.DataFrame:
    """Returns a table of the package data by its file's stem, e.g. "table11_14"."""
    file = importlib.resources.files("cae_jax") / "tables" / f"{table}.csv"
    return pd.read_csv(io.StringIO(file.read_text(encoding="utf-8")))


def table1(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns Table 1, the images found against the printed counts; one row per category."""
    found = pd.DataFrame(
        {
            "category": cell["category"],
            "n_train": cell["n_train"] + cell["n_validation"],
            "n_test_good": cell["n_good"],
            "n_test_defective": cell["n_defective"],
        }
        for cell in cells
    ).drop_duplicates("category")
    counts = printed("table1_dataset").drop(columns=["kind", "image_side"])
    return found.merge(counts, "left", on="category", suffixes=("", "_printed"))


def trained_on_l2(cells: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Returns the cells that Tables 5, 6 and 11 to 14 are about: loss and distance L2."""
    return [cell for cell in cells if (cell.get("loss"), cell.get("distance")) == ("l2", "l2")]


def tables2_3(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns Tables 2 and 3, AE (L2) and AE (SSIM) of CVPR 2019, beside our L2 and SSIM.

    Ours are judged as the paper judges: by the smallest defect in maps whose threshold comes from
    good validation images, mean over seeds and sample standard deviation as spread.
    """
    trained = [cell for cell in cells if cell.get("loss") in AUTOENCODERS]
    names = ("good_accuracy_min_area", "defect_accuracy_min_area")
    columns = {name.removesuffix("_min_area"): name for name in names}
    ours = _over_seeds(trained, columns, _BY_LOSS)
    ours["method"] = ours["loss"].map(AUTOENCODERS)
    table = printed("table2_3_mvtec_baselines")
    ours = ours.merge(table, "left", on=["category", "method"], suffixes=("", "_printed"))
    return ours.drop(columns="method")


def localization(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns how well images and pixels are told apart by every distance of every cell, mean
    over seeds; `distance` is the one that the columns are of, not only the cell's own."""
    each = [
        {**cell, "distance": name, **found}
        for cell in cells
        for name, found in cell["distances"].items()
    ]
    names = (*LOCALIZATION, *(name for name in SATURATED if any(name in one for one in each)))
    table = _over_seeds(each, {name: name for name in names}, _BY_LOSS)
    table["below_chance"] = [
        ", ".join(name for name in ("image_auroc", "pixel_auroc") if row[name] < 0.5)
        for _, row in table.iterrows()
    ]
    return table


def threshold_rules(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns what every threshold rule gives, mean over seeds: one row per rule, with its source,
    and per category, model and loss.

    `leak_points` is what the rule's look at the test images is worth, in percentage points of the
    mean accuracy, against the same rule on validation images; `below_chance` says that guessing
    has the better mean accuracy.
    """
    by = [*_BY_LOSS, "rule", "percent", "source", "leaks"]
    names = ("good_accuracy", "defect_accuracy", "mean_accuracy")
    each = []
    for cell in cells:
        for point in cell["operating_points"]:
            percent = "" if point["percent"] is None else str(point["percent"])
            each.append({**cell, **point, "percent": percent, "leak_points": np.nan})
            if point["leaks"] and point["rule"] == "ceil":
                each[-1]["leak_points"] = cell["leak_points"].get(percent, np.nan)
    table = _over_seeds(each, {name: name for name in (*names, "leak_points")}, by)
    table["below_chance"] = table["mean_accuracy"] < 0.5
    return table


def table5(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns Table 5, distances of good and defective images: our medians over a cell's images,
    averaged over seeds, beside the single images that the thesis prints."""
    rows = [
        {"category": c["category"], "model": c["model"], "data_kind": kind, "l2_distance": value}
        for c in cells
        for kind in ("good", "defective")
        if (value := c[f"median_distance_{kind}"]) is not None
    ]
    ours = pd.DataFrame(rows, columns=[*_BY, "data_kind", "l2_distance"])
    ours = ours.groupby([*_BY, "data_kind"], sort=False, as_index=False).mean()
    table = printed("table5_distances")
    return ours.merge(table, "left", on=["category", "data_kind"], suffixes=("", "_printed"))


def table6(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns Table 6, the thresholds of one category, with the printed ones of Grid.

    Takes Grid where it is among the cells, else the first category; every model, first seed.
    """
    names = [cell["category"] for cell in cells]
    name = "grid" if "grid" in names else names[0]
    rows = []
    for cell in cells:
        first = all(cell["seed"] <= c["seed"] for c in cells if c["model"] == cell["model"])
        for point in cell["operating_points"] if cell["category"] == name and first else ():
            if point["leaks"] and point["rule"] == "ceil":
                keys = ("threshold", "good_accuracy", "defect_accuracy")
                row = {"category": name, "model": cell["model"], "percent": point["percent"]}
                rows.append(row | {key: point[key] for key in keys})
    table = printed("table6_grid_thresholds").rename(columns={"fraction_percent": "percent"})
    return pd.DataFrame(rows).merge(table, "left", on="percent", suffixes=("", "_printed_grid"))


def tables11_14(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns Tables 11 to 14 in one: a row per table, category and model.

    Ours are means over seeds, with the sample standard deviation as spread (NaN for one seed);
    thesis_* are printed for the model, paper_* for the CVPR 2019 paper's AE (L2). The thesis's
    milliseconds are most likely per patch.
    """
    frames = []
    for table, percent in PERCENTS.items():
        ours = _over_seeds(
            cells,
            {
                "good_accuracy": f"good_accuracy_{percent}",
                "defect_accuracy": f"defect_accuracy_{percent}",
                "ms_per_image": "ms_per_image",
                "ms_per_patch": "ms_per_patch",
            },
        )
        ours.insert(0, "table", table)
        ours.insert(1, "percent", percent)
        of_table = printed("table11_14").query("fraction == @percent").drop(columns="fraction")
        ours["method"] = ours["model"].map(PRINTED)
        ours = ours.merge(
            of_table.add_prefix("thesis_"),
            "left",
            left_on=["category", "method"],
            right_on=["thesis_category", "thesis_method"],
        )
        paper = of_table[of_table["method"] == PAPER].add_prefix("paper_")
        ours = ours.merge(paper, "left", left_on="category", right_on="paper_category")
        frames.append(ours)
    drop = ["method", "thesis_category", "thesis_method"]
    drop += ["paper_category", "paper_method", "paper_inference_ms"]
    return pd.concat(frames, ignore_index=True).drop(columns=drop)


def honest(cells: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns AUROC and leak-free accuracies per category and model, beside the best trivial score.

    Column flag says where a model is below chance or does not beat the best trivial score.
    """
    names = ("image_auroc", "good_accuracy_val_90", "defect_accuracy_val_90")
    frame = _over_seeds(cells, {name: name for name in names}, _BY_LOSS)
    trivial = {cell["category"]: cell["trivial_auroc"] for cell in cells}
    frame["best_trivial"] = [trivial_scores.best(trivial[name]) for name in frame["category"]]
    frame["trivial_auroc"] = [
        trivial[category].get(name, np.nan)
        for category, name in zip(frame["category"], frame["best_trivial"], strict=True)
    ]
    frame["flag"] = [
        trivial_scores.flag(auroc, trivial[category])
        for auroc, category in zip(frame["image_auroc"], frame["category"], strict=True)
    ]
    return frame


def _named(cell: Mapping[str, Any], key: str) -> Any:
    """A cell's value to group by: never None, for groups of that are dropped."""
    value = cell.get(key)
    if value is None:
        value = label(cell) if key == "model" else None
    return "" if value is None else value


def _over_seeds(
    cells: Sequence[Mapping[str, Any]], columns: Mapping[str, str], by: Sequence[str] = tuple(_BY)
) -> pd.DataFrame:
    """Mean and sample standard deviation over seeds of values, as NAME and NAME_spread."""
    frame = pd.DataFrame(
        [
            {key: _named(cell, key) for key in by}
            | {new: cell.get(old) for new, old in columns.items()}
            for cell in cells
        ],
        columns=[*by, *columns],
    ).astype({name: float for name in columns})
    groups = frame.groupby(list(by), sort=False)
    result = groups.mean()
    for name in columns:
        result[f"{name}_spread"] = groups[name].std()
    result.insert(0, "seeds", groups.size())
    return result.reset_index()
