"""All systems that the thesis names, as tables: its Tables 2 and 3 whole, and chapter 2's.

Which they are is `cae_jax/tables/systems.csv`: name; what it is called here; where the thesis has
it; its column in Tables 2 and 3, if any; whether it is a GAN; and what it is run as, which
`runs.thesis` reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cae_jax.evaluation import trivial_scores
from cae_jax.reports.thesis import tables

PCA = "pca"  # the trivial score that stands among the systems
THESIS_PATCHES = 200 * 10_000  # that the thesis trains an autoencoder on: epochs x patches (4.1.3)
_MEANS = {  # column -> key of metrics.json
    **{name: name for name in ("image_auroc", "pixel_auroc", "au_pro_30")},
    "good_accuracy": "good_accuracy_min_area",
    "defect_accuracy": "defect_accuracy_min_area",
    "good_leak_free": "good_accuracy_val_90",
    "defect_leak_free": "defect_accuracy_val_90",
}
_SATURATED = "au_spro_5"  # a column where the data have saturations
_COSTS = ("train_seconds", "ms_per_image", "image_size", "patches_seen")
_ACCURACIES = ("good_accuracy", "defect_accuracy", "good_leak_free", "defect_leak_free")


class Missing(NamedTuple):
    """Cells of a system that are not finished, and why."""

    system: str  # its name
    category: str  # "" for all of them
    cause: str


def listed() -> pd.DataFrame:
    """Returns the systems, a row each: name, title, where, column, gan, entry, flags; "" where
    there is nothing."""
    return tables.printed("systems").fillna("")


def by_category(cells: Sequence[Mapping[str, Any]], missing: Sequence[Missing]) -> pd.DataFrame:
    """Returns a row for each category and system that was asked for, in the table's order, and one
    for PCA after them.

    Args:
      cells: flags and metrics.json of every finished cell, and its system's name as "system".
      missing: why others are not among them.

    Columns: category, name, title, where, gan, seeds; means over seeds, NAME_spread their sample
    standard deviation (NaN of one seed), of image_auroc, pixel_auroc, au_pro_30, of au_spro_5
    where any data have saturations, of good_ and defect_accuracy as Tables 2 and 3 have them (the
    smallest defect in maps whose threshold is from good images), and good_ and defect_leak_free
    (90 % of unseen good images); medians of train_seconds and ms_per_image; image_size;
    patches_seen, epochs times patches of a method that learns by them; flag, what is wrong with
    the image AUROC beside those of the trivial scores, of which the best over the systems' image
    sizes count, and of a GAN that it is worse than PCA; error, why a cell is missing.
    """
    every = listed()
    asked = {cell["system"] for cell in cells} | {each.system for each in missing}
    every = every[every["name"].isin(asked)]
    categories = [cell["category"] for cell in cells] + [m.category for m in missing if m.category]
    means = _MEANS | ({_SATURATED: _SATURATED} if any(_SATURATED in c for c in cells) else {})
    rows = []
    for category in dict.fromkeys(categories):
        here = [cell for cell in cells if cell["category"] == category]
        trivial = _trivial(here)
        for system in every.itertuples():
            own = [cell for cell in here if cell["system"] == system.name]
            causes = [
                each.cause
                for each in missing
                if each.system == system.name and each.category in ("", category)
            ]
            row = {"category": category, "name": system.name, "title": system.title}
            row |= {"where": system.where, "gan": bool(system.gan), **_numbers(own, means)}
            row["flag"] = _flag(row, trivial) if own else ""
            rows.append(row | {"error": "; ".join(dict.fromkeys(causes))})
        row = {"category": category, "name": PCA, "title": "PCA", "where": "trivial score"}
        row |= {"gan": False, **_numbers([], means), "image_auroc": trivial.get(PCA, np.nan)}
        rows.append(row | {"flag": "", "error": ""})
    return pd.DataFrame(rows)


def tables2_3(of: pd.DataFrame) -> pd.DataFrame:
    """Returns Tables 2 and 3: a row for each of their categories, and of ours, and each of their
    six methods, with the printed accuracies and ours.

    Args:
      of: `by_category`'s.

    Columns: table (2 objects, 3 textures, 0 what the thesis does not have), category, method, its
    title here, good_ and defect_accuracy_printed, and as in `by_category` good_ and
    defect_accuracy, good_ and defect_leak_free, and error; NaN and "" where there is none.
    """
    kinds = tables.printed("table1_dataset").set_index("category")["kind"]
    numbers = {"object": 2, "texture": 3}
    printed = tables.printed("table2_3_mvtec_baselines").set_index(["category", "method"])
    ours = of.set_index(["category", "name"])
    six = listed().query("column != ''")
    names = [*printed.index.unique("category"), *dict.fromkeys(of["category"])]
    rows = []
    for category in dict.fromkeys(names):
        for system in six.itertuples():
            row = {"table": numbers.get(kinds.get(category), 0), "category": category}
            row |= {"method": system.column, "title": system.title}
            for name in ("good_accuracy", "defect_accuracy"):
                at = (category, system.column)
                row[f"{name}_printed"] = printed[name].get(at, np.nan)
            at = (category, system.name)
            row |= {name: ours[name].get(at, np.nan) for name in _ACCURACIES}
            rows.append(row | {"error": ours["error"].get(at, "")})
    table = pd.DataFrame(rows)
    order = table["table"].map({2: 0, 3: 1, 0: 2})
    return table.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)


def gans_against_pca(of: pd.DataFrame) -> list[str]:
    """Returns a sentence for each category of `by_category` with a GAN and PCA: which GANs have a
    lower image AUROC than PCA, which is a straight line through the pixels."""
    sentences = []
    for category, part in of.dropna(subset="image_auroc").groupby("category", sort=False):
        pca = part.loc[part["name"] == PCA, "image_auroc"]
        gans = part[part["gan"]]
        if pca.empty or gans.empty:
            continue
        worse = gans["image_auroc"] < pca.item()
        lower, others = (
            [f"{one.title} {one.image_auroc:.3f}" for one in gans[rows].itertuples()]
            for rows in (worse, ~worse)
        )
        words = f"worse than PCA ({pca.item():.3f}): {', '.join(lower) or 'none'}"
        words += f"; not worse: {', '.join(others)}" if others else ""
        sentences.append(f"{category}: {words}.")
    return sentences


def _numbers(cells: Sequence[Mapping[str, Any]], means: Mapping[str, str]) -> dict[str, Any]:
    """The columns of numbers of one system's cells of a category; NaN without any."""
    seen = [{**cell, "patches_seen": _patches_seen(cell)} for cell in cells]
    for cell in seen:
        if isinstance(cell.get("image_size"), tuple):  # no one side of what is not square
            cell["image_size"] = np.nan
    columns = {**means, **{name: name for name in _COSTS}}
    frame = pd.DataFrame(
        [{new: cell.get(old) for new, old in columns.items()} for cell in seen],
        columns=list(columns),
    ).astype(float)
    row: dict[str, Any] = {"seeds": len(cells)}
    for name in means:
        row |= {name: frame[name].mean(), f"{name}_spread": frame[name].std()}
    return row | {name: frame[name].median() for name in _COSTS}


def _flag(row: Mapping[str, Any], trivial: Mapping[str, float]) -> str:
    """What is wrong with a system's AUROC; of a GAN also that it is worse than PCA."""
    words = trivial_scores.flag(row["image_auroc"], trivial)
    pca = trivial.get(PCA, np.nan)
    if row["gan"] and row["image_auroc"] < pca and f"{PCA} (" not in words:
        words = ", ".join(filter(None, (words, f"worse than {PCA} ({pca:.3f})")))
    return words


def _patches_seen(cell: Mapping[str, Any]) -> float:
    """How many patches it was trained on, each counted as often as it was seen."""
    epochs, patches = cell.get("epochs"), cell.get("num_patches")
    return float(epochs * patches) if epochs and patches else np.nan


def _trivial(cells: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The best AUROC of every trivial score over the systems of a category, of each the mean over
    its seeds: their images are not of one size."""
    each = pd.DataFrame(
        [{"system": cell["system"], **cell["trivial_auroc"]} for cell in cells],
        columns=None if cells else ["system"],
    ).set_index("system")
    return each.astype(float).groupby(level=0).mean().max().dropna().to_dict()
