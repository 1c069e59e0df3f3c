"""A trained run as an object that judges images, for use from Python."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cae_jax.data import images
from cae_jax.evaluation import scores, thresholds, verdict
from cae_jax.evaluation.thresholds import Threshold
from cae_jax.evaluation.verdict import Judge
from cae_jax.reports import rules
from cae_jax.reports.run_files import FINISHED
from cae_jax.runs import cell as cells
from cae_jax.runs.build import scoring_call
from cae_jax.runs.cell import Cell
from cae_jax.runs.machine.progress import say
from cae_jax.runs.train import load_trained
from cae_jax.scoring import scorer
from cae_jax.types import DataError, UsageError, Variables


class Verdict(NamedTuple):
    """What a detector says of one image."""

    defective: bool  # distance > threshold.value
    distance: float  # by the run's --distance
    threshold: Threshold
    residual: np.ndarray  # float32 [H, W]: the map that the distance comes from
    reconstruction: np.ndarray | None  # float32 [H, W, C] in [0, 1]; of a method that makes one
    p_value: float  # among the unseen good images, see `thresholds.p_values`; NaN without any
    mask: np.ndarray  # bool [H, W]: where the defect is, by the minimum-area threshold


@dataclasses.dataclass(frozen=True)
class Detector:
    """A trained model with what judges its scores; `load` makes one."""

    cell: Cell
    variables: Variables
    judge: Judge
    _call: scorer.Scorer

    @property
    def threshold(self) -> Threshold:
        """Above which a distance is called defective."""
        return self.judge.threshold

    def score(self, image: str | os.PathLike[str] | np.ndarray) -> Verdict:
        """Judges one image.

        Args:
          image: a file, or an array [H, W] or [H, W, 1 or 3]: uint8, uint16, or float in [0, 1].

        Raises:
          DataError: the image cannot be used.
          CaeError: its distance or map is not finite.
        """
        c = self.cell.config
        if isinstance(image, np.ndarray):
            name, pixels = "the image", images.from_array(image, c.image_size, c.channels)
        else:
            pixels = images.decode(image, c.image_size, c.channels)
            name = repr(os.fspath(image))
        found = scorer.score_all(self._call, self.variables, pixels[None], 1)
        scorer.check_finite(found, [name])
        distances = found.distances[c.distance]
        residual = found.residuals[c.distance][0]
        return Verdict(
            bool(self.judge.defective(distances)[0]),
            float(distances[0]),
            self.judge.threshold,
            residual,
            None if found.reconstruction is None else found.reconstruction[0],
            float(self.judge.p_values(distances)[0]),
            self.judge.mask(residual, c.opening),
        )


def load(
    workdir: str | os.PathLike[str],
    percent: int | None = None,
    false_alarms: float | None = None,
    **which: Any,
) -> Detector:
    """Loads a run that `experiments.run` trained.

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
        that were not learned from.
      DataError: the run was not finished, or its files cannot be read.
    """
    if percent is not None and false_alarms is not None:
        raise UsageError(f"percent={percent} and false_alarms={false_alarms}: take one of them")
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
    trained = load_trained(cell)
    table = scores.read_scores(cell.folder / "scores.csv")
    good, _, held_out = scores.distances_of(table)
    if not len(held_out) and not len(good):
        raise DataError(f"{cell.folder}: no good image but the training ones, so no threshold")
    if false_alarms and not len(held_out):
        raise UsageError(
            f"false_alarms={false_alarms}: {cell.folder} has no good image but those learned from"
        )
    points = json.loads((cell.folder / FINISHED).read_text())["operating_points"]
    wanted = cell.config.false_alarms if false_alarms is None else false_alarms
    judge = verdict.judge(good, held_out, points, percent, scores.source(table), wanted)
    rate = judge.threshold.rate
    if rate and len(held_out) < thresholds.images_needed(rate):
        say(f"warning: {cell.title}: {rules.promise(dataclasses.asdict(judge.threshold))}")
    return Detector(cell, trained.variables, judge, scoring_call(cell.config))
