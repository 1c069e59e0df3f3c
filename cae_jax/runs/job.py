"""The main job: a grid of cells planned, read, trained, judged and written; a run is a grid of one.

Each part goes on where it stopped, and a cell that fails does not stop the others.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pandas as pd

from cae_jax import data, files
from cae_jax.data import joint
from cae_jax.reports.run_files import FINISHED, FLAGS
from cae_jax.runs import build, epoch_log, needs, provenance
from cae_jax.runs import cell as cells_of
from cae_jax.runs.cell import Cell
from cae_jax.runs.config import Config
from cae_jax.runs.evaluate import write_evaluation
from cae_jax.runs.machine import lock, multihost
from cae_jax.runs.machine.progress import say
from cae_jax.runs.train import load_trained, train_cells
from cae_jax.scoring import compilation
from cae_jax.training.members import check_strategy, default_plan
from cae_jax.training.schedule import Training
from cae_jax.types import CaeError, Steps, UsageError

_TOGETHER = 16  # members of one training, at most: their images lie on the device together


class Outcome(NamedTuple):
    """What came of a grid."""

    cells: list[Cell]  # the finished ones
    failed: dict[str, Exception]  # why the others are not, by `Cell.name`
    table: pd.DataFrame  # results.csv: every finished cell of the workdir

    def raise_first(self) -> None:
        """Raises the first failure, if any; of several the others are said before."""
        for name, error in list(self.failed.items())[1:]:
            say(f"{name}: not done: {error}")
        for error in self.failed.values():
            raise error

    def rows(self) -> list[dict[str, Any]]:
        """Returns flags and metrics.json of every finished cell, for the thesis's tables."""
        return [
            {
                **cell.config.flags(),
                **json.loads((cell.folder / FINISHED).read_text(encoding="utf-8")),
            }
            for cell in self.cells
        ]


def run(config: Config) -> pd.DataFrame:
    """Runs the main job of one config; finished cells are not done again.

    Returns the workdir's results.

    Raises:
      UsageError: flags that cannot work, or a workdir with another run's results, or one that
        another process writes to; before anything is computed.
      DataError: images that cannot be used.
      CaeError: training diverged. Of several failures the first; what could be had is written.
    """
    outcome = run_grid([config])
    outcome.raise_first()
    return outcome.table


@compilation.in_32_bits()
def run_grid(configs: Sequence[Config]) -> Outcome:
    """Runs every cell of a grid that is not finished yet; one that fails does not stop the rest.

    Where several processes run (`multihost`), each takes its share of the cells, in one workdir
    that all of them can write to.

    Raises UsageError as `run` does.
    """
    compilation.use_cache()  # before a plan compiles anything
    cells = plan(configs)
    failed: dict[str, Exception] = {}
    with multihost.together("cells"):
        mine = multihost.share(cells)
        with cells_of.claimed(mine):
            for cell in mine:
                if not cell.left_to_do:
                    with _keeping(failed, cell):
                        _check_finished(cell)
            left, done = [cell for cell in mine if cell.left_to_do], 0
            for group in _groups(left):
                if len(left) > 1:
                    numbers = "-".join(dict.fromkeys((f"{done + 1}", f"{done + len(group)}")))
                    say(f"cell {numbers} of {len(left)}: {group[0].name}")
                failed |= _run_group(group)
                done += len(group)
    for cell in cells:
        if not cell.finished and cell.name not in failed:  # of another process, which says why
            failed[cell.name] = CaeError("not finished, see the process that it was on")
    finished = [cell for cell in cells if cell.name not in failed]
    table, first = pd.DataFrame(), cells[0].config
    if multihost.is_first():
        table = cells_of.write_results(first.folder, first.excel)
    return Outcome(finished, failed, table)


def plan(configs: Sequence[Config]) -> list[Cell]:
    """Returns the cells of a grid: every category, or all as one with --joint, with every config;
    raises as `run`."""
    configs = [config.resolved() for config in configs]
    first = configs[0]
    names = data.resolve(first.dataset, first.data_dir, first.categories, first.names)
    for name in data.passed_over(first.dataset, first.data_dir, first.categories, first.names):
        say(
            f"{name}: passed over, for nothing there says which images are good; "
            f"--category={name} learns from all of them"
        )
    if first.joint:
        names = (joint.name(names),)
    cells = [cells_of.make(config, name) for name in names for config in configs]
    for group in _groups(multihost.share(cells)):
        if isinstance(t := group[0].config.options, Training):
            check_strategy(t.members)
            epoch_log.check(t.log_to)
    return cells


