"""The reproduction as one Markdown page: what was run, the tables, what to make of them."""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cae_jax.options import to_text
from cae_jax.reports.thesis import tables


def markdown_page(
    cells: Sequence[Mapping[str, Any]], missing: Sequence[str], failed: Mapping[str, str]
) -> str:
    """Returns the page.

    Args:
      cells: the metrics of every finished cell, see `evaluation`.
      missing: categories of Table 1 that were not there.
      failed: why a cell is not among `cells`, by its name.
    """
    synthetic = cells[0]["dataset"] == "synthetic"
    lines = [
        f"# The thesis's tables{' on SYNTHETIC data' if synthetic else ''}",
        "",
        header(cells),
        "",
        *(
            ["These images were made up from a seed: nothing here compares with the thesis.", ""]
            if synthetic
            else []
        ),
    ]
    if missing and not synthetic:
        lines += [f"Not there, so not in the tables: {', '.join(missing)}.", ""]
    for sentence in other_images(cells):
        lines += [sentence, ""]
    for name, cause in failed.items():
        lines += [f"Failed: {name}: {cause}", ""]
    lines += ["## AUROC, leak-free accuracies, trivial scores", "", *_honest(cells), ""]
    lines += ["## Where the defect is", "", *grid(tables.localization(cells)), ""]
    lines += ["## What every threshold rule gives", "", *_rules(cells), ""]
    lines += ["## Tables 2 and 3: L2 and SSIM, beside CVPR 2019's", ""]
    lines += [*grid(tables.tables2_3(cells)), ""]
    lines += ["An image is defective if its map has a region of the minimum area above a threshold"]
    lines += ["from good validation images; the paper's minimum areas are not published.", ""]
    lines += ["## Table 1: images found and printed", "", *grid(tables.table1(cells)), ""]
    if l2 := tables.trained_on_l2(cells):
        lines += _tables5_14(l2)
    return "\n".join([*lines, notes()]) + "\n"


def _tables5_14(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """The thesis's own results: Tables 11 to 14, 5 and 6."""
    models = list(dict.fromkeys(cell["model"] for cell in cells))
    table = tables.tables11_14(cells)
    lines = []
    for number, percent in tables.PERCENTS.items():
        title = f"## Table {number}: threshold at {percent} % of the good test images"
        part = table[table["table"] == number]
        lines += [title, "", *_accuracies(part, models), ""]
    return [
        *lines,
        "Cells are good accuracy / defect accuracy; bold is the best mean of the two, among our",
        "models and among the printed columns. The threshold is picked on the good test images (a",
        "leak), so good accuracy follows from the rule; ± is the standard deviation over seeds.",
        "",
        *("## Table 5: distances, our medians and the printed samples", ""),
        *(*grid(tables.table5(cells)), ""),
        *("## Table 6: thresholds of one category, and the printed ones of Grid", ""),
        *(*grid(tables.table6(cells)), ""),
    ]


def header(cells: Sequence[Mapping[str, Any]]) -> str:
    """Returns what was run on what: data set, epochs, patches, seeds, hardware, versions."""

    def all_of(key: str) -> str:
        values = [to_text(cell[key]) for cell in cells if cell.get(key) is not None]
        return ", ".join(dict.fromkeys(values)) or "-"

    return (
        f"Data set: {all_of('dataset')}. "
        f"Epochs: {all_of('epochs')} of {all_of('num_patches')} patches of {all_of('patch_size')} "
        f"pixels, batch {all_of('batch_size')}, learning rate {all_of('learning_rate')}; images of "
        f"{all_of('image_size')} pixels scored at stride {all_of('stride')}. "
        f"Loss: {all_of('loss')}; distance: {all_of('distance')}. Seeds: {all_of('seed')}. "
        f"Hardware: {all_of('device')}. jax {all_of('jax')}."
    )


def other_images(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns a sentence per category that Table 1 names with other counts than were found."""
    sentences = []
    for row in tables.table1(cells).dropna().itertuples():
        found = (row.n_train, row.n_test_good, row.n_test_defective)
        printed = (row.n_train_printed, row.n_test_good_printed, row.n_test_defective_printed)
        if found != printed:
            sentences.append(
                f"{row.category}: {found[0]} / {found[1]} / {found[2]} images (training, good, "
                f"defective) where Table 1 prints {printed[0]:.0f} / {printed[1]:.0f} / "
                f"{printed[2]:.0f}: these are other images than the printed columns are of."
            )
    return sentences


def notes() -> str:
    """Returns the page of the thesis's own inconsistencies."""
    return (importlib.resources.files("cae_jax") / "tables" / "notes.md").read_text(
        encoding="utf-8"
    )


def grid(frame: pd.DataFrame) -> list[str]:
    """Returns a table's Markdown lines; missing values are "-"."""
    rows = [[_text(value) for value in row] for row in frame.itertuples(index=False)]
    head = [str(name) for name in frame.columns]
    return ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *rows)]


