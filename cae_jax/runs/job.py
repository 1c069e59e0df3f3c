"""The main job: for every category, read, train, score, write; each part goes on where it stopped.

A workdir holds one cell per category, model and seed, WORKDIR/CATEGORY/MODEL[-LOSS]/seed_N, and
results.csv over all of them. A cell is finished when its metrics.json is there: it comes last.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import pandas as pd

from cae_jax import data, files
from cae_jax.methods import losses
from cae_jax.methods.autoencoder import autoencoder, optimizer
from cae_jax.reports import results
from cae_jax.runs.config import Config
from cae_jax.runs.evaluate import write_evaluation
from cae_jax.runs.machine import lock
from cae_jax.runs.machine.progress import Progress, say
from cae_jax.runs.train import NOT_IDENTITY, Cell, load_trained, train_cells
from cae_jax.scoring import scorer
from cae_jax.training import crops, loop
from cae_jax.training.members import default_plan
from cae_jax.types import CaeError, DataError, Duplicate, LeftOut, Method, Split, UsageError

_PACKAGES = ("cae_jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")


def run(config: Config) -> pd.DataFrame:
    """Runs the main job; finished cells are not done again. Returns the workdir's results.

    Raises:
      UsageError: flags that cannot work, or a workdir with another run's results, or one that
        another process writes to.
      DataError: images that cannot be used.
      CaeError: training diverged. What was finished before is written.
    """
    cells, method = plan(config)
    folder = cells[0].config.folder
    with claimed(cells):
        use_compilation_cache()
        for cell in cells:
            if not left_to_do(cell):
                say(f"{cell.folder}: finished before")
                continue
            run_cell(cell, method, summary=True)
            write_results(folder)
    return write_results(folder)


def plan(config: Config) -> tuple[list[Cell], Method]:
    """Returns the cells of a config and their method; raises UsageError, DataError as `run`."""
    config = config.resolved()
    config.check()
    names = data.resolve(config.dataset, config.data_dir, config.categories)
    method = build_method(config)
    default_plan(config.members, 1, config.batch_size)  # raises for a batch that cannot be split
    return [make_cell(config, name) for name in names], method


def run_cell(
    cell: Cell, method: Method, bars: Callable[..., Progress] = Progress, summary: bool = False
) -> None:
    """Reads, trains and judges one cell, from its last checkpoint on.

    Args:
      cell: what and where; its folder is held, see `claimed`.
      method: of the cell's config.
      bars: makes what shows the progress of each part, as `Progress` does.
      summary: print what was found in the category's folder.

    Raises what `run` raises.
    """
    split = read_split(cell.config, bars)
    if summary:
        print(data.summary(split), flush=True)
    _prepare(cell, split)
    c = cell.config
    (trained,) = train_cells([(cell, split)], method, bars)
    if isinstance(trained, CaeError):
        raise trained
    write_evaluation(cell.folder, c, method, split, trained, bars)


def run_together(
    cells: Sequence[Cell], method: Method, bars: Callable[..., Progress] = Progress
) -> dict[Path, Exception]:
    """Runs cells that differ in category and seed alone as members of one training.

    Takes what `run_cell` takes. One that fails does not stop the others.

    Returns:
      What went wrong, by the cell's folder.

    Raises:
      UsageError: flags that cannot work.
    """
    failed: dict[Path, Exception] = {}
    ready = []
    for cell in cells:
        with _keeping(failed, cell):
            split = read_split(cell.config, bars)
            _prepare(cell, split)
            ready.append((cell, split))
    for (cell, split), trained in zip(ready, train_cells(ready, method, bars), strict=True):
        with _keeping(failed, cell):
            if isinstance(trained, CaeError):
                raise trained
            write_evaluation(cell.folder, cell.config, method, split, trained, bars)
    return failed


@contextlib.contextmanager
def _keeping(failed: dict[Path, Exception], cell: Cell) -> Iterator[None]:
    """Notes an exception as the cell's, whatever it is: the other cells can still be had."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        failed[cell.folder] = error


def evaluate(
    workdir: Path, data_dir: str = "", changes: Mapping[str, Any] = MappingProxyType({})
) -> pd.DataFrame:
    """Makes scores and all that follows again from the checkpoints in a workdir.

    Args:
      workdir: what `run` wrote.
      data_dir: where the images are now; empty for where they were.
      changes: flags of `config.SCORING` by name, where they shall differ from the run's; they
        become the run's.

    Raises:
      UsageError: no run there, or a change that cannot work.
      DataError: a checkpoint or an image that cannot be read.
    """
    cells = [
        cell._replace(config=dataclasses.replace(cell.config, **changes))
        for cell in find_cells(workdir)
    ]
    for cell in cells:
        cell.config.check()
    with contextlib.ExitStack() as stack:
        for cell in cells:
            stack.enter_context(lock.hold(cell.folder))
        use_compilation_cache()
        for cell in cells:
            _evaluate(cell, data_dir)
    return write_results(workdir)


def _evaluate(cell: Cell, data_dir: str) -> None:
    """`evaluate` for one cell."""
    method = build_method(cell.config)
    trained = load_trained(cell, method)
    config = dataclasses.replace(cell.config, data_dir=data_dir or cell.config.data_dir)
    split = read_split(config)
    if data.fingerprint(split) != cell.fingerprint:
        say(f"{cell.folder}: warning: these are not the images of the training run")
    (cell.folder / "metrics.json").unlink(missing_ok=True)  # not finished with these flags
    files.write_whole(cell.folder / "flags.txt", cell.config.to_flagfile())
    write_evaluation(cell.folder, config, method, split, trained)


