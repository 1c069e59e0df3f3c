"""A trained run as an object that judges images, for use from Python."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cae_jax.data import images
from cae_jax.evaluation import segmentation, thresholds
from cae_jax.evaluation.thresholds import Threshold
from cae_jax.reports import results
from cae_jax.runs import job
from cae_jax.runs.evaluate import build_scorer
from cae_jax.scoring import scorer
from cae_jax.types import DataError, UsageError, Variables


class Verdict(NamedTuple):
    """What a detector says of one image."""

    defective: bool  # distance > threshold.value
    distance: float  # by the run's --distance, see `residuals`
    threshold: Threshold
    residual: np.ndarray  # float32 [H, W]: the map that the distance comes from
    reconstruction: np.ndarray  # float32 [H, W, C] in [0, 1]
    p_value: float  # among the held-out good images, see `thresholds.p_values`; NaN without any
    mask: np.ndarray  # bool [H, W]: where the defect is, by the minimum-area threshold


@dataclasses.dataclass(frozen=True)
class Detector:
    """A trained model with its threshold; `load` makes one."""

    cell: job.Cell
    variables: Variables
    threshold: Threshold
    held_out: np.ndarray  # float64 [n]: distances of the held-out good images
    map_threshold: float  # of the segmentation; infinite where no image was held out
    _call: scorer.Scorer

    def score(self, image: str | os.PathLike[str] | np.ndarray) -> Verdict:
        """Judges one image.

        Args:
          image: a file, or an array [H, W] or [H, W, 1 or 3]: uint8, uint16, or float in [0, 1].

        Raises:
          DataError: the image cannot be used.
          CaeError: its distance or map is not finite.
        """
        c = self.cell.config
        read = images.from_array if isinstance(image, np.ndarray) else images.decode
        pixels = read(image, c.image_size, c.channels)
        scores = scorer.score_all(self._call, self.variables, pixels[None], 1)
        name = "the image" if isinstance(image, np.ndarray) else repr(os.fspath(image))
        scorer.check_finite(scores, [name])
        distance = float(scores.distances[c.distance][0])
        residual = scores.residuals[c.distance][0]
        return Verdict(
            distance > self.threshold.value,
            distance,
            self.threshold,
            residual,
            scores.reconstruction[0],
            float(thresholds.p_values(self.held_out, [distance])[0]),
            segmentation.segment(residual, self.map_threshold, c.opening),
        )


def load(
    workdir: str | os.PathLike[str],
    category: str | None = None,
    model: str | None = None,
    seed: int | None = None,
    loss: str | None = None,
    percent: int = 90,
) -> Detector:
    """Loads a run that `experiments.run` trained.

    Args:
      workdir: of the run.
      category: which one, where the workdir holds several; likewise `model`, `seed`, `loss`.
      model: as in --model.
      seed: as in --seed.
      loss: as in --loss.
      percent: 1..100, the share of held-out good images that the threshold calls good; without
        validation images it is the thesis's threshold, from the good test images.

    Raises:
      UsageError: no run, or more than one, fits.
      DataError: the run was not finished, or its files cannot be read.
    """
    asked = {"category": category, "model": model, "seed": seed, "loss": loss}
    cells = job.find_cells(Path(workdir))
    fit = [c for c in cells if all(v in (None, getattr(c.config, k)) for k, v in asked.items())]
    if len(fit) != 1:
        listed = ", ".join(str(c.folder.relative_to(workdir)) for c in fit or cells)
        raise UsageError(
            f"{workdir}: {len(fit)} runs fit {asked}; name category, model, seed, loss of one: "
            f"{listed}"
        )
    cell = fit[0]
    if not cell.finished:
        raise DataError(f"{cell.folder}: not finished; run experiments.run again")
    config = cell.config
    method = job.build_method(config)
    trained = job.load_trained(cell, method)
    good, _, held_out = results.distances_of(results.read_scores(cell.folder / "scores.csv"))
    if not len(held_out) and not len(good):
        raise DataError(f"{cell.folder}: no good image but the training ones, so no threshold")
    source = thresholds.VALIDATION_GOOD if len(held_out) else thresholds.TEST_GOOD
    threshold = thresholds.from_good(held_out if len(held_out) else good, percent, source=source)
    points = json.loads((cell.folder / "metrics.json").read_text())["operating_points"]
    of_maps = [point["threshold"] for point in points if point["rule"] == "min_area"]
    map_threshold = of_maps[0] if of_maps else math.inf
    call = build_scorer(config, method)
    return Detector(cell, trained.variables, threshold, held_out, map_threshold, call)
