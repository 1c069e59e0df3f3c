"""Other engines' calls on the input of ours, once they are known to compute the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks import networks
from benchmarks.engines import torch_engine, torch_training
from benchmarks.engines.twin import Path
from benchmarks.production import Scoring, Training
from cae_jax.methods.autoencoder import reconstructor
from cae_jax.scoring import patches
from cae_jax.types import CaeError, UsageError

Calls = dict[str, Callable[[], object]]  # by engine, waited for
Errors = dict[str, dict[str, float]]  # by engine and array, relative
SCORING = {"patches": 1e-4, "map": 1e-4, "distance": 1e-4}  # largest error over largest value
# Of a first step: the gradient and the update as one vector each, root of squares. Adam's first
# update is the gradient's sign, so a gradient that is all rounding moves its weight either way.
TRAINING = {"loss": 1e-4, "gradient": 1e-3, "update": 5e-2}


def scoring(names: Iterable[str], ready: Scoring) -> tuple[Calls, Errors]:
    """Returns every engine's call that scores the images of ours, and how far off it is.

    Raises CaeError where that is above SCORING, UsageError for a method or model without tables,
    and for another distance than theirs.
    """
    s, o, calls, errors = ready.settings, ready.settings.options, {}, {}
    if s.distance != "l2":
        raise UsageError(f"--against: other engines measure l2 alone, not --distance={s.distance}")
    model = networks.build(s)
    cut = patches.extract(ready.images, o.patch_size, o.stride)
    cut = cut.reshape(-1, *cut.shape[3:])
    ours = {
        "patches": jax.jit(reconstructor(model, o.precision))(ready.variables, cut).output,
        "map": ready.scores.residuals["l2"],
        "distance": ready.scores.distances["l2"],
    }
    ours = jax.tree.map(np.asarray, ours)
    for name in names:
        call = torch_engine.scoring_call(name, model, ready.variables, ready.images, o.stride)
        theirs = torch_engine.read(call())
        errors[name] = {what: largest_error(mine, theirs[what]) for what, mine in ours.items()}
        check(name, errors[name], SCORING)
        calls[name] = call
    return calls, errors


def training(names: Iterable[str], ready: Training) -> tuple[Calls, Errors]:
    """Returns every engine's training step on the crops of ours, and how far its first one is off.

    Raises CaeError where that is above TRAINING, UsageError for a model without tables.
    """
    o, calls, errors = ready.settings.options, {}, {}
    model = networks.build(ready.settings)
    for name in names:
        its = torch_training.Training(
            *(model, ready.variables, ready.images, o.learning_rate, o.weight_decay)
        )
        before = its.parameters()
        loss, after = its.step(ready.crops[0]), its.parameters()
        update = {path: after[path] - before[path] for path in after}
        errors[name] = {
            "loss": abs(loss / ready.loss - 1),
            "gradient": _norm_error(ready.momenta, its.momenta()),
            "update": _norm_error(ready.update, update),
        }
        check(name, errors[name], TRAINING)
        turn = itertools.cycle([*ready.crops[1:], ready.crops[0]])
        calls[name] = lambda step=its.step, turn=turn: step(next(turn))
    return calls, errors


def largest_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Returns the largest difference over the largest value of ours; raises ValueError on shape."""
    if ours.shape != theirs.shape:
        raise ValueError(f"ours is {ours.shape}, theirs {theirs.shape}")
    return float(np.abs(ours - theirs).max() / np.abs(ours).max())


def check(name: str, errors: Mapping[str, float], allowed: Mapping[str, float]) -> None:
    """Raises CaeError for the first error above what is allowed: a time would say nothing then."""
    for what, error in errors.items():
        if not error <= allowed[what]:
            raise CaeError(
                f"{name} does not compute the same {what} as we do: its relative error is "
                f"{error:.1e}, where {allowed[what]:.0e} is allowed"
            )


def _norm_error(ours: Any, theirs: dict[Path, np.ndarray]) -> float:
    leaves = jax.tree_util.tree_flatten_with_path(ours)[0]
    mine = {tuple(key.key for key in path): leaf for path, leaf in leaves}
    if mine.keys() != theirs.keys():
        raise ValueError(f"parameters differ: {sorted(mine.keys() ^ theirs.keys())}")
    apart = sum(float(np.square(mine[path] - theirs[path]).sum()) for path in mine)
    return (apart / sum(float(np.square(leaf).sum()) for leaf in mine.values())) ** 0.5
