"""What a run leaves behind as pictures: PNG files; the only importer of matplotlib.

Figures are made without pyplot, so no global state is kept and threads may draw side by side.
"""

from __future__ import annotations

import functools
import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import ArrayLike

from cae_jax.evaluation.thresholds import Threshold
from cae_jax.files import write_whole

# Okabe and Ito's colors, told apart by color-blind readers
GOOD = "#0072B2"
DEFECTIVE = "#D55E00"
VALIDATION = "#009E73"
OUTLINE = "#00E5FF"
INK = "#333333"
LINES = ("-", "--", ":", "-.")
COLUMNS = 8  # images that a gallery shows at most
_RESIDUALS = {  # of `residuals.residual_map`, by distance
    "l2": "squared difference,\n0..255 scale",
    "l1": "absolute difference,\n0..255 scale",
    "ssim": "1 - SSIM",
}
DPI = 110


def plot_training_curve(
    path: str | os.PathLike[str],
    history: Sequence[Mapping[str, Any]],
    title: str = "",
    loss: str = "l2",
) -> None:
    """Draws loss and validation loss over the epochs, the losses on a logarithmic axis.

    A record of `history` has epoch, loss and validation_loss (None or NaN where there is none).
    Raises ValueError for an empty history, DataError where the file cannot be written.
    """
    if not history:
        raise ValueError("a training curve needs at least one epoch, got none")
    figure, axes = _figure(title, (6.4, 3.8))
    epochs = [record["epoch"] for record in history]
    for name, label, color in (
        ("loss", "training", INK),
        ("validation_loss", "validation", VALIDATION),
    ):
        values = np.array([record.get(name) for record in history], dtype=np.float64)
        if np.isfinite(values).any():
            axes.plot(epochs, values, ".-", color=color, label=label, linewidth=1.3, markersize=4)
            if (values > 0).any():
                axes.set_yscale("log")
    axes.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"loss {loss}: mean over patches, images in 0..1")
    axes.grid(which="major", color="#E5E5E5", linewidth=0.8)
    axes.legend(frameon=False, fontsize=8)
    _save(figure, path)


