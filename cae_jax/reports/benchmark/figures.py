"""The benchmark's figures: ranks with their critical difference, and numbers of training images."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from cae_jax.evaluation import ranking
from cae_jax.reports import plots
from cae_jax.reports.benchmark import tables
from cae_jax.reports.plots import DEFECTIVE, HUES, INK, LINES, printable

_NAME = 32  # characters of a name, at most
_COLUMNS = 4  # panels side by side, at most
_PANELS = 16
_WRAP = 135  # characters of a line below a diagram


def plot_ranks(path: str | os.PathLike[str], of: tables.Ranking) -> None:
    """Draws Demsar's diagram: entries on the axis of mean ranks, those that do not differ joined.

    `of` has two entries at least. Raises DataError where the file cannot be written.
    """
    mean, critical, k = of.found.mean, of.found.critical, len(of.entries)
    joined = ranking.groups(mean.tolist(), critical)
    half = math.ceil(k / 2)
    note = textwrap.wrap(tables.words(of), _WRAP)
    first = -0.6 - 0.3 * len(joined)  # where the names begin, below the bars
    bottom = first - 0.5 * half - 0.35 * len(note)
    top = 2.2 if of.found.possible else 1.4
    n = len(of.categories)
    title = f"Mean rank by image AUROC over {n} {'category' if n == 1 else 'categories'}"
    figure, axes = plots.panels(title, (8.4, 0.42 * (top - bottom) + 0.5))
    ax = axes[0, 0]
    ax.set_axis_off()
    margin = 0.75 * (k - 1)
    ax.set(xlim=(1 - margin, k + margin), ylim=(bottom, top))
    ax.plot([1, k], [0, 0], color=INK, linewidth=1.2)
    for rank in range(1, k + 1):
        ax.plot([rank, rank], [0, 0.2], color=INK, linewidth=1.2)
        ax.text(rank, 0.3, str(rank), ha="center", va="bottom", fontsize=9)
    if of.found.possible:
        ax.plot([1, 1 + critical], [1.4, 1.4], color=INK, linewidth=1.2, marker="|")
        text = f"critical difference {critical:.2f}"
        ax.text(1 + critical / 2, 1.5, text, ha="center", va="bottom", fontsize=9)
    for i, (a, b) in enumerate(joined):
        y, beyond = -0.3 - 0.3 * i, 0.02 * (k - 1)
        ends = [mean[a] - beyond, mean[b] + beyond]
        ax.plot(ends, [y, y], color=DEFECTIVE, linewidth=4, solid_capstyle="butt")
    for i, (name, rank) in enumerate(zip(of.entries, mean, strict=True)):
        left = i < half
        y = first - 0.5 * (i if left else k - 1 - i)
        edge = 1 - 0.06 * (k - 1) if left else k + 0.06 * (k - 1)
        ax.plot([rank, rank, edge], [0, y, y], color=INK, linewidth=0.8)
        side = {"ha": "right" if left else "left", "va": "center", "fontsize": 9}
        shown = printable(name, _NAME)
        text = f"{shown}  {rank:.2f} " if left else f" {rank:.2f}  {shown}"
        ax.text(edge, y, text, parse_math=False, **side)
    ax.text(
        *(1 - margin, bottom, "\n".join(note)),
        **{"ha": "left", "va": "bottom", "fontsize": 8, "color": INK},
    )
    plots.save(figure, path)


def plot_few(
    path: str | os.PathLike[str], overall: pd.DataFrame, by_category: pd.DataFrame
) -> None:
    """Draws the image AUROC against the number of training images: of the mean over categories,
    and of each; a line for each entry, its spread over seeds as bars.

    The tables are those of `tables`, of several numbers of training images; 0, all of them, stands
    behind the largest. Raises DataError where the file cannot be written.
    """
    parts = dict(list(by_category.groupby("category", sort=True)))
    if len(parts) > 1:
        parts = {"mean over categories": overall, **parts}
    parts = dict(list(parts.items())[:_PANELS])
    columns = min(len(parts), _COLUMNS)
    rows = math.ceil(len(parts) / columns)
    counts = sorted(set(overall["train_images"]) - {0})
    places = {count: math.log2(count) for count in counts}
    if 0 in set(overall["train_images"]):
        places[0] = max(places.values(), default=0) + 1
    title = "Image AUROC by the number of good training images"
    size = (max(1.2 + 2.9 * columns, 5.4), 1.1 + 2.7 * rows)
    figure, axes = plots.panels(title, size, rows, columns)
    entries = sorted(set(overall["entry"]))
    for ax, (name, part) in zip(axes.flat, parts.items(), strict=False):
        _curves(ax, part, places, entries)
        ax.set_title(printable(name, _NAME), fontsize=9, parse_math=False)
        ticks = [str(count or "all") for count in places]
        ax.set_xticks(list(places.values()), ticks, minor=False)
        ax.tick_params(labelbottom=True)
        ax.grid(which="major", axis="y", color="#E5E5E5", linewidth=0.8)
    for ax in axes.flat[len(parts) :]:
        ax.set_axis_off()
    for ax in axes[-1]:
        ax.set_xlabel("training images", fontsize=9)
    figure.supylabel("image AUROC", fontsize=9)
    handles = axes.flat[0].get_legend_handles_labels()
    legend = figure.legend(
        *handles, frameon=False, fontsize=8, loc="outside lower center", ncols=max(columns, 3)
    )
    for text in legend.get_texts():  # a dollar sign starts no formula
        text.set_parse_math(False)
    plots.save(figure, path)


def _curves(ax: Any, part: pd.DataFrame, places: dict[int, float], entries: Sequence[str]) -> None:
    for i, entry in enumerate(entries):
        own = part[part["entry"] == entry].set_index("train_images")
        own = own.reindex([count for count in places if count in own.index])
        style = {"color": HUES[i % len(HUES)], "linestyle": LINES[i // len(HUES) % len(LINES)]}
        at = [places[count] for count in own.index]
        spread = np.nan_to_num(own["image_auroc_spread"].to_numpy(float))
        ax.errorbar(
            *(at, own["image_auroc"].to_numpy(float)),
            **{"yerr": spread, "marker": "o", "markersize": 3.5, "capsize": 2, "linewidth": 1.3},
            **{"label": printable(entry, _NAME), **style},
        )
