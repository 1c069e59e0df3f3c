"""One category, run and seed of a workdir: its folder, and whose it is.

WORKDIR/CATEGORY/RUN/seed_N, where RUN is the method or what it calls itself: MODEL[-LOSS] of an
autoencoder. A cell is finished when its metrics.json is there: it comes last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import platform
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from cae_jax import files
from cae_jax.data.frame import Frame
from cae_jax.options import IDENTITY, SCORING
from cae_jax.reports import results
from cae_jax.reports.run_files import (
    FINGERPRINTS,
    FINISHED,
    FLAGS,
    VERSIONS,
    cells_in,
    cells_with,
    none_in,
)
from cae_jax.runs import frames, longer, provenance
from cae_jax.runs.config import Config, identity, read_flags
from cae_jax.runs.machine import lock
from cae_jax.runs.machine.progress import say
from cae_jax.scoring import scorer
from cae_jax.training import crops
from cae_jax.training.schedule import Training
from cae_jax.types import Duplicate, LeftOut, Split, UsageError

_PACKAGES = ("cae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")


class Cell(NamedTuple):
    """One category, run and seed of a workdir."""

    folder: Path
    config: Config  # its category is the cell's one

    @property
    def finished(self) -> bool:
        """Whether all its files are written."""
        return (self.folder / FINISHED).exists()

    @property
    def begun(self) -> bool:
        """Whether it is known what images it is of."""
        return (self.folder / VERSIONS).exists()

    @property
    def left_to_do(self) -> bool:
        """Whether the job has something to do for it."""
        return self.config.overwrite or not self.finished or self.longer

    @property
    def longer(self) -> bool:
        """Whether its folder holds the same run with fewer epochs, as far as it can be seen."""
        path = self.folder / FLAGS
        return path.exists() and longer.is_longer(read_flags(path), self.config)

    @property
    def frame(self) -> Frame:
        """What its images are brought to, by its own copies of masks; raises as `frames.frame`."""
        return self.config.framed(self.folder, first=True)

    @property
    def fingerprint(self) -> str:
        """Of the images that it was begun with; raises KeyError before that."""
        return provenance.read(self.folder)["data_fingerprint"]

    def is_of(self, split: Split) -> bool:
        """Returns whether it was begun with these images; raises KeyError before that."""
        return provenance.is_of(self.folder, split)

    @property
    def name(self) -> str:
        """Its folder in the workdir."""
        return self.folder.relative_to(self.config.folder).as_posix()

    @property
    def title(self) -> str:
        """What it is called in messages and plots."""
        c = self.config
        return f"{c.category}, {c.title}, seed {c.seed}"


def make(config: Config, category: str) -> Cell:
    """Returns the cell of a category, or of several by the name of `joint.name`, in the config's
    workdir.

    Raises UsageError where --augment=auto does not know the category, or means different things
    of several.
    """
    config = config.changed(category=category)
    if isinstance(config.options, Training):
        asked = config.options.augment
        kinds = {crops.kind_for(asked, name): name for name in config.parts}
        if len(kinds) > 1:
            means = ", ".join(f"{kind} of {name}" for kind, name in kinds.items())
            raise UsageError(f"--augment={asked}: means {means}; name one for all of --joint")
        config = config.changed(augment=next(iter(kinds)))
    if config.joint and hasattr(config.options, "together"):
        own = config.options.together(len(config.parts))
        config = dataclasses.replace(config, options=own)
    return Cell(config.cell_folder, config)


def find(workdir: Path) -> list[Cell]:
    """Returns the cells of a workdir, or of a folder in it down to a cell's own, sorted by folder.

    Raises:
      UsageError: no cell in it, or flags that this version does not know.
    """
    if cells := listed(workdir):
        return cells
    raise none_in(workdir, "run", FLAGS)


def listed(workdir: Path) -> list[Cell]:
    """Returns the same; [] where there is none."""
    return [
        Cell(folder, read_flags(folder / FLAGS).changed(workdir=str(folder.parents[2])))
        for folder in cells_in(workdir, FLAGS)
    ]


def write_results(workdir: Path, excel: bool = False) -> pd.DataFrame:
    """Writes results.csv over the finished cells of a workdir, if any, and returns it; `excel` as
    of `files.write_csv`."""
    rows = [
        json.loads((folder / FINISHED).read_text(encoding="utf-8"))
        for folder in cells_with(workdir, FINISHED)
    ]
    table = results.results_table(rows)
    if rows:
        files.write_csv(workdir / "results.csv", table, excel)
    return table


@contextlib.contextmanager
def claimed(cells: Sequence[Cell]) -> Iterator[None]:
    """Holds the folders of the cells that are not finished against every other process.

    Raises:
      UsageError: another process holds one, or one holds another run's results and the config has
        no --overwrite.
      DataError: a folder cannot be written to.
    """
    with contextlib.ExitStack() as stack:
        for cell in cells:
            if cell.left_to_do:
                stack.enter_context(lock.hold(cell.folder))
            check_same(cell)
        yield


def check_same(cell: Cell) -> None:
    """Raises UsageError where the cell's folder holds another run and may not be overwritten."""
    path = cell.folder / FLAGS
    if cell.config.overwrite or not path.exists():
        return
    there = read_flags(path)
    before, now = (identity(config, IDENTITY, SCORING) for config in (there, cell.config))
    others = [name for name in ("method", *now) if before.get(name) != now[name]]
    if moved := set(others) & set(frames.COPIES):
        same = frames.same_masks(there.framed(cell.folder, first=True), cell.config.framed(None))
        others = [name for name in others if name not in moved & same]
    if others == ["epochs"]:
        longer.check(cell.folder, there, cell.config)
        return
    for name in others:
        if name != "epochs":
            raise UsageError(
                f"{cell.folder} holds a run with --{name}={before.get(name)}, now {now[name]}: "
                "take another --workdir, or --overwrite"
            )


