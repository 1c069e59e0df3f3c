"""How far the accelerator's scores are from the CPU's, by precision, and what verdicts change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.accelerator import programs, stored
from benchmarks.accelerator.modes import modes
from cae_jax.data import synthetic
from cae_jax.evaluation import metrics, verdict
from cae_jax.runs import build
from cae_jax.runs.config import Config, configure
from cae_jax.runs.train import whole
from cae_jax.scoring import scorer
from cae_jax.training.checkpoints import FROZEN
from cae_jax.types import Fit, Split, Variables

TOGETHER = 4  # cases at a time: their CPU halves are processes of their own
_CATEGORY, _FITTED, _HELD_OUT, _GOOD, _DEFECTIVE = "weave", 16, 12, 12, 4
_LIMIT = 400.0  # seconds that the CPU may take, where its case may
OWN = "fitted there"  # distances by a fit of the device's own


def prepare(given: Mapping[str, Any], scratch: Path) -> Callable[[], dict[str, Any]]:
    """Scores a few synthetic images on the accelerator and the CPU; returns the record's call.

    With the same variables: untrained, fitted on the accelerator, or of `given`'s file "trained".
    """
    found = compared(given, scratch)
    return lambda: found


def compared(given: Mapping[str, Any], scratch: Path) -> dict[str, Any]:
    """Returns the record: by mode, the largest relative difference of scores and of maps."""
    settings = configure(**given["flags"]).resolved()
    split, learn = drawn(settings), settings.build().learn
    if "trained" in given:
        variables, _ = stored.load(scratch / f"{given['trained'].replace(':', '.')}.npz")
    elif isinstance(learn, Fit):
        variables = fitted(settings, split)
    else:
        variables = {k: v for k, v in programs.fresh(settings).items() if k != FROZEN}
    name = "".join(c if c.isalnum() else "_" for c in settings.label + str("trained" in given))
    path = scratch / f"numbers_{name}.npz"
    stored.save(path, variables, {})
    with _on_cpu(given["flags"], path) as waiting:
        try:
            kinds = modes(given["flags"])
            scores = {
                mode: distances(settings.changed(**own).resolved(), split, variables, ambient)
                for mode, (own, ambient) in kinds.items()
            }
            said = waiting.communicate(timeout=_LIMIT)[1]
        finally:
            waiting.kill()
    if waiting.returncode:
        raise RuntimeError(f"on the CPU: {said.decode(errors='replace')[-300:]}")
    _, wanted = stored.load(path.with_suffix(".cpu.npz"))
    rows = [_row(mode, found, wanted, settings.distance, split) for mode, found in scores.items()]
    if isinstance(learn, Fit):
        own = {key.removeprefix(f"{OWN} "): x for key, x in wanted.items() if key.startswith(OWN)}
        rows.append(_row(f"float32, {OWN}", scores["float32"], own, settings.distance, split))
    about = {"method": settings.method, "label": settings.label, "distance": settings.distance}
    return {**about, "images": len(split.test), "modes": rows}


def drawn(settings: Config) -> Split:
    """Returns the synthetic images that are scored."""
    s = settings
    counts = (_FITTED + _HELD_OUT, _GOOD, _DEFECTIVE)
    return synthetic.read(_CATEGORY, s.image_size, s.channels, s.seed, *counts)


def fitted(settings: Config, split: Split) -> Variables:
    """Returns what the method learns in one pass, with a key that is the same on all devices.

    `training.fit` takes one of "rbg", whose numbers each kind of device draws in its own way.
    """
    learn = settings.build().learn
    return jax.jit(learn.fit)(jax.random.key(settings.seed), split.train[:_FITTED])


def distances(
    settings: Config, split: Split, variables: Variables, ambient: str | None
) -> dict[str, np.ndarray]:
    """Returns all distances of the method, [n] of held-out good images and then the test's, and the
    map of its own one, "map" [n, H, W]; products that ask for nothing are of the ambient precision.
    """
    variables = whole(settings.build(), variables)
    images = np.concatenate([split.train[_FITTED:], split.test])
    with jax.default_matmul_precision(ambient):
        call = build.scoring_call(settings, all_distances=True)
        found = scorer.score_all(call, variables, images, scorer.default_batch_size())
    return {**found.distances, "map": found.residuals[settings.distance]}


def _on_cpu(flags: Mapping[str, Any], path: Path) -> subprocess.Popen:
    """Starts the CPU's half, see `reference`."""
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.accelerator.reference", json.dumps(flags), str(path)],
        stderr=subprocess.PIPE,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""},
    )


def _row(
    mode: str,
    found: Mapping[str, np.ndarray],
    wanted: Mapping[str, np.ndarray],
    distance: str,
    split: Split,
) -> dict[str, Any]:
    names = [name for name in found if name != "map"]
    by_name = {name: largest_difference(found[name], wanted[name]) for name in names}
    ours, theirs = (_verdicts(each[distance], split) for each in (found, wanted))
    n = len(split.test)
    largest = float(np.abs(wanted["map"]).max())
    of_map = float(np.abs(found["map"] - wanted["map"]).max()) / largest
    return {
        **{"mode": mode, "largest_difference": by_name[distance], "by_distance": by_name},
        "map_difference": of_map,
        "verdicts_changed": int(np.sum(ours != theirs)),
        "image_auroc": metrics.image_auroc(split.labels, found[distance][-n:]),
        "image_auroc_cpu": metrics.image_auroc(split.labels, wanted[distance][-n:]),
    }


def largest_difference(found: np.ndarray, wanted: np.ndarray) -> float:
    """Returns the largest relative difference of two arrays; NaN where a number is not finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        off = np.abs(found.astype(float) - wanted) / np.abs(wanted)
    return float(np.max(np.where(found == wanted, 0.0, off)))


def _verdicts(scores: np.ndarray, split: Split) -> np.ndarray:
    n = len(split.test)
    held_out, of_test = scores[:-n].astype(np.float64), scores[-n:].astype(np.float64)
    return verdict.judge(of_test[split.labels == 0], held_out, points=()).defective(of_test)
