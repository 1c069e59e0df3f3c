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
import pandas as pd

from cae_jax import options
from cae_jax.evaluation import scores, threshold_rule, verdict
from cae_jax.evaluation.verdict import Judge
from cae_jax.reports import rules
from cae_jax.reports.run_files import FINISHED
from cae_jax.runs import build
from cae_jax.runs import cell as cells
from cae_jax.runs.build import read_split, scoring_call
from cae_jax.runs.cell import Cell
from cae_jax.runs.machine.progress import say
from cae_jax.runs.train import Trained, load_trained
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
            scale=color_scale(self.cell),
            runtime="jax",
            card={},
            looks=self.cell.frame,
        )
        strips = build.strip_scorer(config)

        def of_any_size(image: np.ndarray) -> Scores[np.ndarray]:
            assert strips
            with compilation.in_32_bits():
                return strips(self.variables, image)

        detector = Detector(model, self.judge, call, (load, self.given))
        return dataclasses.replace(detector, strips=of_any_size if strips else None)


def load(
    workdir: str | os.PathLike[str],
    percent: int | None = None,
    false_alarms: float | None = None,
    threshold: str | None = None,
    checkpoint: str | None = None,
    **which: Any,
) -> Detector:
    """Returns a finished run as a detector; takes and raises what `open_run` does."""
    return open_run(workdir, percent, false_alarms, threshold, checkpoint, **which).detector


@compilation.in_32_bits()
def open_run(
    workdir: str | os.PathLike[str],
    percent: int | None = None,
    false_alarms: float | None = None,
    threshold: str | None = None,
    checkpoint: str | None = None,
    **which: Any,
) -> TrainedRun:
    """Opens a run that `experiments.run` trained.

    Args:
      workdir: of the run, or a folder in it that holds the run, down to its own.
      percent: 1..100, the share of unseen good images, held out or out of fold, that the threshold
        calls good; of the good test images where there are none, which is the thesis's threshold.
        None takes the one that the run's own report goes by: for its --false_alarms, else 90 % of
        the unseen images, or 70 % of the test images.
      false_alarms: the rate up to 0.5 that the threshold is for, in place of a percent and of the
        run's own rate; 0 for none. With too few good images for the rate that counts a line on
        standard error says so, see `thresholds.false_alarms`.
      threshold: a rule in the manner of `threshold_rule.parse`, such as "percent:95" or "f1_best",
        in place of a percent or a rate. That a threshold leaks is said on standard error.
      checkpoint: "last" or "best", of the lowest loss; None takes the run's own. Of another one
        than the run was evaluated with its images are scored anew, for the threshold.
      which: flags by name, as in `category="screw"`, `model="gong"`, `method="variation_model"`,
        `seed=1`: which run, where the workdir holds several.

    Raises:
      UsageError: no run, or more than one, fits; more than one of a percent, a rate and a rule, or
        one without the images that it needs; a fork of a process that uses JAX.
      DataError: the run was not finished, or its files cannot be read.
    """
    if threshold is not None:
        threshold_rule.parse(threshold)
    cell = the_one(Path(workdir), which)
    claim_jax()
    compilation.use_cache()
    evaluated = cell.config.checkpoint
    cell = cell._replace(config=cell.config.changed(checkpoint=checkpoint or evaluated))
    options.check(cell.config)
    trained = load_trained(cell)
    cells.warn_of_code(cell)
    if cell.config.checkpoint == evaluated:
        table = scores.read_scores(cell.folder / "scores.csv")
        finished = (cell.folder / FINISHED).read_text(encoding="utf-8")
        points = json.loads(finished)["operating_points"]
    else:
        table, points = _judged(cell, trained)
    good, defective, unseen = scores.distances_of(table)
    rate, source = cell.config.false_alarms, scores.source(table)
    judge = verdict.asked(
        *(str(cell.folder), good, unseen, points, source, rate, percent, false_alarms),
        *(threshold, cell.config.threshold, defective),
    )
    for said in rules.warnings(judge.threshold):
        say(f"warning: {cell.title}: {said}")
    given = {"percent": percent, "false_alarms": false_alarms, "threshold": threshold}
    given |= {"workdir": os.path.abspath(workdir), "checkpoint": checkpoint, **which}
    return TrainedRun(cell, trained.variables, judge, given)


def the_one(workdir: Path, which: dict[str, Any]) -> Cell:
    """Returns the finished run of a workdir that flags say; raises what `open_run` raises for none,
    several, or one that is not finished."""
    found = cells.find(workdir)
    fit = [c for c in found if which.items() <= c.config.flags().items()]
    if len(fit) != 1:
        listed = ", ".join(c.name for c in fit or found)
        asked = ", ".join(f"{name}={value!r}" for name, value in which.items()) or "no flag"
        raise UsageError(
            f"{workdir}: {len(fit)} runs fit {asked}; name category, method, model, seed ... of "
            f"one: {listed}"
        )
    if not fit[0].finished:
        raise DataError(f"{fit[0].folder}: not finished; run the same command again")
    return fit[0]


def _judged(cell: Cell, trained: Trained) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Scores and the maps' threshold by other weights than the run was evaluated with; raises
    DataError where the run's images cannot be had."""
    from cae_jax.runs import evaluate  # with all that draws: hardly anybody needs it

    split = read_split(cell.config)
    if not cell.is_of(split):
        raise DataError(
            f"{cell.folder}: --checkpoint={cell.config.checkpoint} has to score the run's images "
            "for the threshold, and these are others"
        )
    judged = evaluate.judge(cell.config, split, trained)
    cut = judged.found and judged.found.point.threshold.value
    return judged.frame, [{"rule": "min_area", "threshold": cut}] if cut is not None else []


def color_scale(cell: Cell) -> float:
    """Returns the residual at the top of the color scale of a run's own pictures; NaN without."""
    path = cell.folder / "examples.npz"
    if not path.exists():
        return float("nan")
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        return float(archive["scale"])
