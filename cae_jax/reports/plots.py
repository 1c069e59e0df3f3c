"""What a run leaves behind as pictures: PNG files; the only importer of matplotlib.

Figures are made without pyplot, so no global state is kept and threads may draw side by side.
"""

from __future__ import annotations

import functools
import io
import itertools
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, PowerNorm
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import MaxNLocator

from cae_jax.evaluation import verdict
from cae_jax.files import write_whole
from cae_jax.reports import charts
from cae_jax.reports.rules import Mark

# Okabe and Ito's colors, told apart by color-blind readers
GOOD = "#0072B2"
DEFECTIVE = "#D55E00"
VALIDATION = "#009E73"
OUTLINE = "#00E5FF"
INK = "#333333"
COLORS = {"good": GOOD, "defective": DEFECTIVE, "validation": VALIDATION}  # of a group's style
HUES = (INK, DEFECTIVE, GOOD, "#CC79A7", "#E69F00", "#56B4E9")  # of the curves of training
_Rectangle = tuple[float, float, float, float]  # left, bottom, width, height
LINES = ("-", "--", ":", "-.")
_LEAKS = {"honest": "leak-free", "leaks": "leaks", "oracle": "leaks"}
COLUMNS = 8  # images that a gallery shows at most
_RESIDUALS = {  # of `residuals.residual_map`, by distance
    "l2": "squared difference,\n0..255 scale",
    "l1": "absolute difference,\n0..255 scale",
    "ssim": "1 - SSIM",
}
# the square root: as bright as the difference itself, or all but the worst would be black
_POWER = 0.5
DPI = 110