def _groups(cells: Sequence[Cell]) -> list[list[Cell]]:
    """The cells in the order in which they run, those together that train as one."""
    groups: list[list[Cell]] = []
    at: dict[Any, list[Cell]] = {}
    for cell in cells:
        learn, t = cell.config.build().learn, cell.config.options
        key = None  # of those that train together
        if isinstance(learn, Steps) and default_plan(t.members, 2, t.batch_size).stacked:
            key = (learn, t.course(learn.patch_size, 0))
        group = at.get(key, [])
        if not group or len(group) == _TOGETHER:
            group = []
            groups.append(group)
            if key:
                at[key] = group
        group.append(cell)
    return groups


def _run_group(cells: Sequence[Cell]) -> dict[str, Exception]:
    """Runs cells that train as one; returns what went wrong, by the cell's name."""
    failed: dict[str, Exception] = {}
    ready = []
    for cell in cells:
        with _keeping(failed, cell):
            needs.check(cell.folder, cell.config)
            split = build.read_split(cell.config)
            print(build.summary(cell.config, split), flush=True)
            cells_of.prepare(cell, split)
            cells_of.warn_of_code(cell)
            ready.append((cell, split))
    for (cell, split), trained in zip(ready, train_cells(ready), strict=True):
        with _keeping(failed, cell):
            if isinstance(trained, CaeError):
                raise trained
            judging = load_trained(cell) if cell.config.checkpoint == "best" else trained
            write_evaluation(cell, split, judging)
            if multihost.is_first():  # which writes what is written once
                cells_of.write_results(cell.config.folder, cell.config.excel)
    return failed


def _check_finished(cell: Cell) -> None:
    """Says that there is nothing to do; raises DataError for other images than the run is of."""
    provenance.check_images(cell.folder, cell.config)
    say(f"{cell.folder}: finished before")
    cells_of.warn_of_code(cell)


@contextlib.contextmanager
def _keeping(failed: dict[str, Exception], cell: Cell) -> Iterator[None]:
    """Notes an exception as the cell's, whatever it is: the other cells can still be had."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:
        failed[cell.name] = error


@compilation.in_32_bits()
def evaluate_again(
    workdir: Path, data_dir: str = "", changes: Mapping[str, Any] = MappingProxyType({})
) -> pd.DataFrame:
    """Makes scores and all that follows again from the checkpoints in a workdir; a run that fails
    does not stop the others.

    Args:
      workdir: what `run` wrote.
      data_dir: where the images are now; empty for where they were.
      changes: flags of scoring by name, where they shall differ from the run's; they become the
        run's.

    Raises:
      UsageError: no run there, or a change that cannot work.
      DataError: a checkpoint or an image that cannot be read.
    """
    if changes.keys() & {"false_alarms"} and "threshold" not in changes:
        changes = {**changes, "threshold": ""}  # which would count before the rate
    found = cells_of.find(workdir)
    cells = [cell._replace(config=cell.config.changed(**changes).resolved()) for cell in found]
    with contextlib.ExitStack() as stack:
        for cell in cells:
            stack.enter_context(lock.hold(cell.folder))
        compilation.use_cache()
        failed: dict[str, Exception] = {}
        for cell in cells:
            try:
                _evaluate_again(cell, data_dir)
            except Exception as error:  # the others can still be had
                failed[cell.name] = error
    table = cells_of.write_results(cells[0].config.folder, cells[0].config.excel)
    Outcome(cells, failed, table).raise_first()
    return table


def _evaluate_again(cell: Cell, data_dir: str) -> None:
    trained = load_trained(cell)
    cells_of.warn_of_code(cell)
    split = build.read_split(cell.config.changed(data_dir=data_dir) if data_dir else cell.config)
    if not cell.is_of(split):
        say(f"{cell.folder}: warning: these are not the images of the training run")
    (cell.folder / FINISHED).unlink(missing_ok=True)  # not finished with these flags
    files.write_whole(cell.folder / FLAGS, cell.config.to_flagfile())
    write_evaluation(cell, split, trained)
