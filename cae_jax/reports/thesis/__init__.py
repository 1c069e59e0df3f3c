"""The thesis's tables with ours beside its own: CSV files, a page of Markdown, a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cae_jax.files import write_csv, write_whole
from cae_jax.reports import plots
from cae_jax.reports.thesis import page, systems_page, tables
from cae_jax.types import CaeError

MODELS = tuple(sorted(tables.PRINTED))  # those of Tables 11 to 14
write_systems = systems_page.write


def write_tables(
    folder: Path,
    cells: Sequence[Mapping[str, Any]],
    failed: Mapping[str, str],
    excel: bool = False,
) -> str:
    """Writes the thesis's tables as CSV, Markdown and a figure into `folder`.

    Returns the shortest of them, to print.

    Args:
      folder: made when it is not there.
      cells: flags and metrics.json of every finished cell.
      failed: why the others are not finished, by CATEGORY/RUN/seed_N.
      excel: see `files.write_csv`.

    Raises:
      CaeError: no cell finished, so there is nothing to write.
    """
    if not cells:
        raise CaeError(f"no cell finished: {next(iter(failed.values()), 'nothing to run')}")
    folder.mkdir(parents=True, exist_ok=True)
    printed = set(tables.printed("table1_dataset")["category"])
    there = {cell["category"] for cell in cells}
    write_csv(folder / "table1.csv", tables.table1(cells), excel)
    write_csv(folder / "tables2_3.csv", tables.tables2_3(cells), excel)
    write_csv(folder / "localization.csv", tables.localization(cells), excel)
    write_csv(folder / "thresholds.csv", tables.threshold_rules(cells), excel)
    write_csv(folder / "auroc.csv", tables.honest(cells), excel)
    text = page.markdown_page(cells, sorted(printed - there), failed)
    write_whole(folder / "tables.md", text)
    l2 = tables.trained_on_l2(cells)
    if l2:
        _write_l2(folder, l2, excel)
    short = [page.header(cells)]
    for table in (tables.honest(cells), tables.tables2_3(cells)):
        short += [*page.grid(table), ""]
    return "\n".join([*short, f"Tables: {folder.absolute()}"])


def _write_l2(folder: Path, l2: Sequence[Mapping[str, Any]], excel: bool) -> None:
    """The tables and the figure of the cells that the thesis's own results are about."""
    table = tables.tables11_14(l2)
    write_csv(folder / "table5.csv", tables.table5(l2), excel)
    write_csv(folder / "table6.csv", tables.table6(l2), excel)
    write_csv(folder / "tables11_14.csv", table, excel)
    title = "synthetic data" if l2[0]["dataset"] == "synthetic" else ""
    plots.plot_reproduction(folder / "table11.png", table[table["table"] == 11], title)