def plot_training_curve(
    path: str | os.PathLike[str], training: charts.Training, title: str = ""
) -> None:
    """Draws the curves of training over the epochs, those of validation images dashed.

    Raises DataError where the file cannot be written.
    """
    figure, axes = _figure(title, (6.4, 3.8))
    for curve in training.curves:
        color = VALIDATION if curve.dashed and not curve.hue else HUES[curve.hue]
        style: dict[str, Any] = {"color": color, "linestyle": "--" if curve.dashed else "-"}
        style["label"] = printable(curve.name, 32)
        axes.plot(curve.epochs, curve.values, marker=".", linewidth=1.3, markersize=4, **style)
    axes.set_yscale("log" if training.y.log else "linear")
    axes.set_ylim(training.y.low, training.y.high)
    epochs = np.concatenate([curve.epochs for curve in training.curves])
    axes.set_xlim(epochs.min() - 0.5, epochs.max() + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel(training.x.label)
    axes.set_ylabel(printable(training.y.label, 48), parse_math=False)
    axes.grid(which="major", color="#E5E5E5", linewidth=0.8)
    _plain(axes.legend(frameon=False, fontsize=8))
    save(figure, path)


def plot_whiskers(path: str | os.PathLike[str], whiskers: charts.Whiskers, title: str = "") -> None:
    """Draws a box with whiskers for each group of images, every image as a point.

    The thesis's Figures 15 and 16, by kind of defect, with thresholds as lines. Raises DataError
    where the file cannot be written.
    """
    n = len(whiskers.boxes)
    figure, axes = _figure(title, (min(max(6.4, 1.2 * n), 40), 4.6))
    axes.set_yscale("log" if whiskers.x.log else "linear")
    names = []
    for position, box in enumerate(whiskers.boxes):
        values, color = box.group.distances, COLORS[box.group.style]
        names.append(f"{printable(box.group.name, 16)}\n(n = {values.size})")
        if values.size == 0:
            continue
        line = {"color": color, "linewidth": 1.3}
        numbers = {"whislo": box.low, "q1": box.first, "med": box.median, "q3": box.third}
        axes.bxp(
            [numbers | {"whishi": box.high}],
            positions=[position],
            widths=0.5,
            showfliers=False,
            patch_artist=True,
            manage_ticks=False,
            boxprops={"facecolor": color + "22", "edgecolor": color, "linewidth": 1.3},
            medianprops={**line, "linewidth": 2.2},
            whiskerprops=line,
            capprops=line,
        )
        # the golden ratio spreads any number of points evenly, and the same way every time
        jitter = np.arange(values.size) * 0.618034 % 1 * 0.36 - 0.18
        axes.scatter(position + jitter, values, s=9, color=color, alpha=0.6, linewidths=0, zorder=3)
    _threshold_lines(axes.axhline, whiskers.marks)
    axes.set_xlim(-0.5, n - 0.5)
    axes.set_xticks(range(n), names, parse_math=False, fontsize=8)
    axes.set_ylabel(printable(whiskers.x.label, 48), parse_math=False)
    _legend_below(figure)
    save(figure, path)


def plot_histogram(
    path: str | os.PathLike[str], histogram: charts.Histogram, title: str = ""
) -> None:
    """Draws what share of each group's images has which distance, and thresholds as lines.

    Raises DataError where the file cannot be written.
    """
    figure, axes = _figure(title, (6.4, 4.2))
    axes.set_xscale("log" if histogram.x.log else "linear")
    for group, shares in zip(histogram.groups, histogram.shares, strict=True):
        name = f"{printable(group.name, 24)} (n = {group.distances.size})"
        style: dict[str, Any] = {"color": COLORS[group.style], "label": name}
        if group.style == "validation":
            heights = np.where(shares > 0, shares, np.nan)  # no line along the axis
            axes.stairs(heights, histogram.edges, linewidth=1.6, zorder=3, **style)
        else:
            axes.stairs(shares, histogram.edges, fill=True, alpha=0.5, **style)
    _threshold_lines(axes.axvline, histogram.marks)
    axes.set_xlabel(printable(histogram.x.label, 48), parse_math=False)
    axes.set_ylabel("share of images")
    _legend_below(figure)
    save(figure, path)


def plot_gallery(
    path: str | os.PathLike[str],
    images: np.ndarray,
    reconstructions: np.ndarray | None,
    residuals: np.ndarray,
    masks: np.ndarray | None,
    titles: Sequence[str],
    residual_max: float,
    distance: str = "l2",
) -> None:
    """Draws images, reconstructions and residuals below each other (the thesis's Figure 12).

    The first COLUMNS of n images are shown: images and reconstructions [n, H, W, C] in [0, 1], no
    row of these where they are None; residuals [n, H, W], maps of the distance named, all on one
    color scale from 0 to `residual_max`, as bright as their square root. Where bool masks
    [n, H, W] are set, their outline is drawn. A title may have several lines. Raises ValueError
    for no image or lengths that differ, DataError where the file cannot be written.
    """
    n = len(images)
    made = {} if reconstructions is None else {"reconstruction": reconstructions}
    rows = {"image": images, **made, "residual": residuals}
    if n == 0 or any(len(shown) != n for shown in rows.values()) or len(titles) != n:
        lengths = [f"{len(shown)} {name}s" for name, shown in rows.items()]
        raise ValueError(
            f"a gallery needs equally many of all, at least one, got {', '.join(lengths)} and "
            f"{len(titles)} titles"
        )
    n = min(n, COLUMNS)
    figure, axes, bar_axes = _gallery_axes(n, images.shape[1] / images.shape[2], list(rows))
    for column in range(n):
        axes[0, column].set_title(_title_lines(titles[column]), fontsize=7, parse_math=False)
        for ax, name in zip(axes[:, column], rows, strict=True):
            if name == "residual":
                ax.imshow(charts.heat(residuals[column], residual_max, _POWER))
            else:
                _show(ax, rows[name][column])
            if masks is not None and name != "reconstruction":
                _outline(ax, masks[column])
    norm = PowerNorm(_POWER, vmin=0, vmax=max(float(residual_max), 1e-12))
    shown = ScalarMappable(norm, ListedColormap(charts.RAMP / 255))
    bar = figure.colorbar(shown, cax=bar_axes, extend="max")
    bar.locator = MaxNLocator(4)
    bar.set_label(_RESIDUALS.get(distance, distance), fontsize=7)
    bar_axes.tick_params(labelsize=7)
    save(figure, path)


def plot_reproduction(path: str | os.PathLike[str], table: pd.DataFrame, title: str = "") -> None:
    """Draws the mean of good and defect accuracy per category, ours and the thesis's.

    `table` is one of `tables.tables11_14`: a panel per model, a full dot for ours with the spread
    over seeds, an empty one for the thesis, a cross for the CVPR 2019 paper. Raises DataError where
    the file cannot be written.
    """
    models = list(dict.fromkeys(table["model"]))
    names = list(dict.fromkeys(table["category"]))[::-1]
    size = (2.2 + 2.1 * len(models), 1.4 + 0.3 * len(names))
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(1, len(models), sharey=True, squeeze=False)[0]
    for ax, model in zip(panels, models, strict=True):
        rows = table[table["model"] == model].set_index("category").reindex(names)
        height = np.arange(len(names))
        spread = np.hypot(rows["good_accuracy_spread"], rows["defect_accuracy_spread"]) / 2
        mean = (rows["good_accuracy"] + rows["defect_accuracy"]) / 2
        ax.errorbar(mean, height, xerr=spread.fillna(0), fmt="o", color=GOOD, label="ours")
        for who, mark, label in (("thesis", "o", "thesis"), ("paper", "x", "CVPR 2019")):
            theirs = (rows[f"{who}_good_accuracy"] + rows[f"{who}_defect_accuracy"]) / 2
            if theirs.isna().all():
                continue
            style = {"facecolors": "none"} if mark == "o" else {}
            color = {"edgecolors": DEFECTIVE} if mark == "o" else {"color": INK}
            ax.scatter(theirs, height, marker=mark, label=label, **color, **style)
        ax.axvline(0.5, color="#E5E5E5", zorder=0)
        ax.set(xlim=(0, 1.03), ylim=(-0.6, len(names) - 0.4), xlabel="mean accuracy")
        ax.set_title(printable(model, 24), fontsize=10, parse_math=False)
        ax.set_yticks(height, [printable(name, 24) for name in names], parse_math=False)
        ax.spines[["top", "right"]].set_visible(False)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, fontsize=8, ncols=3, loc="outside lower left")
    if title:
        figure.suptitle(printable(title, 64), fontsize=10, parse_math=False)
    save(figure, path)


