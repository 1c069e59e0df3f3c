"""What a run would do, told before it does it: nothing is decoded or written."""

from __future__ import annotations

import collections
import math
import shutil
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cae_jax import data, files
from cae_jax.data import listing
from cae_jax.runs import build, duration
from cae_jax.runs import cell as cells_of
from cae_jax.runs.cell import Cell
from cae_jax.runs.config import Config
from cae_jax.runs.machine import lock
from cae_jax.runs.train import whole
from cae_jax.scoring import patches
from cae_jax.scoring.options import Windows
from cae_jax.training import checkpoints
from cae_jax.training.schedule import Training
from cae_jax.types import DataError, State, Steps, height_width

# Fitted to the peaks of six runs on a CPU, which they meet within a fifth.
_PACKAGES = 350_000_000  # bytes that Python and packages take, where the system cannot be asked
_COMPILER = 500e6  # bytes that XLA and the plots take beside what they work on
_ACTIVATIONS = 1.2  # of a whole batch, which validation takes at once
_STATES = 4  # before a step, after it, its gradients, a copy while that is saved


class Sizes(NamedTuple):
    """What one cell takes, in bytes where nothing else is said."""

    parameters: int  # how many
    state: int  # a checkpoint: parameters, what the optimiser keeps of each, a key and a counter
    images: int  # in memory, with their masks
    training: int  # beside the images, at its peak
    scoring: int  # likewise
    copies: int  # of training: the images to learn from again


def forecast(cells: Sequence[Cell], time_steps: int = 0) -> str:
    """Returns what running the cells would do and need, as text; writes nothing.

    Args:
      cells: as `job.plan` gives them; at least one.
      time_steps: to take now, see `duration.words`; none where memory would not do.

    Raises what running them would raise before it reads an image: UsageError for a folder of
    another run or in another process's hands; DataError where no cell has enough images, while
    a run goes on past one that has not.
    """
    lines, whole, learned = ["Dry run, nothing is written."], [], []
    failed: list[DataError] = []
    for cell in cells:
        cells_of.check_same(cell)
        if cell.left_to_do:
            lock.check(cell.folder)
        try:
            counts = _counts(cell.config)
        except DataError as error:
            failed.append(error)
            lines.append(f"{cell.folder}: cannot be done: {error}")
            continue
        lines.append(
            f"{cell.folder}: {_standing(cell)}; {counts.n_train} images to train on, "
            f"{counts.n_test} to judge" + _left_out(counts.n_left_out)
        )
        whole.append((cell, sizes(cell.config, counts)))
        learned.append(counts.n_train)
    if failed and not whole:
        raise failed[0]
    for cell, size in {cell.config.label: (cell, size) for cell, size in whole}.values():
        lines.append(_method(cell.config, size))
    needs = _needs(whole)  # before steps are taken, which need memory of their own
    lines += [*_duration(whole, learned, time_steps), *needs]
    if failed:
        lines.append(f"warning: {len(failed)} of {len(cells)} cannot be done; the others are")
    return "\n".join(lines)


def _duration(
    whole: Sequence[tuple[Cell, Sizes]], learned: Sequence[int], time_steps: int
) -> list[str]:
    """How long training will take, of the cells that are not done."""
    todo = [(cell, size, n) for (cell, size), n in zip(whole, learned, strict=True)]
    todo = [each for each in todo if each[0].left_to_do]
    most = max((size.training for _, size, _ in todo), default=0) + _COMPILER
    fits = time_steps and most < files.free_memory()
    cells, numbers = [cell for cell, _, _ in todo], [n for _, _, n in todo]
    return duration.words(cells, numbers, time_steps if fits else 0)


def _counts(c: Config) -> listing.Counts:
    """Of a cell's category, or of all of a joint one."""
    each = []
    for name in c.parts:
        found = listing.count(c.dataset, c.data_dir, name, c.names)
        taken = data.n_taken(name, found.n_train, c.train_images)
        data.check_enough(name, taken, c.validation_fraction)
        each.append(found._replace(n_train=taken))
    held = sum(data.n_held_out(found.n_train, c.validation_fraction) for found in each)
    build.check_threshold(c, held + sum(found.n_test for found in each))
    return listing.Counts(*(sum(numbers) for numbers in zip(*each, strict=True)))


def sizes(config: Config, counts: listing.Counts) -> Sizes:
    """Returns what a cell takes; memory is estimated for a CPU."""
    c, method = config, config.build()
    pixels, n = c.n_pixels, counts.n_train + counts.n_test
    held = data.n_held_out(counts.n_train, c.validation_fraction)
    state, variables = build.shapes(c, counts.n_train - held)
    if isinstance(method.learn, Steps) and state:
        training = _steps(c, method.learn, state)
    else:
        training = _STATES * _bytes(variables)
    copies = 4 * pixels * c.channels * counts.n_train  # once more, on the device
    if c.folds:  # a fold's images, and its model beside the run's
        copies, training = 2 * copies, training + _bytes(variables)
    judged = counts.n_test + held
    maps = 4 * pixels * (len(method.distances) + c.channels) * judged
    image = jax.ShapeDtypeStruct((1, *height_width(c.image_size), c.channels), np.float32)
    if isinstance(w := c.options, Windows):
        windows = patches.number(c.inspected_size, w.stride)
        one = 4 * windows * 4 * w.patch_size**2 * c.channels
    else:
        one = 4 * _elements(jax.make_jaxpr(method.inspect)(whole(method, variables), image).jaxpr)
    images = 4 * pixels * c.channels * n + pixels * counts.n_test
    parameters = variables.get("params", variables)
    count = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters))
    return Sizes(
        count, _bytes(state or variables), images, round(training) + copies, 2 * maps + one, copies
    )


