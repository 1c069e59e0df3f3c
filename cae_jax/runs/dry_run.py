"""What a run would do, told before it does it: nothing is decoded or written."""

from __future__ import annotations

import collections
import shutil
from collections.abc import Sequence

from cae_jax import files
from cae_jax.runs import cell as cells_of
from cae_jax.runs import duration, needs
from cae_jax.runs.cell import Cell
from cae_jax.runs.config import Config
from cae_jax.runs.machine import lock
from cae_jax.runs.needs import COMPILER, Sizes, amount, disk, peak_bytes
from cae_jax.scoring import patches
from cae_jax.scoring.options import Windows
from cae_jax.training import checkpoints
from cae_jax.training.schedule import Training
from cae_jax.types import DataError


def forecast(cells: Sequence[Cell], time_steps: int = 0) -> str:
    """Returns what running the cells would do and need, as text; writes nothing.

    Args:
      cells: as `job.plan` gives them; at least one.
      time_steps: to take now, see `duration.words`; none where memory would not do.

    Raises what running them would raise before it reads an image: UsageError for a folder of
    another run or in another process's hands; DataError where no cell has enough images, or fits
    into memory and disk, while a run goes on past one of which that is so.
    """
    lines, whole, learned = ["Dry run, nothing is written."], [], []
    failed: list[DataError] = []
    for cell in cells:
        cells_of.check_same(cell)
        if cell.left_to_do:
            lock.check(cell.folder)
        try:
            found = needs.counts(cell.config)
            size = needs.sizes(cell.config, found)
            if cell.left_to_do:
                needs.check(cell.folder, cell.config, size)
        except DataError as error:
            failed.append(error)
            lines.append(f"{cell.folder}: cannot be done: {error}")
            continue
        lines.append(
            f"{cell.folder}: {_standing(cell)}; {found.n_train} images to train on, "
            f"{found.n_test} to judge" + _left_out(found.n_left_out)
        )
        whole.append((cell, size))
        learned.append(found.n_train)
    if failed and not whole:
        raise failed[0]
    for cell, size in {cell.config.label: (cell, size) for cell, size in whole}.values():
        lines.append(_method(cell.config, size))
    said = _needs(whole)  # before steps are taken, which need memory of their own
    lines += [*_duration(whole, learned, time_steps), *said]
    if failed:
        lines.append(f"warning: {len(failed)} of {len(cells)} cannot be done; the others are")
    return "\n".join(lines)


def _duration(
    whole: Sequence[tuple[Cell, Sizes]], learned: Sequence[int], time_steps: int
) -> list[str]:
    """How long training will take, of the cells that are not done."""
    todo = [(cell, size, n) for (cell, size), n in zip(whole, learned, strict=True)]
    todo = [each for each in todo if each[0].left_to_do]
    most = max((size.training for _, size, _ in todo), default=0) + COMPILER
    fits = time_steps and most < files.free_memory()
    cells, numbers = [cell for cell, _, _ in todo], [n for _, _, n in todo]
    return duration.words(cells, numbers, time_steps if fits else 0)


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
    most = sum(disk(cell.config, size) for cell, size in todo)
    free = shutil.disk_usage(needs.there(todo[0][0].folder)).free
    memory, images = peak_bytes() + COMPILER, max(size.images for _, size in todo)
    held = todo[0][0].config.images_in
    aside, room = files.in_a_file(images, held), shutil.disk_usage(files.folder_of_arrays()).free
    memory += max(
        max(size.training - size.copies * files.in_a_file(size.copies), size.scoring)
        + (0 if aside else size.images)
        for _, size in todo
    )
    lines += [
        f"disk: at most {amount(most)} of checkpoints, and a few MB a cell of tables and plots; "
        f"{amount(free)} free",
        f"memory: about {amount(memory)}, for one cell at a time on a CPU; "
        f"{amount(files.free_memory())} free",
    ]
    if aside:
        lines.insert(
            -1,
            f"images: {amount(images)} in a file in {files.folder_of_arrays()}"
            f"{', which memory does not hold' if held == files.AUTO else ''}; {amount(room)} free "
            "there; those not resized take a quarter or half",
        )
    if free < most or (aside and room < images):
        lines.append("warning: that is more disk than there is room for")
    if files.free_memory() < memory:
        lines.append("warning: that is more memory than there is; --image_size sets how much")
    return lines
