"""A run as one HTML file that needs nothing else, and one over all runs of a workdir."""

from __future__ import annotations

from pathlib import Path

from cae_jax.files import write_whole
from cae_jax.reports.html.overview import overview_page
from cae_jax.reports.html.page import run_page
from cae_jax.reports.run_files import (
    FINISHED,
    Examples,
    Run,
    cells_in,
    cells_with,
    none_in,
    read_run,
)

__all__ = ["Examples", "Run", "overview_page", "read_run", "run_page", "write"]


def write(workdir: Path) -> list[Path]:
    """Writes report.html into every finished cell of a workdir, or of a folder in it down to a
    cell's own, and one over all of the workdir's into that.

    Returns:
      What was written: the cells' pages in sorted order, last the workdir's.

    Raises:
      UsageError: no finished cell there.
      DataError: a file of a cell that cannot be read, or a page that cannot be written.
    """
    folders = cells_in(workdir, FINISHED)
    if not folders:
        raise none_in(workdir, "finished run", FINISHED)
    workdir = folders[0].parents[2]
    runs, written = [], []
    for folder in cells_with(workdir, FINISHED):
        asked = folder in folders
        run = read_run(folder, pictures=asked)
        if asked:
            written.append(folder / "report.html")
            write_whole(written[-1], run_page(run))
        runs.append(run._replace(examples=None))  # the pictures of all runs are too much to hold
    written.append(workdir / "report.html")
    write_whole(written[-1], overview_page(runs))
    return written
