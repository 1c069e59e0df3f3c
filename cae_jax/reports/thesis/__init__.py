"""The thesis's tables with ours beside its own: CSV files, a page of Markdown, a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cae_jax.files import write_csv, write_whole
from cae_jax.reports import plots
from cae_jax.reports.thesis import page, tables
from cae_jax.types import CaeError


def write_tables(
    folder: Path, cells: Sequence[Mapping[str, Any]], failed: Mapping[str, str]
) -> None:
    """Writes the thesis's tables as CSV, Markdown and a figure into `folder`.

    Args:
      folder: made when it is not there.
      cells: flags and metrics.json of every finished cell.
      failed: why the others are not finished, by CATEGORY/RUN/seed_N.

    Raises:
      CaeError: no cell finished, so there is nothing to write.
    """
    if not cells:
        raise CaeError(f"no cell finished: {next(iter(failed.values()), 'nothing to run')}")
    folder.mkdir(parents=True, exist_ok=True)
    printed = set(tables.printed("table1_dataset")["category"])
    there = {cell["category"] for cell in cells}
    write_csv(folder / "table1.csv", tables.table1(cells))
    write_csv(folder / "tables2_3.csv", tables.tables2_3(cells))
    write_csv(folder / "localization.csv", tables.localization(cells))
    write_csv(folder / "thresholds.csv", tables.threshold_rules(cells))
    write_csv(folder / "auroc.csv", tables.honest(cells))
    text = page.markdown_page(cells, sorted(printed - there), failed)
    write_whole(folder / "tables.md", text)
    l2 = tables.trained_on_l2(cells)
    if not l2:
        return
    table = tables.tables11_14(l2)
    write_csv(folder / "table5.csv", tables.table5(l2))
    write_csv(folder / "table6.csv", tables.table6(l2))
    write_csv(folder / "tables11_14.csv", table)
    title = "synthetic data" if cells[0]["dataset"] == "synthetic" else ""
    plots.plot_reproduction(folder / "table11.png", table[table["table"] == 11], title)
