"""How far every --precision moves a finished run's distances and verdicts from float64's."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import jax
import numpy as np
from absl import flags

from benchmarks import options, timing
from cae_jax.evaluation import metrics, thresholds
from cae_jax.methods.autoencoder import PRECISIONS
from cae_jax.runs import config, job
from cae_jax.runs.evaluate import build_scorer
from cae_jax.scoring import scorer
from cae_jax.types import Split, UsageError, Variables

_PERCENT = 90  # the threshold that verdicts go by: of validation good, or of test good without any
_EXACT = "float64"


def distances(
    cell: job.Cell, variables: Variables, images: np.ndarray, precision: str
) -> np.ndarray:
    """Returns the distances [n] of images [n, H, W, C] by the run's model in that mode."""
    c = cell.config
    exact = precision == _EXACT
    method = job.build_method(dataclasses.replace(c, precision="float32" if exact else precision))
    dtype = np.float64 if exact else np.float32
    with jax.enable_x64(exact):
        cast = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), variables)
        call = build_scorer(c, method)
        batch = scorer.default_batch_size()
        found = scorer.score_all(call, cast, np.asarray(images, dtype), batch)
    return found.distances[c.distance].astype(np.float64)


def measure(cell: job.Cell, split: Split, variables: Variables) -> dict[str, object]:
    """Returns the record: a row per mode, its drift from float64 and the verdicts that change."""
    good = split.validation if len(split.validation) else split.test[split.labels == 0]
    found = {
        mode: [distances(cell, variables, images, mode) for images in (good, split.test)]
        for mode in (_EXACT, *PRECISIONS)
    }
    rows, exact = [], found[_EXACT][1]
    for mode, (of_good, of_test) in found.items():
        called = of_test > thresholds.from_good(of_good, _PERCENT).value
        if mode == _EXACT:
            wanted = called
        rows.append(
            {
                "precision": mode,
                "largest_drift": float(np.max(np.abs(of_test / exact - 1))),
                "image_auroc": metrics.image_auroc(split.labels, of_test),
                "verdicts_changed": int(np.sum(called != wanted)),
                "images": len(exact),
            }
        )
    run = {name: getattr(cell.config, name) for name in ("category", "model", "loss", "distance")}
    return {**run, "modes": rows, **timing.environment()}


def run() -> None:
    """Measures every finished run of the workdir."""
    if not flags.FLAGS.workdir:
        raise UsageError("--workdir is needed: the folder that experiments.run wrote")
    records = []
    for cell in job.find_cells(Path(flags.FLAGS.workdir).expanduser()):
        variables = job.load_trained(cell, job.build_method(cell.config)).variables
        records.append(measure(cell, job.read_split(cell.config), variables))
    options.finish(records)


if __name__ == "__main__":
    config.define(["workdir"])
    options.define()
    config.main(run)
