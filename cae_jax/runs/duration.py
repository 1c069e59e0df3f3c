"""How long training will take, told before it: by a run like it that has finished, or by steps
taken now. Where there is neither, nothing is told."""

from __future__ import annotations

import datetime
import json
import statistics
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cae_jax.reports.run_files import FINISHED, FLAGS, cells_with
from cae_jax.runs.cell import Cell
from cae_jax.runs.config import Config, identity, read_flags
from cae_jax.scoring import scorer
from cae_jax.training import checkpoints, crops, loop, members
from cae_jax.training.schedule import KINDS, Training
from cae_jax.types import Steps, height_width

_OF_A_CELL = {"category", "seed", "joint", "epochs", "early_stopping", "augment"}
_LONG = 20.0  # seconds after which no more steps are taken


class Measured(NamedTuple):
    """What is known of a kind of cells, which differ in category and seed alone."""

    seconds: float  # a step; of a method that learns in one pass, an image
    how: str  # it is known
    once: float = 0.0  # seconds of compiling at the first start


def words(cells: Sequence[Cell], n_images: Sequence[int], steps: int) -> list[str]:
    """Returns a line for each kind of cells not finished yet, and one of all.

    Args:
      cells: that are to be done.
      n_images: how many images each learns from.
      steps: to take now of what learns by steps, where no run like it has finished in the workdir;
        0 for none. Nothing is written; what is compiled for it is not kept.
    """
    known: dict[Any, Measured | None] = {}
    total, lines, unknown = 0.0, [], 0
    for cell, n in zip(cells, n_images, strict=True):
        key = tuple(sorted((k, str(v)) for k, v in _kind(cell.config).items()))
        if key not in known:
            known[key] = _finished_like(cell) or _taken(cell.config, steps)
            lines += _line(cell.config, known[key])
        if found := known[key]:
            total += found.seconds * _left(cell, n)
        else:
            unknown += 1
    if total:
        but = f", without {unknown} cells of which nothing is known" if unknown else ""
        once = sum(found.once for found in known.values() if found)
        first = f", and {_clock(once)} of compiling at the first start" if once else ""
        lines.append(f"time: about {_clock(total)} of training, one cell at a time{first}{but}")
    elif cells:
        lines.append(
            "time: not known before one like these has finished in this workdir on this machine"
        )
    return lines


def _line(config: Config, found: Measured | None) -> list[str]:
    if found is None:
        return []
    unit = "step" if isinstance(config.options, Training) else "image"
    return [f"{config.label}: {found.seconds:.3g} s a {unit}, {found.how}"]


def _kind(config: Config) -> dict[str, Any]:
    return {k: v for k, v in identity(config).items() if k not in _OF_A_CELL}


def _left(cell: Cell, n_images: int) -> int:
    """Steps that are still to be taken; of a method that learns in one pass, images."""
    t = cell.config.options
    if not isinstance(t, Training):
        return n_images
    at = None if cell.config.overwrite else checkpoints.last(cell.folder / "checkpoints")
    epochs, more = at or (0, 0)
    return max(0, t.steps - epochs * t.steps_per_epoch - more)


def _finished_like(cell: Cell) -> Measured | None:
    """By what metrics.json says of the last run of this kind that finished on such a device."""
    folder, wanted = cell.config.folder, _kind(cell.config)
    for place in reversed(cells_with(folder, FINISHED)):
        if not (place / FLAGS).exists():
            continue
        metrics = json.loads((place / FINISHED).read_text(encoding="utf-8"))
        if metrics.get("device") != scorer.device() or not metrics.get("train_seconds"):
            continue
        other = read_flags(place / FLAGS)
        if _kind(other) != wanted:
            continue
        if isinstance(t := other.options, Training):
            rows = (place / "history.csv").read_text(encoding="utf-8").count("\n") - 1
            n = rows * t.steps_per_epoch
        else:
            n = metrics["n_train"]
        seconds = metrics["train_seconds"] + (metrics.get("cross_fit_seconds") or 0.0)
        name = place.relative_to(folder).as_posix()
        return Measured(seconds / max(1, n), f"as {name} took on this device, all counted")
    return None


def _taken(config: Config, steps: int) -> Measured | None:
    """By steps on noise, from a fresh state."""
    learn, t = config.build().learn, config.options
    if not steps or not isinstance(learn, Steps):
        return None
    plan = members.default_plan(t.members, 1, t.batch_size)._replace(scan=False)
    step, noise = members.compile_step(learn, plan), np.random.default_rng(0)
    size = height_width(config.image_size)
    images = noise.random((1, *size, config.channels), np.float32)
    kind = t.augment if t.augment in KINDS else "none"
    drawn = crops.draw(images.shape, learn.patch_size, t.batch_size, (0, 0), kind)
    fresh = loop.fresh_state(learn, config.seed)
    states = members.stack([fresh]) if plan.stacked else fresh
    state = members.place_state(states, plan)
    on_device = members.place_images(images, plan)
    placed = members.place_crops(drawn[None] if plan.stacked else drawn, plan)
    took: list[float] = []  # the first is compiled besides
    while len(took) <= steps and sum(took[1:]) < _LONG:
        began = time.perf_counter()
        state, _ = step(state, on_device, placed)
        jax.block_until_ready(state.step)
        took.append(time.perf_counter() - began)
    first, *others = took
    each = statistics.median(others)
    how = f"the median of {len(others)} taken now on noise, which neither validate nor save"
    return Measured(each, how, max(0.0, first - each))


def _clock(seconds: float) -> str:
    """A time as 2:05:00, of less than ten seconds as 3.2 s."""
    return f"{seconds:.1f} s" if seconds < 10 else str(datetime.timedelta(seconds=round(seconds)))
