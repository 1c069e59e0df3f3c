"""A run as one HTML file that needs nothing else, and one over all runs of a workdir."""

from __future__ import annotations

from pathlib import Path

from cae_jax.files import write_whole
from cae_jax.reports.html.overview import overview_page
from cae_jax.reports.html.page import run_page
from cae_jax.reports.run_files import FINISHED, Examples, Run, cells_with, read_run
from cae_jax.types import UsageError

__all__ = ["Examples", "Run", "overview_page", "read_run", "run_page", "write"]


def write(workdir: Path) -> list[Path]:
    """Writes report.html into every finished cell of a workdir, and one over all into the workdir.

    Returns:
      What was written: the cells' pages in sorted order, last the workdir's.

    Raises:
      UsageError: no finished cell there.
      DataError: a file of a cell that cannot be read, or a page that cannot be written.
    """
    folders = cells_with(workdir, FINISHED)
    if not folders:
        raise UsageError(
            f"--workdir={workdir}: no finished run in it (no CATEGORY/MODEL/seed_N/{FINISHED})"
        )
    runs, written = [], []
    for folder in folders:
        run = read_run(folder)
        written.append(folder / "report.html")
        write_whole(written[-1], run_page(run))
        runs.append(run._replace(examples=None))  # the pictures of all runs are too much to hold
    written.append(workdir / "report.html")
    write_whole(written[-1], overview_page(runs))
    return written
