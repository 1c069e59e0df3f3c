"""The systems that the thesis names, written: a page of Markdown and CSV files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cae_jax.files import write_csv, write_whole
from cae_jax.reports.thesis import page, systems, tables
from cae_jax.reports.thesis.systems import Missing
from cae_jax.types import CaeError

_TITLES = {
    2: "Table 2: objects",
    3: "Table 3: textures",
    0: "The same of images that the thesis does not have",
}
_ROWS = {  # whose row it is -> the columns of its accuracies
    "thesis": ("good_accuracy_printed", "defect_accuracy_printed"),
    "ours, minimum area": ("good_accuracy", "defect_accuracy"),
    "ours, leak-free 90 %": ("good_leak_free", "defect_leak_free"),
}
_NOTE = (
    "Cells are good accuracy / defect accuracy, bold is the best mean of the two in a row. As the "
    "paper judges, an image is defective whose map has a region of the minimum area above a "
    "threshold from good images that were not learned from; its minimum areas are not published. "
    "Leak-free 90 %: the distance that 90 % of such good images stay below. The thesis's columns "
    "were measured by CVPR 2019 on all of MVTec AD, at full training."
)
_COSTS = (
    "AUROC and AU-PRO (up to 30 % false positives) are over the test images; seconds are of the "
    "training or the fit, its compilation included, and milliseconds of the scoring call, both on "
    "the machine named above. PCA is the trivial score of that name, fitted to the same images, "
    "at the size of images at which it is best. GAN marks what learned by adversarial training."
)


def write(
    folder: Path,
    cells: Sequence[Mapping[str, Any]],
    missing: Sequence[Missing],
    excel: bool = False,
) -> str:
    """Writes tables.md, tables2_3.csv, methods.csv and table1.csv; returns its tables, to
    print.

    Args:
      folder: made when it is not there.
      cells: see `systems.by_category`.
      missing: likewise.
      excel: see `files.write_csv`.

    Raises:
      CaeError: no cell finished, so there is nothing to write.
      DataError: a file that cannot be written.
    """
    if not cells:
        cause = missing[0].cause if missing else "nothing to run"
        raise CaeError(f"no cell finished: {cause}")
    folder.mkdir(parents=True, exist_ok=True)
    of = systems.by_category(cells, missing)
    write_csv(folder / "methods.csv", of, excel)
    write_csv(folder / "tables2_3.csv", systems.tables2_3(of), excel)
    write_csv(folder / "table1.csv", tables.table1(cells), excel)
    body = "\n".join(_tables(of))
    write_whole(folder / "tables.md", "\n".join([*_head(cells, of), body, page.notes()]) + "\n")
    return f"{body}\nTables: {folder.absolute()}"


def _head(cells: Sequence[Mapping[str, Any]], of: pd.DataFrame) -> list[str]:
    """What was run on what, and how little of it."""
    synthetic = cells[0]["dataset"] == "synthetic"
    few = _few(of)
    title = "# The systems that the thesis names" + (", after few epochs" if few else "")
    title += " on SYNTHETIC data" if synthetic else ""

    def all_of(key: str) -> str:
        values = [str(cell[key]) for cell in cells if cell.get(key) is not None]
        return ", ".join(dict.fromkeys(values)) or "-"

    lines = [title, "", f"Data set: {all_of('dataset')}. Seeds: {all_of('seed')}. "]
    lines[-1] += f"Hardware: {all_of('device')}. jax {all_of('jax')}."
    sentences = [few] if few else []
    if synthetic:
        sentences.append("These images were made up from a seed: nothing compares with the thesis.")
    sentences += page.other_images(cells)
    lacking = of[of["error"] != ""].groupby(["title", "error"], sort=False)["category"]
    for (system, error), categories in lacking:
        sentences.append(f"Missing: {system}, {', '.join(categories)}: {error}")
    return [*lines, "", *(line for sentence in sentences for line in (sentence, ""))]


def _few(of: pd.DataFrame) -> str:
    """Says how many patches were seen where they are fewer than the thesis's; else ""."""
    seen = of.dropna(subset="patches_seen")
    seen = seen[seen["patches_seen"] < systems.THESIS_PATCHES]
    if seen.empty:
        return ""
    words = [
        f"{count:,.0f} ({', '.join(dict.fromkeys(part['title']))})"
        for count, part in seen.groupby("patches_seen")
    ]
    return (
        f"FEW EPOCHS: an autoencoder of the thesis sees {systems.THESIS_PATCHES:,} patches, 200 "
        f"epochs of 10,000. Here what learns by steps saw {'; '.join(words)}. So these tables say "
        "that the systems run and learn, not which is better when it has learned."
    )


def _tables(of: pd.DataFrame) -> list[str]:
    both = systems.tables2_3(of)
    lines: list[str] = []
    for number, part in both.groupby("table", sort=False):
        lines += [f"## {_TITLES[number]}", "", *_accuracies(part, set(of["category"])), ""]
    lines += [_NOTE, "", "## All systems", ""]
    if against := systems.gans_against_pca(of):
        lines += ["GANs against PCA, by image AUROC:", "", *(f"- {line}" for line in against), ""]
    return [*lines, *_all(of), "", _COSTS, ""]


def _accuracies(part: pd.DataFrame, found: set[str]) -> list[str]:
    """A table of six columns: of each category the printed row, and ours where there are any."""
    rows, titles = [], list(dict.fromkeys(part["title"]))
    for category, of in part.groupby("category", sort=False):
        for whose, (good, defect) in _ROWS.items():
            values = of.set_index("title").loc[titles, [good, defect]].to_numpy(float)
            if np.isnan(values).all() and (whose == "thesis" or category not in found):
                continue
            cells = [(_pair(*value), float(value.sum())) for value in values]
            alone = np.isnan(values).any(axis=1).sum() == len(values) - 1
            shown = [text for text, _ in cells] if alone else page.bold(cells)
            rows.append([category, whose, *shown])
    return page.grid(pd.DataFrame(rows, columns=["category", "", *titles]))


def _all(of: pd.DataFrame) -> list[str]:
    rows = [
        {
            "category": row.category,
            "system": row.title + (" (GAN)" if row.gan else ""),
            "in the thesis": row.where,
            "image AUROC": page.mean(row.image_auroc, row.image_auroc_spread, 3),
            "pixel AUROC": page.mean(row.pixel_auroc, row.pixel_auroc_spread, 3),
            "AU-PRO 0.3": page.mean(row.au_pro_30, row.au_pro_30_spread, 3),
            **(
                {"AU-sPRO 0.05": page.mean(row.au_spro_5, row.au_spro_5_spread, 3)}
                if "au_spro_5" in of
                else {}
            ),
            "good / defect, minimum area": _pair(row.good_accuracy, row.defect_accuracy),
            "leak-free 90 %": _pair(row.good_leak_free, row.defect_leak_free),
            "training or fit, s": _three(row.train_seconds),
            "ms an image": _three(row.ms_per_image),
            "pixels": page.mean(row.image_size, np.nan, 0),
            "patches seen": "-" if np.isnan(row.patches_seen) else f"{row.patches_seen:,.0f}",
            "note": "; ".join(filter(None, (row.flag, row.error and f"missing: {row.error}"))),
        }
        for row in of.itertuples()
    ]
    return page.grid(pd.DataFrame(rows))


def _pair(good: float, defect: float) -> str:
    return "-" if np.isnan([good, defect]).all() else page.pair(good, defect)


def _three(value: float) -> str:
    """Three digits of a number: 3.14, 314, 3142."""
    if np.isnan(value):
        return "-"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
