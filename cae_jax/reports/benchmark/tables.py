"""What a benchmark's cells come to: means over seeds and categories, intervals, ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from cae_jax.evaluation import ranking, resampling
from cae_jax.options import read_size
from cae_jax.reports.benchmark.cells import SATURATED, TRIVIAL, Found, Resamples
from cae_jax.types import height_width

METRICS = (
    *("image_auroc", "pixel_auroc", "au_pro_30", "au_pro_5"),
    *("good_accuracy", "defect_accuracy", "balanced_accuracy", "false_alarms"),
)
COSTS = ("train_seconds", "ms_per_image", "model_megabytes")
RESAMPLED = Resamples._fields
_ABOUT = ("n_train", "n_validation", "n_good", "n_defective", "image_size", "channels")
# Flags that say of whom a cell is, not how it was made.
_OWN = {"category", "seed", "data_dir", "workdir", "train_images", "overwrite", "save_maps"}


class Ranking(NamedTuple):
    """Entries by mean rank over categories, by the image AUROC averaged over seeds."""

    categories: Sequence[str]
    entries: Sequence[str]  # the best first
    found: ranking.Comparison  # its columns in the order of `entries`
    absent: Sequence[str]  # entries that lack one of the categories


def metrics(table: pd.DataFrame) -> tuple[str, ...]:
    """Returns METRICS, and those of data with saturations where a table of cells has them."""
    return (*METRICS, *(name for name in SATURATED if name in table))


def whole(table: pd.DataFrame) -> int:
    """Returns the number of training images that the main tables are of: 0, all of them, where
    there are such cells; else the largest."""
    counts = set(table.loc[table["error"] == "", "train_images"])
    return 0 if 0 in counts else max(counts, default=0)


def by_category(found: Found) -> pd.DataFrame:
    """Returns a row for each number of training images, category and entry, the best entry first.

    `metrics` are means over seeds, NAME_spread their sample standard deviations (NaN of one seed);
    NAME_low and NAME_high of RESAMPLED are 95 % intervals of these means over the test images.
    COSTS are medians over seeds, for the first one's fit may hold a compilation.
    """
    rows = []
    for (count, category, entry), part in _done(found, ["train_images", "category", "entry"]):
        row = {"train_images": count, "category": category, "entry": entry, "seeds": len(part)}
        names = metrics(part)
        row |= {name: part[name].mean() for name in (*names, *_ABOUT)}
        row |= {f"{name}_spread": part[name].std() for name in names}
        row |= part[list(COSTS)].median().to_dict()
        row["threshold"] = ", ".join(dict.fromkeys(part["threshold"]))
        rows.append(row | _intervals([_over_seeds(found, part)]))
    return _sorted(rows, ["train_images", "category"])


def overall(found: Found) -> pd.DataFrame:
    """Returns a row for each number of training images and entry, the best entry first.

    As `by_category`, of the means over an entry's categories; the spread is over those seeds that
    have all of them.
    """
    rows = []
    for (count, entry), part in _done(found, ["train_images", "entry"]):
        groups = [one for _, one in part.groupby("category", sort=False)]
        names = list(metrics(part))
        means = pd.DataFrame({**one[names].mean(), **one[list(COSTS)].median()} for one in groups)
        row = {"train_images": count, "entry": entry, "categories": len(groups)}
        row["seeds"] = min(map(len, groups))
        row |= means.mean(skipna=False).to_dict()
        row["image_size"] = max(part["image_size"].dropna(), key=n_pixels, default=np.nan)
        each = part.groupby("seed")[names]
        complete = each.mean()[each.size() == len(groups)]
        row |= {f"{name}_spread": complete[name].std() for name in names}
        rows.append(row | _intervals([_over_seeds(found, one) for one in groups]))
    return _sorted(rows, ["train_images"])


def n_pixels(image_size: Any) -> int:
    """Returns how many pixels there are in images of that size, a side or "256x512"."""
    if isinstance(image_size, float):  # beside cells that have none
        image_size = int(image_size)
    return math.prod(height_width(read_size(str(image_size))))


def trivial(found: Found) -> pd.DataFrame:
    """Returns the trivial scores as rows: image_auroc by category, and "" for the mean over all.

    Means over seeds of the cells that the main tables are of. They differ a little with the images'
    size and channels; of the entries' the best is taken, for it has to be beaten.
    """
    names = [name for name in found.table if str(name).startswith(TRIVIAL)]
    cells = _finished(found.table)
    cells = cells[cells["train_images"] == whole(found.table)]
    each = cells.groupby(["category", "entry"], sort=False)[names].mean()
    best = each.groupby("category", sort=False).max()
    rows = [
        {"category": category, "entry": str(name).removeprefix(TRIVIAL), "image_auroc": value}
        for name in names
        for category, value in [*best[name].items(), ("", best[name].mean(skipna=False))]
    ]
    return _sorted(rows, ["category"], ["category", "entry", "image_auroc"])


def ranked(rows: pd.DataFrame) -> Ranking | None:
    """Returns the ranking of rows of `by_category` of one number of training images.

    Categories of which half of the entries have no AUROC do not count; then entries that lack one
    do not. None where nothing is left to rank.
    """
    values = rows.pivot_table("image_auroc", "category", "entry", sort=False)
    values = values[values.notna().mean(axis="columns") > 0.5]
    complete = values.dropna(axis="columns")
    if complete.empty:
        return None
    mean = ranking.compare(complete).mean
    complete = complete.iloc[:, np.argsort(mean, kind="stable")]
    absent = [name for name in dict.fromkeys(rows["entry"]) if name not in complete]
    return Ranking(list(complete.index), list(complete), ranking.compare(complete), absent)


def words(of: Ranking | None) -> str:
    """Returns what the ranks may be taken for, in plain words."""
    if of is None:
        return "No category has an image AUROC of every method: nothing to rank."
    (n, k), found = of.found.ranks.shape, of.found
    over = f"{n} {'category' if n == 1 else 'categories'}"
    if k < 2:
        return "One method: nothing to rank."
    lines = []
    if k < 3:
        lines.append("Friedman's test needs three methods.")
    else:
        p_value = "< 0.001" if found.p_value < 0.001 else f"= {found.p_value:.3f}"
        rough = "" if n >= 10 else ", an approximation that is rough with so few categories"
        lines.append(
            f"Friedman's test over {k} methods and {over}: chi-square "
            f"{found.statistic:.2f}, p {p_value}{rough}."
        )
    lines.append(f"Nemenyi's critical difference at 5 %: CD = {found.critical:.2f}.")
    if not found.possible:
        lines.append(
            f"Mean ranks of {k} methods are at most {k - 1} apart: with {over} no difference "
            "between two of them can be significant."
        )
    if of.absent:
        lines.append(f"Not ranked, for want of a category: {', '.join(of.absent)}.")
    return " ".join(lines)


def flags_that_differ(found: Found) -> list[str]:
    """Returns a line for each flag that an entry has differently for its categories."""
    lines = []
    for (_, entry), part in _done(found, ["train_images", "entry"]):
        by_flag: dict[str, dict[str, list[str]]] = {}
        for folder, category in zip(part["folder"], part["category"], strict=True):
            for flag, value in found.flags[folder].items():
                if flag not in _OWN:
                    categories = by_flag.setdefault(flag, {}).setdefault(value, [])
                    categories += [category] * (category not in categories)
        for flag, values in by_flag.items():
            if len(values) > 1:
                each = "; ".join(f"{value} ({', '.join(of)})" for value, of in values.items())
                lines.append(f"{entry}: --{flag} is {each}")
    return list(dict.fromkeys(lines))


def _finished(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["error"] == ""]


def _done(found: Found, by: Sequence[str]) -> Iterable[tuple[Any, pd.DataFrame]]:
    """The finished cells in groups, their numbers as floats."""
    names = [*metrics(found.table), *COSTS, *_ABOUT]
    cells = _finished(found.table)
    cells = cells.assign(**{name: cells[name].astype(float) for name in names})
    return cells.groupby(list(by), sort=False)


def _over_seeds(found: Found, part: pd.DataFrame) -> dict[str, np.ndarray]:
    """Each resample's numbers, averaged over the seeds of a category."""
    drawn = [found.resamples[folder] for folder in part["folder"]]
    return {name: np.mean([getattr(one, name) for one in drawn], axis=0) for name in RESAMPLED}


def _intervals(categories: Sequence[dict[str, np.ndarray]]) -> dict[str, float]:
    """Of the mean over categories, whose images are drawn independently of each other."""
    found = {}
    for name in RESAMPLED:
        values = np.mean([one[name] for one in categories], axis=0)
        found[f"{name}_low"], found[f"{name}_high"] = resampling.interval(values)
    return found


def _sorted(rows: list[Any], by: Sequence[str], columns: Sequence[str] = ()) -> pd.DataFrame:
    """In groups, in each the largest image AUROC first."""
    frame = pd.DataFrame(rows, columns=list(columns) or None)
    order = [*by, "image_auroc", "entry"]
    ascending = [*[True] * len(by), False, True]
    return frame.sort_values(order, ascending=ascending, kind="stable", ignore_index=True)