def short(distance: float) -> str:
    """Returns a distance with two digits, such as 1.2e6."""
    mantissa, exponent = f"{distance:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def gallery_title(kind: str, distance: float, threshold: float | None) -> str:
    """Returns the title of an image in a gallery: its kind, its distance, and the verdict where
    there is a threshold."""
    if threshold is None:
        return f"{kind}\n{short(distance)}"
    called = "defective" if verdict.exceeds(distance, threshold) else "good"
    return f"{kind}\n{short(distance)}\ncalled {called}"


def panels(
    title: str, size: tuple[float, float], rows: int = 1, columns: int = 1
) -> tuple[Figure, np.ndarray]:
    """Returns a figure of `size` inches and its axes [rows, columns], which share their scales."""
    figure = Figure(figsize=size, layout="constrained")
    found = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes in found.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    if title:
        figure.suptitle(printable(title, 64), fontsize=10, parse_math=False)
    return figure, found


def _figure(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure, found = panels(title, size)
    return figure, found[0, 0]


def _gallery_axes(n: int, ratio: float, rows: Sequence[str]) -> tuple[Figure, np.ndarray, Axes]:
    """Rows of `n` panels as high as `ratio` times their width, and axes of a color bar."""
    side, gap, left, right, top = 1.35, 0.04, 0.3, 1.1, 0.5  # inches
    high = side * min(max(ratio, 0.4), 2.5)
    width, height = left + n * (side + gap) + right, top + len(rows) * (high + gap)
    figure = Figure(figsize=(width, height))
    axes = np.empty((len(rows), n), dtype=object)
    for row, name in enumerate(rows):
        bottom = (len(rows) - 1 - row) * (high + gap) + gap
        for column in range(n):
            box = (left + column * (side + gap), bottom, side, high)
            ax = axes[row, column] = figure.add_axes(_relative(box, width, height))
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[row, 0].set_ylabel(name, fontsize=8)
    bar = (width - right + 0.06, gap, 0.12, high)
    return figure, axes, figure.add_axes(_relative(bar, width, height))


def _relative(box: _Rectangle, width: float, height: float) -> _Rectangle:
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Writes a figure as PNG; raises DataError where the file cannot be written."""
    buffer = io.BytesIO()
    # no software version: the same data gives the same bytes
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    write_whole(path, buffer.getvalue())


def _threshold_lines(draw: Any, marks: Sequence[Mark]) -> None:
    for style, mark in zip(itertools.cycle(LINES), marks, strict=False):
        label = f"{printable(mark.name, 48)} ({_LEAKS[mark.style]}): {short(mark.value)}"
        draw(mark.value, color=INK, linestyle=style, linewidth=1.2, label=label)


def _legend_below(figure: Figure) -> None:
    if figure.axes[0].get_legend_handles_labels()[0]:
        _plain(figure.legend(frameon=False, fontsize=8, loc="outside lower left"))


def _plain(legend: Legend) -> None:
    """Lets a legend show names as they are: a dollar sign starts no formula."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _show(axes: Axes, image: np.ndarray) -> None:
    gray = image.shape[-1] == 1
    axes.imshow(np.clip(image[..., 0] if gray else image, 0, 1), cmap="gray", vmin=0, vmax=1)


def _outline(axes: Axes, mask: np.ndarray) -> None:
    if mask.any():
        padded = np.pad(mask, 1).astype(np.float64)  # closes the outline at the image's edge
        x, y = np.arange(-1, mask.shape[1] + 1), np.arange(-1, mask.shape[0] + 1)
        axes.contour(x, y, padded, levels=[0.5], colors=OUTLINE, linewidths=0.8)
        axes.set(xlim=(-0.5, mask.shape[1] - 0.5), ylim=(mask.shape[0] - 0.5, -0.5))


def _title_lines(title: str) -> str:
    return "\n".join(printable(line, 18) for line in title.split("\n"))


def printable(text: str, length: int) -> str:
    """Returns `text` cut to `length`, with "?" for what the font has no sign for."""
    text = "".join(sign if ord(sign) in _charmap() else "?" for sign in text)
    return text if len(text) <= length else f"{text[: length - 2]}.."


@functools.cache
def _charmap() -> frozenset[int]:
    """The code points that the default font can draw."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())