def _steps(c: Config, learn: Steps, state: State) -> float:
    """Bytes of a training step, at its peak."""
    t, p = c.options, learn.patch_size
    patch = jax.ShapeDtypeStruct((1, p, p, c.channels), np.float32)
    made = jax.make_jaxpr(learn.validate)(state.variables, patch)
    activations = 4 * _elements(made.jaxpr)
    batch = 4 * t.batch_size * p**2 * c.channels
    return batch + _ACTIVATIONS * activations * t.batch_size + _STATES * _bytes(state)


def _bytes(tree: Any) -> int:
    return sum(math.prod(x.shape) * _width(x) for x in jax.tree.leaves(tree))


def _standing(cell: Cell) -> str:
    """Where a cell stands."""
    if not cell.left_to_do:
        return "finished"
    if cell.config.overwrite and cell.folder.exists():
        return "new, in place of what is there"
    at = checkpoints.last(cell.folder / "checkpoints")
    if at is None:
        return "new"
    epoch, steps = at
    return f"goes on after epoch {epoch}" + (f" and {steps} steps more" if steps else "")


def _left_out(n: int) -> str:
    return f", {n} files not used or without a mask" if n else ""


def _method(c: Config, size: Sizes) -> str:
    line = f"{c.label}: {size.parameters:,} parameters"
    if isinstance(t := c.options, Training):
        line += f", {t.epochs} epochs of {t.steps_per_epoch} steps of {t.batch_size} patches"
    if isinstance(c.options, Windows):
        n = c.n_tiles * patches.number(c.inspected_size, c.options.stride)
        line += f"; an image is judged by {n} patches"
    if c.folds:
        line += f"; fitted once more for each of {c.folds} folds"
    return line


def _needs(whole: Sequence[tuple[Cell, Sizes]]) -> list[str]:
    """The last lines: how many cells, how much disk, how much memory."""
    count = collections.Counter(_standing(cell).split()[0].strip(",") for cell, _ in whole)
    todo = [(cell, size) for cell, size in whole if cell.left_to_do]
    lines = [
        f"cells: {count['new']} new, {count['goes']} go on, {count['finished']} finished",
    ]
    if not todo:
        return lines
    disk = sum(_disk(cell.config, size) for cell, size in todo)
    folder = next(
        p for p in (todo[0][0].folder, *todo[0][0].folder.absolute().parents) if p.exists()
    )
    free = shutil.disk_usage(folder).free
    memory, images = peak_bytes() + _COMPILER, max(size.images for _, size in todo)
    aside, room = files.in_a_file(images), shutil.disk_usage(files.folder_of_arrays()).free
    memory += max(
        max(size.training - size.copies, size.scoring)
        if aside
        else size.images + max(size.training, size.scoring)
        for _, size in todo
    )
    lines += [
        f"disk: at most {_amount(disk)} of checkpoints, and a few MB a cell of tables and plots; "
        f"{_amount(free)} free",
        f"memory: about {_amount(memory)}, for one cell at a time on a CPU; "
        f"{_amount(files.free_memory())} free",
    ]
    if aside:
        lines.insert(
            -1,
            f"images: {_amount(images)} in a file in {files.folder_of_arrays()}, which memory does "
            f"not hold; {_amount(room)} free there",
        )
    if free < disk or (aside and room < images):
        lines.append("warning: that is more disk than there is room for")
    if files.free_memory() < memory:
        lines.append("warning: that is more memory than there is; --image_size sets how much")
    return lines


def _disk(c: Config, size: Sizes) -> int:
    """Bytes of a cell's checkpoints: the last ones, the best, and the one being written."""
    if not isinstance(t := c.options, Training):
        return size.state
    return size.state * min(t.keep + 2, -(-t.epochs // t.checkpoint_every) + 1)


def _elements(jaxpr: Any) -> int:
    """Elements of all that a program makes of its inputs, but for what XLA fuses away."""
    total = 0
    for eqn in jaxpr.eqns:
        inner = [getattr(value, "jaxpr", None) for value in eqn.params.values()]
        inner = [getattr(each, "jaxpr", each) for each in inner if each is not None]
        if inner:
            total += sum(map(_elements, inner))
        elif eqn.primitive.name in ("conv_general_dilated", "dot_general", "reduce_window_max"):
            total += sum(math.prod(out.aval.shape) for out in eqn.outvars)
    return total


def _width(leaf: jax.ShapeDtypeStruct) -> int:
    """Bytes of an element; a key is two or four words."""
    if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return 16
    return leaf.dtype.itemsize


def peak_bytes() -> int:
    """Returns the most bytes that this process has held so far: at first Python and packages.

    Windows has no such question in Python: the answer there is what these are elsewhere.
    """
    try:
        import resource
    except ImportError:
        return _PACKAGES
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, on a Mac in bytes
    return peak * (1 if sys.platform == "darwin" else 1024)


def _amount(n: float) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if n >= size:
            return f"{n / size:.3g} {unit}"
    return f"{n / 1e3:.3g} kB"
