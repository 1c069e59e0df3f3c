"""Training that goes on: cells are trained from their last checkpoints to their end."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cae_jax.reports.run_files import FINISHED
from cae_jax.runs import epoch_log
from cae_jax.runs.cell import Cell
from cae_jax.runs.config import identity
from cae_jax.runs.machine import foretold, interrupt
from cae_jax.runs.machine.progress import Bar, say, waiting
from cae_jax.scoring.intensity import all_even
from cae_jax.training import fit, loop
from cae_jax.training.checkpoints import FROZEN, KEEP, Checkpoints
from cae_jax.training.members import default_plan
from cae_jax.training.schedule import Training
from cae_jax.types import (
    CaeError,
    DataError,
    Fit,
    Images,
    Method,
    Split,
    State,
    Steps,
    Variables,
)

_BESIDE = 2**18  # bytes of a checkpoint beside its arrays
_SHOWN = 3  # metrics beside the bar


class Trained(NamedTuple):
    """What training leaves: what `inspect` is given, and how it went."""

    variables: Variables
    history: list[dict[str, float]]  # see `loop.Progress`; empty after a fit
    seconds: float
    # of the images learned from, float32 [n, ...], see `types.Seen`; where they were computed now
    features: np.ndarray | None = None


def load_trained(cell: Cell) -> Trained:
    """Returns what the checkpoint of a cell's --checkpoint holds, and how all its training went.

    Raises DataError for a run not trained out, and for a checkpoint of another run.
    """
    method = cell.config.build()
    learn, epochs, expected = method.learn, 1, None
    if isinstance(learn, Steps):
        epochs = cell.config.options.epochs
        expected = jax.eval_shape(learn.init, jax.random.key(0)).variables
    with _open(cell, method) as checkpoints:
        found = checkpoints.restore_variables(expected)
        held = found.held if found else {}
        if cell.config.checkpoint == "best" and (
            best := checkpoints.restore_variables(expected, True)
        ):
            held = best.held
    if not found or (found.epoch < epochs and not _early(cell, learn, found.notes)):
        at = f"its last whole checkpoint is of epoch {found.epoch}" if found else "no checkpoint"
        at += "".join(f" ({fault})" for fault in checkpoints.faults)
        again = "run the same command again"
        if cell.finished:
            again = f"remove {cell.folder / FINISHED} and {again}"
        raise DataError(f"{cell.folder}: not trained to the end, {at}; {again}")
    return _trained(method, held, found.notes["history"], found.notes["seconds"])


def train_cells(pairs: Sequence[tuple[Cell, Split]]) -> list[Trained | CaeError]:
    """Trains cells begun, of one method, from their last checkpoints on; those that learn by steps
    and are at the same one train together.

    Returns what each of them ended with, or why it did not. Ctrl-C and SIGTERM take effect after
    the current step (epoch, where the plan scans; after a fit) and a checkpoint of every cell
    begun.
    """
    if not pairs:
        return []
    method = pairs[0][0].config.build()
    with interrupt.held_back() as stop, contextlib.ExitStack() as stack:
        opened = [stack.enter_context(_open(cell, method)) for cell, _ in pairs]
        ends: list[Trained | CaeError] = []
        if isinstance(method.learn, Steps):
            ends = _train(method, pairs, opened, stop)
        else:
            for (cell, split), checkpoints in zip(pairs, opened, strict=True):
                ends.append(CaeError("not trained") if stop() else _fit(cell, split, checkpoints))
    return [
        CaeError(f"{cell.title}: {end}") if type(end) is CaeError else end
        for (cell, _), end in zip(pairs, ends, strict=True)
    ]


def _fit(cell: Cell, split: Split, checkpoints: Checkpoints) -> Trained | CaeError:
    """A cell whose method learns in one pass: from its checkpoint, or fitted and saved."""
    method = cell.config.build()
    assert isinstance(method.learn, Fit)
    try:
        if found := checkpoints.restore_variables():
            return _trained(method, found.held, [], found.notes["seconds"])
        began = time.perf_counter()
        images = _even(cell, split, split.train, split.train_paths)
        learn, examples = fit.examples(method, images)
        with waiting(f"fit {cell.config.category}: compiling and one pass over all images"):
            variables = jax.block_until_ready(fit.of(learn, examples, cell.config.seed))
        seconds = time.perf_counter() - began
        _check_space(cell, variables)
        checkpoints.save(1, variables, {"history": [], "seconds": seconds})
    except CaeError as error:
        return error
    seen = None if examples is images else np.asarray(examples)
    return _trained(method, variables, [], seconds)._replace(features=seen)


def _even(cell: Cell, split: Split, images: Images, paths: Sequence[str]) -> Images:
    """Images of a split made even, as --intensity says, by what of them counts."""
    return all_even(images, cell.config.intensity, split.seen(images, paths))


def _train(
    method: Method,
    pairs: Sequence[tuple[Cell, Split]],
    opened: Sequence[Checkpoints],
    stop: Callable[[], bool],
) -> list[Trained | CaeError]:
    """Cells whose method learns by steps."""
    assert isinstance(method.learn, Steps)
    ends: list[Trained | CaeError] = [CaeError("not trained")] * len(pairs)
    members: dict[int, loop.Member] = {}
    for i, (cell, split) in enumerate(pairs):
        try:
            start = _start(cell, method.learn, opened[i])
        except DataError as error:
            ends[i] = error
            continue
        if _early(cell, method.learn, {"history": start.history}):
            ends[i] = _trained(method, start.state.variables, start.history, start.seconds)
            continue
        schedule = cell.config.options.course(method.learn.patch_size, cell.config.seed)
        good = _even(cell, split, split.train, split.train_paths)
        held_out = _even(cell, split, split.validation, split.validation_paths)
        members[i] = loop.Member(good, held_out, schedule, start)
    at = {i: (member.start.epoch, member.start.steps) for i, member in members.items()}
    for place in sorted(set(at.values())):
        which = [i for i in at if at[i] == place]
        cells, chosen = [pairs[i][0] for i in which], [members[i] for i in which]
        found = _train_saving(cells, chosen, [opened[i] for i in which], method.learn, stop)
        for i, end in zip(which, found, strict=True):
            if isinstance(end, loop.Progress):
                ends[i] = _trained(method, end.state.variables, end.history, end.seconds)
            else:
                ends[i] = end
    return ends


def _train_saving(
    cells: Sequence[Cell],
    members: Sequence[loop.Member],
    checkpoints: Sequence[Checkpoints],
    learn: Steps,
    stop: Callable[[], bool],
) -> list[loop.Progress | CaeError]:
    """`loop.train_members` under a bar, with checkpoints of every member."""
    c, n = cells[0].config, len(members)
    t: Training = c.options
    steps, start = members[0].schedule.steps_per_epoch, members[0].start
    done = steps * start.epoch + start.steps

    def save(i: int, at: loop.Progress) -> None:
        _check_space(cells[i], at.state)
        notes = {"history": at.history, "seconds": at.seconds, "partial": at.partial}
        mark = loop.mark(at.history[-1], learn.best_by) if at.history else math.nan
        checkpoints[i].save(at.epoch, at.state, notes, at.steps, mark)

    def on_epoch(i: int, at: loop.Progress) -> None:
        tell[i](at)
        early = loop.ended_early(at.history, learn.best_by, t.early_stopping)
        if early:
            since = f"for {t.early_stopping} epochs the {learn.best_by} was no lower"
            say(f"{cells[i].folder}: stopped early, after epoch {at.epoch} of {t.epochs}: {since}")
        if early or at.epoch % t.checkpoint_every == 0 or at.epoch == t.epochs:
            save(i, at)

    plan = default_plan(t.members, n, t.batch_size)
    used, there = plan.mesh.size if plan.mesh else 1, jax.local_device_count()
    if used < there:
        say(f"trains on {used} of {there} devices: --batch_size={t.batch_size} divides no further")
    name = f"train {c.category if n == 1 else f'{n} members'}"
    each = t.batch_size * n
    with contextlib.ExitStack() as stack:
        tell = [stack.enter_context(epoch_log.told(cell, start.epoch)) for cell in cells]
        total, first = steps * t.epochs * each, foretold.STEP
        bar = stack.enter_context(Bar(name, total, "patches", done * each, first))

        def on_step(step: int, metrics: Mapping[str, float]) -> None:
            nonlocal done
            shown = [f"{k.replace('_', ' ')} {v:.5f}" for k, v in [*metrics.items()][:_SHOWN]]
            epoch = f"epoch {-(-step // steps)}/{t.epochs}"
            bar.update((step - done) * each, ", ".join([epoch, *shown]))
            done = step

        return loop.train_members(learn, members, plan, on_step, on_epoch, stop, save)


def _start(cell: Cell, learn: Steps, checkpoints: Checkpoints) -> loop.Progress:
    """Where a cell's training goes on, or a fresh start."""
    what = f"train {cell.config.category}: {foretold.INITIAL}"
    with waiting(what, program=foretold.INITIAL):
        state = loop.fresh_state(learn, cell.config.seed)
    found = checkpoints.restore(state)
    if not found:
        return loop.Progress(0, state, [], 0.0)
    notes = found.notes
    start = loop.Progress(
        *(found.epoch, found.held, notes["history"], notes["seconds"], notes["partial"])
    )
    beyond = f" and {start.steps} steps" if start.steps else ""
    say(f"{cell.folder}: goes on after epoch {start.epoch}{beyond} of {cell.config.options.epochs}")
    return start


