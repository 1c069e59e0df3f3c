"""What thresholds are picked on: the scores of good images by a model that has not seen them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from cae_jax.evaluation.segmentation import MinimumArea
from cae_jax.evaluation.thresholds import OUT_OF_FOLD, VALIDATION_GOOD
from cae_jax.runs.build import scoring_call
from cae_jax.runs.config import Config
from cae_jax.runs.machine.progress import Bar
from cae_jax.runs.train import Trained, whole
from cae_jax.scoring import scorer
from cae_jax.training import cross_fit, fit
from cae_jax.types import Fit, Split, Variables

_AT_ONCE = 32  # images whose maps are in memory together; whole batches of any device
_KEPT = 64  # images whose maps are kept, for the pictures' color scale
Learn: TypeAlias = Callable[[jax.Array, jax.Array], Variables]


class Calibration(NamedTuple):
    """Good images that the models which scored them had not seen, n of them."""

    source: str  # VALIDATION_GOOD or OUT_OF_FOLD
    paths: tuple[str, ...]
    distances: dict[str, np.ndarray]  # by name, float32 [n]
    area: MinimumArea  # of the maps of all of them, by the run's distance
    maps: np.ndarray  # float32 [k, H, W]: of _KEPT of them at most, evenly spaced
    seconds: float  # that fitting without each fold took; 0 where none was


def calibrate(config: Config, split: Split, trained: Trained) -> Calibration:
    """Scores the unseen good images by every distance: those held out; with --folds all that were
    learned from, each by a model fitted again without its fold, which is kept nowhere.

    Maps are taken as they come, a few images at a time, so that memory does not grow with n.

    Raises CaeError where a distance or a map is not finite, naming the image.
    """
    folds: list[cross_fit.Fold] = []
    images, paths, source = split.validation, split.validation_paths, VALIDATION_GOOD
    if config.folds:
        folds = cross_fit.folds(split.groups, config.folds, config.seed)
        source = OUT_OF_FOLD
        images = split.train if folds else split.train[:0]
        paths = split.train_paths if folds else ()
    call, learn, examples = scoring_call(config, all_distances=True), None, images
    if folds:
        call, learn, examples = _by_features(config, images, trained.features)
    distances = {name: np.zeros(len(paths), np.float32) for name in config.build().distances}
    kept = {int(i) for i in np.linspace(0, len(paths) - 1, _KEPT)} if paths else set()
    maps = {}
    area, seconds = MinimumArea(config.smallest_defect, config.opening), 0.0
    what = f"{len(folds)} folds" if folds else "validation"
    with Bar(f"score {config.category} {what}", len(paths), "images") as bar:
        for rows, variables, took in _models(config, learn, examples, trained, folds):
            seconds += took
            for at in np.split(rows, range(_AT_ONCE, len(rows), _AT_ONCE)):
                batch = scorer.default_batch_size()
                found = scorer.score_all(call, variables, examples[at], batch, bar.update)
                scorer.check_finite(found, [f"{split.category}/{paths[i]}" for i in at])
                for name, values in found.distances.items():
                    distances[name][at] = values
                for i, each in zip(at.tolist(), found.residuals[config.distance], strict=True):
                    area = area.seen(each)
                    if i in kept:
                        maps[i] = each.copy()
            del variables  # before the next model is made
    side = config.image_size
    shown = np.array([maps[i] for i in sorted(maps)], np.float32).reshape(-1, side, side)
    return Calibration(source, paths, distances, area, shown, seconds)


def _by_features(
    config: Config, images: np.ndarray, features: np.ndarray | None
) -> tuple[scorer.Scorer, Learn, np.ndarray]:
    """How fold models score, how they learn, and what of: features of all images, computed once,
    where the method has them apart and they can be held."""
    method = config.build()
    assert isinstance(method.learn, Fit)
    if features is None:
        learn, examples = fit.examples(method, images)
    else:
        assert method.learn.seen
        learn, examples = method.learn.seen.fit, features
    if examples is images:
        return scoring_call(config, all_distances=True), learn, images
    assert method.learn.seen
    size = (config.image_size, config.image_size)
    reduction = config.reduction(method.distances)
    return scorer.scorer(method.learn.seen.judge, reduction, size), learn, examples


def _models(
    config: Config,
    learn: Learn | None,
    examples: np.ndarray,
    trained: Trained,
    folds: Sequence[cross_fit.Fold],
) -> Iterator[tuple[np.ndarray, Variables, float]]:
    """Which of the unseen images each model scores, the model, and the seconds it took to fit."""
    if not learn:
        if len(examples):
            yield np.arange(len(examples)), trained.variables, 0.0
        return
    method = config.build()
    made = cross_fit.variables(learn, examples, folds, config.seed)
    for fold in folds:
        began = time.perf_counter()
        variables = jax.block_until_ready(jax.device_put(whole(method, next(made))))
        yield fold.own, variables, time.perf_counter() - began
        del variables
