"""Training that goes on: cells are trained from their last checkpoints to their last epoch."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import json
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import jax

from cae_jax.runs.config import SCORING, Config
from cae_jax.runs.evaluate import Trained
from cae_jax.runs.machine import interrupt
from cae_jax.runs.machine.progress import Progress, say
from cae_jax.training import loop
from cae_jax.training.checkpoints import Checkpoints
from cae_jax.training.members import default_plan
from cae_jax.types import CaeError, DataError, Method, Split, State

# What may differ between two starts of the same run.
NOT_IDENTITY = (
    *("workdir", "overwrite", "category", "save_maps", "members", "checkpoint_every", "keep"),
)
# What may differ from a checkpoint: also what scoring alone looks at, and where the images lie.
_NOT_OF_TRAINING = {*NOT_IDENTITY, *SCORING, "data_dir"} - {"category"}

_BESIDE = 2**18  # bytes of a checkpoint beside its arrays


class Cell(NamedTuple):
    """One category, model and seed of a workdir."""

    folder: Path
    config: Config  # its category is the cell's one

    @property
    def finished(self) -> bool:
        """Whether all its files are written."""
        return (self.folder / "metrics.json").exists()

    @property
    def begun(self) -> bool:
        """Whether it is known what images it is of."""
        return (self.folder / "versions.json").exists()

    @property
    def fingerprint(self) -> str:
        """Of the images that it was begun with; raises FileNotFoundError before that."""
        return json.loads((self.folder / "versions.json").read_text())["data_fingerprint"]


def load_trained(cell: Cell, method: Method, best: bool = False) -> Trained:
    """Returns what a cell's last checkpoint holds, or the one of the lowest loss.

    Raises DataError for a run not trained out, and for a checkpoint of another run.
    """
    with _open(cell) as checkpoints:
        found = checkpoints.restore(loop.fresh_state(method, cell.config.seed), best)
    if not found or (found[0] < cell.config.epochs and not best):
        at = f"its last whole checkpoint is of epoch {found[0]}" if found else "no checkpoint"
        at += "".join(f" ({fault})" for fault in checkpoints.faults)
        again = "run experiments.run again"
        if cell.finished:
            again = f"remove {cell.folder / 'metrics.json'} and {again}"
        raise DataError(f"{cell.folder}: not trained to the end, {at}; {again}")
    _, state, notes = found
    return Trained(state.variables, notes["history"], notes["seconds"])


def train_cells(
    pairs: Sequence[tuple[Cell, Split]], method: Method, bars: Callable[..., Progress]
) -> list[Trained | CaeError]:
    """Trains cells begun from their last checkpoints on; those at the same step train together.

    Returns what each of them ended with, or why it did not. Ctrl-C and SIGTERM take effect after
    the current step (epoch, where the plan scans) and a checkpoint of every cell begun.
    """
    ends: list[Trained | CaeError] = [CaeError("not trained")] * len(pairs)
    with interrupt.held_back() as stop, contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_open(cell)) for cell, _ in pairs]
        members: dict[int, loop.Member] = {}
        for i, (cell, split) in enumerate(pairs):
            try:
                start = _start(cell, method, opened[i])
            except DataError as error:
                ends[i] = error
                continue
            schedule = _schedule(cell.config)
            members[i] = loop.Member(split.train, split.validation, schedule, start)
        at = {i: (member.start.epoch, member.start.steps) for i, member in members.items()}
        for start in sorted(set(at.values())):
            which = [i for i in at if at[i] == start]
            cells, chosen = [pairs[i][0] for i in which], [members[i] for i in which]
            found = _fit(cells, chosen, [opened[i] for i in which], method, bars, stop)
            for i, end in zip(which, found, strict=True):
                ends[i] = _named(end, pairs[i][0].config)
    return ends


def _named(end: loop.Progress | CaeError, c: Config) -> Trained | CaeError:
    if isinstance(end, CaeError):
        return CaeError(f"{c.category}, {c.model}, seed {c.seed}: {end}")
    return Trained(end.state.variables, end.history, end.seconds)


def _open(cell: Cell) -> Checkpoints:
    """The checkpoints of a cell."""
    flags = dataclasses.asdict(cell.config)
    identity = {f"--{name}": flags[name] for name in flags if name not in _NOT_OF_TRAINING}
    if cell.begun:
        identity["data_fingerprint"] = cell.fingerprint
    return Checkpoints(cell.folder / "checkpoints", cell.config.keep, identity)


def _fit(
    cells: Sequence[Cell],
    members: Sequence[loop.Member],
    checkpoints: Sequence[Checkpoints],
    method: Method,
    bars: Callable[..., Progress],
    stop: Callable[[], bool],
) -> list[loop.Progress | CaeError]:
    """`train.fit_members` under a bar, with checkpoints of every member."""
    c, n = cells[0].config, len(members)
    steps, start = members[0].schedule.steps_per_epoch, members[0].start
    done = steps * start.epoch + start.steps

    def save(i: int, at: loop.Progress) -> None:
        _check_space(cells[i].folder, at.state)
        notes = {"history": at.history, "seconds": at.seconds, "partial": at.partial}
        checkpoints[i].save(at.epoch, at.state, notes, at.steps, _loss(at.history))

    def on_epoch(i: int, at: loop.Progress) -> None:
        if at.epoch % c.checkpoint_every == 0 or at.epoch == c.epochs:
            save(i, at)

    name = f"train {c.category if n == 1 else f'{n} members'}"
    each = c.batch_size * n
    with bars(name, steps * c.epochs * each, "patches", done * each) as bar:

        def on_step(step: int, loss: float) -> None:
            nonlocal done
            epoch = -(-step // steps)
            bar.update((step - done) * each, f"epoch {epoch}/{c.epochs}, loss {loss:.5f}")
            done = step

        plan = default_plan(c.members, n, c.batch_size)
        return loop.fit_members(method, members, plan, on_step, on_epoch, stop, save)


def _loss(history: list[dict[str, float]]) -> float:
    """The last validation loss; the training loss where no image is held out."""
    if not history:
        return math.nan
    loss = history[-1]["validation_loss"]
    return history[-1]["loss"] if math.isnan(loss) else loss


def _schedule(c: Config) -> loop.Schedule:
    return loop.Schedule(
        *(c.epochs, c.batch_size, c.num_patches, c.patch_size, c.seed, c.redraw_patches),
        c.augment,
    )


def _start(cell: Cell, method: Method, checkpoints: Checkpoints) -> loop.Progress:
    """Where a cell's training goes on, or a fresh start."""
    state = loop.fresh_state(method, cell.config.seed)
    found = checkpoints.restore(state)
    if not found:
        return loop.Progress(0, state, [], 0.0)
    epoch, state, notes = found
    start = loop.Progress(epoch, state, notes["history"], notes["seconds"], notes["partial"])
    beyond = f" and {start.steps} steps" if start.steps else ""
    say(f"{cell.folder}: goes on after epoch {epoch}{beyond} of {cell.config.epochs}")
    return start


def _check_space(folder: Path, state: State) -> None:
    """Raises OSError where no checkpoint fits: orbax would fail in its threads, at length."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _BESIDE
    if shutil.disk_usage(folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder))