def whole(method: Method, variables: Variables) -> Variables:
    """Returns what a method's `inspect` is given: what was learned, and its pretrained weights."""
    return {**variables, FROZEN: dict(method.frozen)} if method.frozen else variables


def _trained(
    method: Method, variables: Variables, history: list[dict[str, float]], seconds: float
) -> Trained:
    # once, not at every scoring call
    return Trained(jax.device_put(whole(method, variables)), history, seconds)


def _open(cell: Cell, method: Method) -> Checkpoints:
    """The checkpoints of a cell."""
    c = cell.config
    # a longer run goes through the same checkpoints, see `longer`
    of_training = {f"--{k}": v for k, v in identity(c).items() if k != "epochs"}
    if method.frozen:
        of_training["frozen"] = _sha256(method.frozen)
    if cell.begun:
        of_training["data_fingerprint"] = cell.fingerprint
    keep = getattr(c.options, "keep", KEEP)
    return Checkpoints(cell.folder / "checkpoints", keep, of_training)


def _sha256(tree: Any) -> str:
    """Of the arrays in a tree and where they stand."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(dict(tree))[0]:
        digest.update(f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}".encode())
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def _early(cell: Cell, learn: Steps | Fit, notes: Mapping[str, Any]) -> bool:
    """Whether a checkpoint's history ends a run before its last epoch."""
    patience = getattr(cell.config.options, "early_stopping", 0)
    return isinstance(learn, Steps) and loop.ended_early(notes["history"], learn.best_by, patience)


def _check_space(cell: Cell, tree: State | Variables) -> None:
    """Raises OSError where no checkpoint fits: orbax would fail in its threads, at length."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(tree)) + _BESIDE
    if shutil.disk_usage(cell.folder).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(cell.folder))
