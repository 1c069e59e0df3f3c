"""Every two methods of a benchmark on the images of a category: which differences count."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cae_jax.evaluation import paired
from cae_jax.reports.benchmark.cells import Found, Judged

COLUMNS = (
    *("category", "one", "other", "n_images", "difference", "low", "high", "p_value", "p_holm"),
    *("only_one", "only_other", "verdicts_p_value", "verdicts_p_holm"),
)


def table(found: Found, train_images: int) -> pd.DataFrame:
    """Returns a row for each category and two entries that judged the same test images.

    "one" is the entry of the larger AUROC over all seeds, and first come the rows of the best one.
    `difference`, 95 % interval and `p_value` are DeLong's of the image AUROCs averaged over seeds;
    only_one, only_other and their p-value McNemar's of the verdicts by the lowest seed that both
    have. p_holm and verdicts_p_holm are Holm's, over all pairs of the category.
    """
    cells = found.table[
        (found.table["error"] == "") & (found.table["train_images"] == train_images)
    ]
    rows: list[dict[str, Any]] = []
    for category, part in cells.groupby("category", sort=True):
        by_entry = {
            str(entry): {int(row["seed"]): found.judged[row["folder"]] for _, row in one.iterrows()}
            for entry, one in part.groupby("entry", sort=True)
        }
        means = {entry: one["image_auroc"].astype(float).mean() for entry, one in
                 part.groupby("entry", sort=True)}  # fmt: skip
        order = sorted(by_entry, key=lambda entry: (-_or(means[str(entry)], -1), entry))
        rows += _of_category(str(category), order, by_entry)
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _of_category(
    category: str, order: Sequence[str], by_entry: dict[str, dict[int, Judged]]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for one, other in itertools.combinations(order, 2):
        cells = [by_entry[one], by_entry[other]]
        images = next(iter(cells[0].values()))
        every = [each for seeds in cells for each in seeds.values()]
        if any(each.paths != images.paths for each in every):
            continue  # not the same images, as where one could not read some
        scores = [np.stack([each.distances for each in seeds.values()]) for seeds in cells]
        tested = paired.auroc_difference(images.labels, *scores)
        if math.isnan(tested.value):
            continue
        row = {"category": category, "one": one, "other": other, "n_images": len(images.paths)}
        row |= {"difference": tested.value, "low": tested.low, "high": tested.high}
        rows.append(row | {"p_value": tested.p_value} | _verdicts(*cells))
    for name, p in (("p_holm", "p_value"), ("verdicts_p_holm", "verdicts_p_value")):
        for row, value in zip(rows, paired.holm([row[p] for row in rows]), strict=True):
            row[name] = value
    return rows


def _verdicts(one: dict[int, Judged], other: dict[int, Judged]) -> dict[str, float]:
    names = ("only_one", "only_other", "verdicts_p_value")
    for seed in sorted(one.keys() & other.keys()):
        a, b = one[seed].right, other[seed].right
        if a is not None and b is not None:
            return dict(zip(names, paired.mcnemar(a, b), strict=True))
    return dict.fromkeys(names, math.nan)


def _or(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value