def plot_whiskers(
    path: str | os.PathLike[str],
    good: ArrayLike,
    defective: ArrayLike,
    thresholds: Sequence[Threshold],
    title: str = "",
    distance: str = "l2",
) -> None:
    """Draws the distances of good [n] and defective [m] test images as box and whiskers.

    The thesis's Figures 15 and 16, with every image as a point and `thresholds` as lines. A box
    spans the quartiles, its whiskers reach 1.5 times as far; `distance` names the axis. Either
    class may be empty. Raises
    DataError where the file cannot be written.
    """
    good, defective = np.asarray(good, np.float64), np.asarray(defective, np.float64)
    figure, axes = _figure(title, (6.4, 4.6))
    if _spread(np.concatenate([good, defective, [at.value for at in thresholds]])):
        axes.set_yscale("log")
    for position, (values, color) in enumerate(((good, GOOD), (defective, DEFECTIVE))):
        if values.size == 0:
            continue
        line = {"color": color, "linewidth": 1.3}
        axes.boxplot(
            [values],
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
    _threshold_lines(axes.axhline, thresholds)
    axes.set_xlim(-0.5, 1.5)
    axes.set_xticks([0, 1], [f"good (n = {good.size})", f"defective (n = {defective.size})"])
    axes.set_ylabel(f"distance: {distance}")
    _legend_below(figure)
    _save(figure, path)


def plot_histogram(
    path: str | os.PathLike[str],
    good: ArrayLike,
    defective: ArrayLike,
    validation: ArrayLike,
    thresholds: Sequence[Threshold],
    title: str = "",
    distance: str = "l2",
) -> None:
    """Draws how often which distance came: good and defective test images, validation images.

    All three are distances [n], any may be empty; `thresholds` are lines; `distance`
    names the axis. Raises DataError where the file cannot be written.
    """
    series = [
        ("test good", np.asarray(good, np.float64), GOOD),
        ("test defective", np.asarray(defective, np.float64), DEFECTIVE),
        ("validation good", np.asarray(validation, np.float64), VALIDATION),
    ]
    figure, axes = _figure(title, (6.4, 4.2))
    shown = np.concatenate([*(values for _, values, _ in series), [at.value for at in thresholds]])
    if _spread(shown):
        axes.set_xscale("log")
        edges = np.geomspace(shown.min(), shown.max(), 31)
        edges[[0, -1]] = shown.min(), shown.max()  # rounding must drop no image
    else:
        low, high = (shown.min(), shown.max()) if shown.size else (0.0, 1.0)
        margin = 0.0 if high > low else 0.05 * abs(low) + 0.5
        edges = np.linspace(low - margin, high + margin, 31)
    for name, values, color in series:
        if values.size == 0:
            continue
        counts = np.histogram(values, edges)[0]
        label = f"{name} (n = {values.size})"
        if color == VALIDATION:
            heights = np.where(counts > 0, counts, np.nan)  # no line along the axis
            axes.stairs(heights, edges, color=color, label=label, linewidth=1.6, zorder=3)
        else:
            axes.stairs(counts, edges, color=color, label=label, fill=True, alpha=0.5)
    _threshold_lines(axes.axvline, thresholds)
    axes.set_xlabel(f"distance: {distance}")
    axes.set_ylabel("images")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _legend_below(figure)
    _save(figure, path)


def plot_gallery(
    path: str | os.PathLike[str],
    images: np.ndarray,
    reconstructions: np.ndarray,
    residuals: np.ndarray,
    masks: np.ndarray | None,
    titles: Sequence[str],
    residual_max: float,
    distance: str = "l2",
) -> None:
    """Draws images, reconstructions and residuals below each other (the thesis's Figure 12).

    The first COLUMNS of n images are shown: images and reconstructions [n, H, W, C] in [0, 1],
    residuals [n, H, W], maps of the distance named, all on one color scale from 0 to
    `residual_max`, as bright as their square root. Where bool masks [n, H, W] are set, their
    outline is drawn. A title may have several lines. Raises ValueError for no image or lengths
    that differ, DataError where the file cannot be written.
    """
    n = len(images)
    if n == 0 or not n == len(reconstructions) == len(residuals) == len(titles):
        raise ValueError(
            f"a gallery needs equally many images, reconstructions, residuals and titles, got {n}, "
            f"{len(reconstructions)}, {len(residuals)} and {len(titles)}"
        )
    n = min(n, COLUMNS)
    figure, axes, bar_axes = _gallery_axes(n, images.shape[1] / images.shape[2])
    # the square root: as bright as the difference itself, or all but the worst would be black
    norm = PowerNorm(0.5, vmin=0, vmax=max(float(residual_max), 1e-12))
    for column in range(n):
        axes[0, column].set_title(_title_lines(titles[column]), fontsize=7, parse_math=False)
        _show(axes[0, column], images[column])
        _show(axes[1, column], reconstructions[column])
        shown = axes[2, column].imshow(residuals[column], cmap="inferno", norm=norm)
        if masks is not None:
            _outline(axes[0, column], masks[column])
            _outline(axes[2, column], masks[column])
    bar = figure.colorbar(shown, cax=bar_axes, extend="max")
    bar.locator = MaxNLocator(4)
    bar.set_label(_RESIDUALS[distance], fontsize=7)
    bar_axes.tick_params(labelsize=7)
    _save(figure, path)


def plot_reproduction(path: str | os.PathLike[str], table: pd.DataFrame, title: str = "") -> None:
    """Draws the mean of good and defect accuracy per category, ours and the thesis's.

    `table` is one of `thesis.tables11_14`: a panel per model, a full dot for ours with the spread
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
        ax.set_title(_printable(model, 24), fontsize=10, parse_math=False)
        ax.set_yticks(height, [_printable(name, 24) for name in names], parse_math=False)
        ax.spines[["top", "right"]].set_visible(False)
    handles = panels[0].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, fontsize=8, ncols=3, loc="outside lower left")
    if title:
        figure.suptitle(_printable(title, 64), fontsize=10, parse_math=False)
    _save(figure, path)


def short(distance: float) -> str:
    """Returns a distance with two digits, such as 1.2e6."""
    mantissa, exponent = f"{distance:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def gallery_title(kind: str, distance: float, threshold: Threshold) -> str:
    """Returns the title of an image in a gallery: its kind, its distance and the verdict."""
    verdict = "good" if distance <= threshold.value else "defective"
    return f"{kind}\n{short(distance)}\ncalled {verdict}"


def _figure(title: str, size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)
    if title:
        figure.suptitle(_printable(title, 64), fontsize=10, parse_math=False)
    return figure, axes


def _gallery_axes(n: int, ratio: float) -> tuple[Figure, np.ndarray, Axes]:
    """Three rows of `n` panels as high as `ratio` times their width, and axes of a color bar."""
    side, gap, left, right, top = 1.35, 0.04, 0.3, 1.1, 0.5  # inches
    high = side * min(max(ratio, 0.4), 2.5)
    width, height = left + n * (side + gap) + right, top + 3 * (high + gap)
    figure = Figure(figsize=(width, height))
    axes = np.empty((3, n), dtype=object)
    for row, name in enumerate(("image", "reconstruction", "residual")):
        bottom = (2 - row) * (high + gap) + gap
        for column in range(n):
            box = (left + column * (side + gap), bottom, side, high)
            ax = axes[row, column] = figure.add_axes(_relative(box, width, height))
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        axes[row, 0].set_ylabel(name, fontsize=8)
    bar = (width - right + 0.06, gap, 0.12, high)
    return figure, axes, figure.add_axes(_relative(bar, width, height))


def _relative(box: tuple[float, ...], width: float, height: float) -> tuple[float, ...]:
    return box[0] / width, box[1] / height, box[2] / width, box[3] / height


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    buffer = io.BytesIO()
    # no software version: the same data gives the same bytes
    figure.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None})
    write_whole(path, buffer.getvalue())


def _spread(distances: np.ndarray) -> bool:
    """Whether the distances need a logarithmic axis."""
    return bool(distances.size) and 0 < distances.min() * 30 < distances.max()


def _threshold_lines(draw: Any, thresholds: Sequence[Threshold]) -> None:
    for style, at in zip(LINES, thresholds, strict=False):
        draw(
            at.value,
            color=INK,
            linestyle=style,
            linewidth=1.2,
            label=f"threshold at {at.percent} % of {at.source}"
            f" ({'leaks' if at.leaks else 'leak-free'}): {short(at.value)}",
        )


def _legend_below(figure: Figure) -> None:
    if figure.axes[0].get_legend_handles_labels()[0]:
        figure.legend(frameon=False, fontsize=8, loc="outside lower left")


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
    return "\n".join(_printable(line, 18) for line in title.split("\n"))


def _printable(text: str, length: int) -> str:
    """`text` cut to `length`, with "?" for what the font has no sign for."""
    text = "".join(sign if ord(sign) in _charmap() else "?" for sign in text)
    return text if len(text) <= length else f"{text[: length - 2]}.."


@functools.cache
def _charmap() -> frozenset[int]:
    """The code points that the default font can draw."""
    font = font_manager.get_font(font_manager.findfont(font_manager.FontProperties()))
    return frozenset(font.get_charmap())