def warn_of_code(cell: Cell) -> None:
    """Says when the run's own model or method was edited since it was trained."""
    if said := provenance.other_code(cell.folder, cell.config):
        say(f"warning: {cell.folder}: {said}")


def prepare(cell: Cell, split: Split) -> None:
    """Writes what the run is before it starts; on a later start checks the images against it.

    Raises DataError for other images than the run was begun with, and where a file cannot be
    written.
    """
    cell.folder.mkdir(parents=True, exist_ok=True)
    frame = cell.config.frame
    if cell.config.overwrite:  # not before: with images that cannot be used, the old run stays
        _clear(cell.folder)
    each, made_of = provenance.begin(cell.folder, cell.config, split)
    (cell.folder / FINISHED).unlink(missing_ok=True)  # of fewer epochs
    # First of all files: whatever else lies in a cell belongs to these flags.
    files.write_whole(cell.folder / FLAGS, cell.config.to_flagfile())
    masks = frames.keep(frame, cell.folder)
    for name, record in (("left_out", LeftOut), ("duplicates", Duplicate)):
        # object: pandas' own strings refuse a file name that is no UTF-8
        rows = pd.DataFrame(getattr(split, name), columns=record._fields, dtype=object)
        files.write_csv(cell.folder / f"{name}.csv", rows, cell.config.excel)
    files.write_csv(cell.folder / FINGERPRINTS, each)
    files.write_json(
        cell.folder / VERSIONS,
        {
            "python": platform.python_version(),
            **{f"{flag}_sha256": digest for flag, digest in masks.items()},
            **{name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)},
            "device": scorer.device(),
            "seed": cell.config.seed,
            **made_of,
        },
    )


def _clear(folder: Path) -> None:
    """Removes a run; until the last moment it is nothing but that run, not finished."""
    first, last = folder / FINISHED, folder / FLAGS
    first.unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != last and not path.name.startswith(lock.NAME):
            path.unlink()
    last.unlink(missing_ok=True)


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
