"""Methods side by side: a benchmark's workdir as tables, figures and pages, from files alone."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from cae_jax.files import write_csv, write_whole
from cae_jax.reports.benchmark import figures, page, pairs, tables
from cae_jax.reports.benchmark.cells import read
from cae_jax.types import CaeError, UsageError


class Written(NamedTuple):
    """What `write` left."""

    paths: list[Path]
    text: str  # the first table, for a terminal


def write(workdir: Path, excel: bool = False) -> Written:
    """Writes benchmark.csv, .md and .html, pairs.csv, ranks.png and few_images.png into a workdir.

    ranks.png needs two methods, few_images.png two numbers of training images; without them an
    older one is taken away. `excel` is as of `files.write_csv`.

    Raises:
      UsageError: no such folder.
      CaeError: no cell finished, so there is nothing to write.
      DataError: a file that cannot be read or written.
    """
    if not workdir.is_dir():
        raise UsageError(f"--workdir={workdir}: no such folder")
    found = read(workdir)
    done = found.table[found.table["error"] == ""]
    if done.empty:
        cause = next(iter(found.table["error"]), "nothing was run in it")
        raise CaeError(f"{workdir}: no cell finished: {cause}")
    csv, md, html = (workdir / f"benchmark.{kind}" for kind in ("csv", "md", "html"))
    write_csv(csv, found.table, excel)
    count = tables.whole(found.table)
    two = workdir / "pairs.csv"
    write_csv(two, pairs.table(found, count), excel)
    by_category = tables.by_category(found)
    ranks = tables.ranked(by_category[by_category["train_images"] == count])
    pictures = {}
    path = workdir / "ranks.png"
    path.unlink(missing_ok=True)
    if ranks and len(ranks.entries) > 1:
        figures.plot_ranks(path, ranks)
        pictures["ranks"] = (f"Mean ranks: {tables.words(ranks)}", path)
    path = workdir / "few_images.png"
    path.unlink(missing_ok=True)
    if done["train_images"].nunique() > 1:
        figures.plot_few(path, tables.overall(found), by_category)
        pictures["few"] = ("image AUROC against the number of training images", path)
    shown = page.page(found)
    write_whole(md, page.markdown(shown))
    write_whole(html, page.html(shown, pictures))
    return Written([csv, two, md, html, *(path for _, path in pictures.values())], page.text(shown))
