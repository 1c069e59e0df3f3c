"""What a run says of each epoch as it trains: history.csv, and where --log_to sends it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import pandas as pd

from cae_jax import files
from cae_jax.runs.cell import Cell
from cae_jax.training.loop import Progress
from cae_jax.training.schedule import JSONL, TENSORBOARD, WANDB, log_names
from cae_jax.types import UsageError, not_installed

Row: TypeAlias = Mapping[str, float]  # of a history
HISTORY = "history.csv"
_PACKAGES = {TENSORBOARD: "tensorboardX", WANDB: "wandb"}


def check(log_to: str) -> None:
    """Raises UsageError for an unknown name in --log_to, one whose package is not installed, and
    wandb where there is no home folder."""
    for name in log_names(log_to):
        package = _PACKAGES.get(name)
        if package and importlib.util.find_spec(package) is None:
            raise not_installed(f"--log_to={log_to}: {name}", package, "log")
        if name == WANDB and os.path.expanduser("~") == "~":  # a user without an entry
            raise UsageError(
                f"--log_to={log_to}: {name} needs a home folder; HOME=FOLDER names one"
            )


@contextlib.contextmanager
def told(cell: Cell, epoch: int) -> Iterator[Callable[[Progress], None]]:
    """Yields what is to be called after each epoch of a cell that has done `epoch` of them.

    history.csv is written whole each time, so that it has whole rows at any moment, and after a
    kill no other rows than a run without one.

    Raises DataError where a file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        o = cell.config.options
        names = log_names(o.log_to) if epoch < o.epochs else ()
        sinks = [stack.enter_context(_SINKS[name](cell, epoch)) for name in names]

        def tell(at: Progress) -> None:
            files.write_csv(cell.folder / HISTORY, pd.DataFrame(at.history))
            for sink in sinks:
                sink(at.history[-1], at.seconds)

        yield tell


@contextlib.contextmanager
def _json_lines(cell: Cell, _: int) -> Iterator[Callable[[Row, float], None]]:
    """On standard output, a JSON object a line; NaN is null."""
    c = cell.config
    of = {"category": c.category, "run": c.label, "seed": c.seed, "epochs": c.options.epochs}

    def write(row: Row, seconds: float) -> None:
        values = {k: v if math.isfinite(v) else None for k, v in row.items()}
        line = {"event": "epoch", **of, **values, "seconds": round(seconds, 3)}
        print(json.dumps(line), flush=True)

    yield write


@contextlib.contextmanager
def _tensorboard(cell: Cell, epoch: int) -> Iterator[Callable[[Row, float], None]]:
    """Event files in the cell's tensorboard/; of epochs that a kill undid the last ones count."""
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(
        str(cell.folder / TENSORBOARD),
        purge_step=epoch + 1 if epoch else None,
        filename_suffix=f".{epoch:06d}",  # the rest of the name is the second it was made in
    )
    with contextlib.closing(writer):

        def write(row: Row, seconds: float) -> None:
            for name, value in _numbers(row, seconds).items():
                writer.add_scalar(name, value, int(row["epoch"]))
            writer.flush()

        yield write


@contextlib.contextmanager
def _wandb(cell: Cell, _: int) -> Iterator[Callable[[Row, float], None]]:
    """An offline run in the cell's wandb/, for `wandb sync`; each start is one of its own."""
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # else its import calls home
    import wandb

    c = cell.config
    run = wandb.init(
        project="cae_jax",
        name=cell.title,
        group=cell.name,
        dir=str(cell.folder),
        config=c.flags(),
        mode="offline",
        settings=wandb.Settings(console="off", disable_git=True, disable_code=True, silent=True),
    )
    try:
        yield lambda row, seconds: run.log(_numbers(row, seconds), step=int(row["epoch"]))
    finally:
        run.finish()


def _numbers(row: Row, seconds: float) -> dict[str, float]:
    """What a chart can show."""
    found = {k: float(v) for k, v in row.items() if k != "epoch" and math.isfinite(v)}
    return {**found, "seconds": seconds}


_SINKS: Mapping[str, Callable[[Cell, int], Any]] = {
    JSONL: _json_lines,
    TENSORBOARD: _tensorboard,
    WANDB: _wandb,
}