def build_method(config: Config) -> Method:
    """Returns the config's model as a method; raises UsageError for what cannot work."""
    tx = optimizer(config.learning_rate, config.weight_decay, config.decoupled_weight_decay)
    loss = losses.loss(config.loss, config.residual().ssim)
    chunk_size = loop.default_chunk_size(config.patch_size)
    return autoencoder(config.build_model(), tx, chunk_size, loss, config.precision)


def read_split(config: Config, bars: Callable[..., Progress] = Progress) -> Split:
    """Reads the config's one category and holds its validation images out."""
    c = config
    with bars(f"read {c.category}", 0, "images") as bar:
        split = data.read(
            *(c.dataset, c.data_dir, c.category, c.image_size, c.channels, c.seed),
            on_bad_image=c.on_bad_image,
            progress=bar.update,
        )
    return data.hold_out(split, c.validation_fraction, c.seed)


def find_cells(workdir: Path) -> list[Cell]:
    """Returns the cells of a workdir, sorted; raises UsageError when there is none."""
    cells = []
    for path in sorted(workdir.glob("*/*/seed_*/flags.txt")):
        config = _read_flags(path)
        cells.append(Cell(path.parent, dataclasses.replace(config, workdir=str(workdir))))
    if not cells:
        raise UsageError(f"--workdir={workdir}: no run in it (no CATEGORY/MODEL/seed_N/flags.txt)")
    return cells


def _read_flags(path: Path) -> Config:
    text = path.read_text(encoding="utf-8", errors="surrogateescape")  # as write_whole writes
    return Config.from_flagfile(text, str(path))


def write_results(workdir: Path) -> pd.DataFrame:
    """Writes results.csv over the finished cells of a workdir and returns it."""
    rows = [json.loads(p.read_text()) for p in sorted(workdir.glob("*/*/seed_*/metrics.json"))]
    table = results.results_table(rows)
    results.write_csv(workdir / "results.csv", table)
    return table


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder: a second start compiles nothing."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    jax.config.update("jax_compilation_cache_dir", str(Path(base) / "cae_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # small ones are many


def make_cell(config: Config, category: str) -> Cell:
    """Returns the cell of a category in the config's workdir.

    Raises UsageError where --augment=auto does not know the category.
    """
    kind = crops.kind_for(config.augment, category)
    model = config.model.replace(":", ".")
    if config.loss != "l2":
        model += f"-{config.loss}"
    folder = config.folder / category / model / f"seed_{config.seed}"
    return Cell(folder, dataclasses.replace(config, category=category, augment=kind))


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
            if left_to_do(cell):
                stack.enter_context(lock.hold(cell.folder))
            check_same(cell)
        yield


def left_to_do(cell: Cell) -> bool:
    """Returns whether `run` has something to do for a cell."""
    return cell.config.overwrite or not cell.finished


def check_same(cell: Cell) -> None:
    """Raises UsageError where the cell's folder holds another run and may not be overwritten."""
    path = cell.folder / "flags.txt"
    if cell.config.overwrite or not path.exists():
        return
    before = _read_flags(path)
    for field in dataclasses.fields(Config):
        was, now = getattr(before, field.name), getattr(cell.config, field.name)
        if was != now and field.name not in NOT_IDENTITY:
            raise UsageError(
                f"{cell.folder} holds a run with --{field.name}={was}, now {now}: "
                "take another --workdir, or --overwrite"
            )


def _clear(folder: Path) -> None:
    """Removes a run; until the last moment it is nothing but that run, not finished."""
    first, last = folder / "metrics.json", folder / "flags.txt"
    first.unlink(missing_ok=True)
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path != last and not path.name.startswith(lock.NAME):
            path.unlink()
    last.unlink(missing_ok=True)


def _prepare(cell: Cell, split: Split) -> None:
    """Writes what the run is before it starts; on a later start checks the images against it."""
    cell.folder.mkdir(parents=True, exist_ok=True)
    if cell.config.overwrite:  # not before: with images that cannot be used, the old run stays
        _clear(cell.folder)
    fingerprint = data.fingerprint(split)
    if cell.begun and cell.fingerprint != fingerprint:
        raise DataError(
            f"{cell.folder}: the images changed since this run began "
            f"(fingerprint {cell.fingerprint[:12]}, now {fingerprint[:12]}); use --overwrite"
        )
    # First of all files: whatever else lies in a cell belongs to these flags.
    files.write_whole(cell.folder / "flags.txt", cell.config.to_flagfile())
    for name, record in (("left_out", LeftOut), ("duplicates", Duplicate)):
        # object: pandas' own strings refuse a file name that is no UTF-8
        rows = pd.DataFrame(getattr(split, name), columns=record._fields, dtype=object)
        results.write_csv(cell.folder / f"{name}.csv", rows)
    results.write_json(
        cell.folder / "versions.json",
        {
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in _PACKAGES if _installed(name)},
            "device": scorer.device(),
            "seed": cell.config.seed,
            "data_fingerprint": fingerprint,
        },
    )


def _installed(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
