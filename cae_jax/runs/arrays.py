"""The main job on images in memory: what `experiments.run` does with a folder, for a notebook."""

from __future__ import annotations

import os
from typing import Any

import pandas as pd

from cae_jax import data
from cae_jax.data.arrays import DATASET
from cae_jax.runs import build, epoch_log
from cae_jax.runs import cell as cells_of
from cae_jax.runs.cell import Cell
from cae_jax.runs.config import Config, configure
from cae_jax.runs.evaluate import write_evaluation
from cae_jax.runs.machine.progress import say
from cae_jax.runs.train import train_cells
from cae_jax.scoring import compilation
from cae_jax.training.schedule import Training
from cae_jax.types import CaeError, DataError, Split, UsageError, size_of

_OF_SPLIT = (
    "dataset",
    "data_dir",
    "category",
    "joint",
    "image_size",
    "channels",
    "workdir",
    "bit_depth",
)


def run(split: Split, workdir: str | os.PathLike[str], **flags: Any) -> pd.DataFrame:
    """Trains a method on a split, judges it, and writes all that a run leaves.

    The same call again goes on where it was stopped, and does nothing once it is finished;
    `cae_jax.load(workdir)` gives the detector.

    Args:
      split: of `data.arrays.split`, or any other; images are as they are learned from. Where it has
        no validation images a part of the training images is held out, or judged out of fold, as
        the flags say.
      workdir: where everything is written.
      flags: by name, as `method="gaussian"`, `epochs=20`; what images there are is the split's.

    Returns:
      The workdir's results.

    Raises:
      UsageError: flags that cannot work, or that the split answers; a workdir with another run.
      DataError: other images than the run was begun with; what cannot be written.
      CaeError: training diverged.
    """
    if not isinstance(split, Split):
        raise UsageError(f"split: must be of data.arrays.split, not {type(split).__name__}")
    config = _config(split, workdir, flags)
    if isinstance(config.options, Training):
        epoch_log.check(config.options.log_to)
    split = data.take(split, config.train_images, config.seed)
    if not len(split.validation):
        split = data.hold_out(split, config.validation_fraction, config.seed)
    cell = cells_of.make(config, split.category)
    with cells_of.claimed([cell]):
        compilation.use_cache()
        if cell.left_to_do:
            _do(cell, split)
        elif not cell.is_of(split):
            raise DataError(
                f"{cell.folder}: finished with other images; use overwrite=True, or another workdir"
            )
        else:
            say(f"{cell.folder}: finished before")
    return cells_of.write_results(config.folder)


def _config(split: Split, workdir: str | os.PathLike[str], flags: dict[str, Any]) -> Config:
    for name in _OF_SPLIT:
        if name in flags:
            raise UsageError(f"{name}: is the split's, or an argument; leave it out of the flags")
    n, n_held_out = len(split.train), len(split.validation)
    if n_held_out:
        for name in ("folds", "validation_fraction"):
            if flags.get(name):
                raise UsageError(f"{name}={flags[name]}: the split has validation images already")
        flags = {**flags, "folds": 0, "validation_fraction": n_held_out / (n + n_held_out)}
    _, height, width, channels = split.train.shape
    size = size_of(height, width)
    of_split = {"dataset": DATASET, "category": split.category, "workdir": workdir}
    of_split["bit_depth"] = split.bit_depth
    return configure(**of_split, image_size=size, channels=channels, **flags).resolved()


def _do(cell: Cell, split: Split) -> None:
    print(build.summary(cell.config, split), flush=True)
    cells_of.prepare(cell, split)
    (trained,) = train_cells([(cell, split)])
    if isinstance(trained, CaeError):
        raise trained
    write_evaluation(cell, split, trained)
