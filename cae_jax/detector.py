"""A trained run as an object that judges images, for use from Python."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cae_jax import images, report, runs, score, thresholds
from cae_jax.thresholds import Threshold
from cae_jax.types import DataError, UsageError, Variables


class Verdict(NamedTuple):
    """What a detector says of one image."""

    defective: bool  # distance > threshold.value
    distance: float  # sum of squared differences, 0..255 scale
    threshold: Threshold
    residual: np.ndarray  # float32 [H, W]: squared differences, 0..255 scale
    reconstruction: np.ndarray  # float32 [H, W, C] in [0, 1]


@dataclasses.dataclass(frozen=True)
class Detector:
    """A trained model with its threshold; `load` makes one."""

    cell: runs.Cell
    variables: Variables
    threshold: Threshold
    _call: score.Scorer

    def score(self, image: str | os.PathLike[str] | np.ndarray) -> Verdict:
        """Judges one image.

        Args:
          image: a file, or an array [H, W] or [H, W, 1 or 3]: uint8, uint16, or float in [0, 1].

        Raises:
          DataError: the image cannot be used.
        """
        c = self.cell.config
        read = images.from_array if isinstance(image, np.ndarray) else images.decode
        pixels = read(image, c.image_size, c.channels)
        scores = score.score_all(self._call, self.variables, pixels[None], 1)
        distance = float(scores.distance[0])
        return Verdict(
            distance > self.threshold.value,
            distance,
            self.threshold,
            scores.residual[0],
            scores.reconstruction[0],
        )


def load(
    workdir: str | os.PathLike[str],
    category: str | None = None,
    model: str | None = None,
    seed: int | None = None,
    percent: int = 90,
) -> Detector:
    """Loads a run that `experiments.run` trained.

    Args:
      workdir: of the run.
      category: which one, where the workdir holds several; likewise `model` and `seed`.
      model: as in --model.
      seed: as in --seed.
      percent: 1..100, the share of held-out good images that the threshold calls good; without
        validation images it is the thesis's threshold, from the good test images.

    Raises:
      UsageError: no run, or more than one, fits.
      DataError: the run was not finished, or its files cannot be read.
    """
    asked = {"category": category, "model": model, "seed": seed}
    cells = runs.find_cells(Path(workdir))
    fit = [c for c in cells if all(v in (None, getattr(c.config, k)) for k, v in asked.items())]
    if len(fit) != 1:
        listed = ", ".join(str(c.folder.relative_to(workdir)) for c in fit or cells)
        raise UsageError(
            f"{workdir}: {len(fit)} runs fit {asked}; name category, model, seed of one: {listed}"
        )
    cell = fit[0]
    config = cell.config
    method = runs.build_method(config)
    trained = runs.load_trained(cell, method)
    good, _, held_out = report.distances_of(report.read_scores(cell.folder / "scores.csv"))
    if not len(held_out) and not len(good):
        raise DataError(f"{cell.folder}: no good image but the training ones, so no threshold")
    source = thresholds.VALIDATION_GOOD if len(held_out) else thresholds.TEST_GOOD
    threshold = thresholds.from_good(held_out if len(held_out) else good, percent, source=source)
    call = score.scorer(
        method.reconstruct, config.patch_size, config.stride, score.default_chunk_size()
    )
    return Detector(cell, trained.variables, threshold, call)