def _text(value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1e4 else f"{value:.4g}"
    return str(value).replace("|", "\\|")


def _accuracies(part: pd.DataFrame, models: Sequence[str]) -> list[str]:
    """One of Tables 11 to 14: our models, then the thesis's columns, then the paper's."""
    rows = []
    for category, group in part.groupby("category", sort=False):
        group = group.set_index("model").reindex(models)
        ours = [
            (
                pair(
                    row.good_accuracy,
                    row.defect_accuracy,
                    row.good_accuracy_spread,
                    row.defect_accuracy_spread,
                ),
                row.good_accuracy + row.defect_accuracy,
            )
            for row in group.itertuples()
        ]
        theirs = [
            (
                pair(row.thesis_good_accuracy, row.thesis_defect_accuracy),
                row.thesis_good_accuracy + row.thesis_defect_accuracy,
            )
            for row in group.itertuples()
        ]
        last = group.dropna(subset="percent").iloc[0]
        paper = (
            pair(last.paper_good_accuracy, last.paper_defect_accuracy),
            last.paper_good_accuracy + last.paper_defect_accuracy,
        )
        times = [
            f"{row.ms_per_image:.3g} / {row.ms_per_patch:.3g} / {_text(row.thesis_inference_ms)}"
            for row in group.itertuples()
        ]
        rows.append([category, *bold(ours), *bold([*theirs, paper]), *times])
    columns = ["category", *models, *(f"{m}, thesis" for m in models), "CVPR 2019"]
    columns += [f"{m}: ms an image / a patch / thesis" for m in models]
    return grid(pd.DataFrame(rows, columns=columns))


def _honest(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    frame = tables.honest(cells)
    rows = [
        {
            "category": row.category,
            "model": row.model,
            "loss, distance": f"{row.loss}, {row.distance}",
            "seeds": row.seeds,
            "AUROC": mean(row.image_auroc, row.image_auroc_spread, 3),
            "good / defect, leak-free 90 %": pair(
                *(row.good_accuracy_val_90, row.defect_accuracy_val_90),
                *(row.good_accuracy_val_90_spread, row.defect_accuracy_val_90_spread),
            ),
            "best trivial score": f"{row.best_trivial} {mean(row.trivial_auroc, np.nan, 3)}",
            "flag": row.flag,
        }
        for row in frame.itertuples()
    ]
    return grid(pd.DataFrame(rows))


def _rules(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """A row per rule, a column per category, model and loss."""
    frame = tables.threshold_rules(cells).query("rule != 'exclusive'")
    columns = {}
    for (category, model, loss, _), part in frame.groupby(
        ["category", "model", "loss", "distance"], sort=False
    ):
        columns[f"{category}, {model}, {loss}"] = {
            (row.rule, row.percent, row.source): pair(row.good_accuracy, row.defect_accuracy)
            + (" (below chance)" if row.below_chance else "")
            + ("" if np.isnan(row.leak_points) else f" [{row.leak_points:+.0f}]")
            for row in part.itertuples()
        }
    table = pd.DataFrame(columns).rename_axis(["rule", "percent", "picked on"]).reset_index()
    return [
        *grid(table),
        "",
        "Good accuracy / defect accuracy; in brackets what looking at the test images is worth, in",
        "points of their mean against the same rule on validation images; below chance where that",
        "mean is under 0.5. `ceil` on test good images is the thesis's rule (a leak), `f1_best` an",
        "oracle.",
    ]


def mean(value: float, spread: float, digits: int = 2) -> str:
    """Returns a mean over seeds and its spread, "-" where there is none; no spread where NaN."""
    if np.isnan(value):
        return "-"
    return f"{value:.{digits}f}" + ("" if np.isnan(spread) else f" ± {spread:.{digits}f}")


def pair(good: float, defect: float, *spreads: float) -> str:
    """Returns two accuracies, with their spreads or without."""
    first, second = spreads or (np.nan, np.nan)
    return f"{mean(good, first)} / {mean(defect, second)}"


def bold(cells: Sequence[tuple[str, float]]) -> list[str]:
    """Returns the texts, marked those of the largest sum; none where all are NaN."""
    sums = np.array([total for _, total in cells], dtype=float)
    if np.isnan(sums).all():
        return [text for text, _ in cells]
    best = np.nanmax(sums)
    return [f"**{text}**" if total == best else text for text, total in cells]
