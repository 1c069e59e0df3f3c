"""How far every --precision moves a finished run's distances and verdicts from float64's."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import options, timing
from cae_jax.evaluation import metrics, verdict
from cae_jax.methods.options import PRECISIONS
from cae_jax.runs import build, command_line
from cae_jax.runs.cell import find
from cae_jax.runs.config import Config
from cae_jax.runs.train import load_trained
from cae_jax.scoring import scorer
from cae_jax.types import Split, Variables

_EXACT = "float64"


def distances(
    config: Config, variables: Variables, images: np.ndarray, precision: str
) -> np.ndarray:
    """Returns the distances [n] of images [n, H, W, C] by the run's method in that mode."""
    if not len(images):
        return np.empty(0)
    exact = precision == _EXACT
    dtype = np.float64 if exact else np.float32
    with jax.enable_x64(exact):
        floats = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.floating), variables)
        cast = jax.tree.map(lambda x, yes: np.asarray(x, dtype) if yes else x, variables, floats)
        call = build.scoring_call(config.changed(precision="float32" if exact else precision))
        batch = scorer.default_batch_size()
        found = scorer.score_all(call, cast, np.asarray(images, dtype), batch)
    return found.distances[config.distance].astype(np.float64)


def measure(config: Config, split: Split, variables: Variables) -> dict[str, object]:
    """Returns the record: a row per mode, its drift from float64 and the verdicts that change."""
    found = {
        mode: [distances(config, variables, x, mode) for x in (split.validation, split.test)]
        for mode in (_EXACT, *PRECISIONS)
    }
    called = {
        mode: verdict.judge(of_test[split.labels == 0], held_out, points=()).defective(of_test)
        for mode, (held_out, of_test) in found.items()
    }
    rows = [
        {
            "precision": mode,
            "largest_drift": float(np.max(np.abs(of_test / found[_EXACT][1] - 1))),
            "image_auroc": metrics.image_auroc(split.labels, of_test),
            "verdicts_changed": int(np.sum(called[mode] != called[_EXACT])),
            "images": len(of_test),
        }
        for mode, (_, of_test) in found.items()
    ]
    run = {"category": config.category, "model": config.label, "distance": config.distance}
    return {**run, "modes": rows, **timing.environment()}


def run() -> None:
    """Measures every finished run of the workdir whose method has a --precision."""
    records = []
    for cell in find(command_line.needed("workdir", "the folder of a run")):
        c = cell.config
        if "precision" in c.fields():
            records.append(measure(c, build.read_split(c), load_trained(cell).variables))
        else:
            print(f"skipped {cell.name}: its method has no --precision", file=sys.stderr)
    options.finish(records)


if __name__ == "__main__":
    options.define()
    command_line.main(run, ["workdir"])
