"""A run in its workdir, opened to judge images."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cae_jax.evaluation import scores, verdict
from cae_jax.evaluation.verdict import Judge
from cae_jax.reports import rules
from cae_jax.reports.run_files import FINISHED
from cae_jax.runs import cell as cells
from cae_jax.runs.build import scoring_call
from cae_jax.runs.cell import Cell
from cae_jax.runs.machine.progress import say
from cae_jax.runs.train import load_trained
from cae_jax.scoring import compilation
from cae_jax.serving.detector import Detector, Model, claim_jax
from cae_jax.types import DataError, Scores, UsageError, Variables


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A finished run: its folder and flags, what it learned, what judges its scores."""

    cell: Cell
    variables: Variables
    judge: Judge
    given: dict[str, Any]  # the arguments of `load` that open it

    @functools.cached_property
    def detector(self) -> Detector:
        """The run as a detector."""
        config = self.cell.config
        score = scoring_call(config)

        def call(images: np.ndarray) -> Scores[np.ndarray]:
            with compilation.in_32_bits():
                return jax.device_get(score(self.variables, images))

        model = Model(
            title=self.cell.title,
            category=config.category,
            method=config.method,
            version="",
            image_size=config.image_size,
            channels=config.channels,
            distance=config.distance,
            opening=config.opening,
            scale=_scale(self.cell),
            runtime="jax",
            card={},
            looks=self.cell.frame,
        )
        return Detector(model, self.judge, call, (load, self.given))


def load(
    workdir: str | os.PathLike[str],
    percent: int | None = None,
    false_alarms: float | None = None,
    **which: Any,
) -> Detector:
    """Returns a finished run as a detector; takes and raises what `open_run` does."""
    return open_run(workdir, percent, false_alarms, **which).detector


@compilation.in_32_bits()
def open_run(
    workdir: str | os.PathLike[str],
    percent: int | None = None,
    false_alarms: float | None = None,
    **which: Any,
) -> TrainedRun:
    """Opens a run that `experiments.run` trained.

    Args:
      workdir: of the run.
      percent: 1..100, the share of unseen good images, held out or out of fold, that the threshold
        calls good; of the good test images where there are none, which is the thesis's threshold.
        None takes the one that the run's own report goes by: for its --false_alarms, else 90 % of
        the unseen images, or 70 % of the test images.
      false_alarms: the rate up to 0.5 that the threshold is for, in place of a percent and of the
        run's own rate; 0 for none. With too few good images for the rate that counts a line on
        standard error says so, see `thresholds.false_alarms`.
      which: flags by name, as in `category="screw"`, `model="gong"`, `method="variation_model"`,
        `seed=1`: which run, where the workdir holds several.

    Raises:
      UsageError: no run, or more than one, fits; a percent and a rate; a rate without good images
        that were not learned from; a fork of a process that uses JAX.
      DataError: the run was not finished, or its files cannot be read.
    """
    found = cells.find(Path(workdir))
    fit = [c for c in found if which.items() <= c.config.flags().items()]
    if len(fit) != 1:
        listed = ", ".join(c.name for c in fit or found)
        asked = ", ".join(f"{name}={value!r}" for name, value in which.items()) or "no flag"
        raise UsageError(
            f"{workdir}: {len(fit)} runs fit {asked}; name category, method, model, seed ... of "
            f"one: {listed}"
        )
    cell = fit[0]
    if not cell.finished:
        raise DataError(f"{cell.folder}: not finished; run experiments.run again")
    claim_jax()
    compilation.use_cache()
    trained = load_trained(cell)
    cells.warn_of_code(cell)
    table = scores.read_scores(cell.folder / "scores.csv")
    good, _, unseen = scores.distances_of(table)
    points = json.loads((cell.folder / FINISHED).read_text(encoding="utf-8"))["operating_points"]
    rate, source = cell.config.false_alarms, scores.source(table)
    judge = verdict.asked(
        str(cell.folder), good, unseen, points, source, rate, percent, false_alarms
    )
    if said := rules.unkept(judge.threshold):
        say(f"warning: {cell.title}: {said}")
    given = {"percent": percent, "false_alarms": false_alarms, **which}
    return TrainedRun(
        cell, trained.variables, judge, {"workdir": os.path.abspath(workdir), **given}
    )


def _scale(cell: Cell) -> float:
    """The residual at the top of the color scale of the run's own pictures."""
    path = cell.folder / "examples.npz"
    if not path.exists():
        return float("nan")
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        return float(archive["scale"])
