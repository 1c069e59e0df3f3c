"""What thresholds are picked on: the scores of good images by a model that has not seen them."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np

from cae_jax.evaluation import finite
from cae_jax.evaluation.segmentation import MinimumArea
from cae_jax.evaluation.thresholds import OUT_OF_FOLD, VALIDATION_GOOD
from cae_jax.runs.build import scoring_call
from cae_jax.runs.config import Config
from cae_jax.runs.machine.foretold import CALL
from cae_jax.runs.machine.progress import Bar
from cae_jax.runs.train import Trained, whole
from cae_jax.scoring import scorer
from cae_jax.scoring.intensity import all_even
from cae_jax.training import cross_fit, fit
from cae_jax.types import Array, Fit, Images, Split, Variables, height_width

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
    rows: np.ndarray  # int [k]: which of them these are of
    images: Images  # float32 [n, H, W, C]: of the split
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
    given = split.seen(images, paths)
    by = _Judging(scoring_call(config, all_distances=True), given)
    if folds:
        by = _of_folds(config, images, given, trained.features)
    distances = {name: np.zeros(len(paths), np.float32) for name in config.build().distances}
    kept = {int(i) for i in np.linspace(0, len(paths) - 1, _KEPT)} if paths else set()
    maps = {}
    area, seconds = MinimumArea(config.smallest_defect, config.opening), 0.0
    what = f"{len(folds)} folds" if folds else "validation"
    with Bar(f"score {config.category} {what}", len(paths), "images", first=CALL) as bar:
        for rows, variables, took in _models(config, by, trained, folds):
            seconds += took
            for at in np.split(rows, range(_AT_ONCE, len(rows), _AT_ONCE)):
                batch = scorer.default_batch_size()
                found = scorer.score_all(by.call, variables, by.given[at], batch, bar.update)
                finite.check_finite(found, [f"{split.category}/{paths[i]}" for i in at])
                for name, values in found.distances.items():
                    distances[name][at] = values
                for i, each in zip(at.tolist(), found.residuals[config.distance], strict=True):
                    area = area.seen(each)
                    if i in kept:
                        maps[i] = each.copy()
            del variables  # before the next model is made
    size = height_width(config.image_size)
    rows = np.array(sorted(maps), int)
    shown = np.array([maps[i] for i in rows], np.float32).reshape(-1, *size)
    return Calibration(source, paths, distances, area, shown, rows, images, seconds)


class _Judging(NamedTuple):
    """How unseen images are scored, and how fold models learn."""

    call: scorer.Scorer
    given: Images  # what it is given, [n, ...]: the images, or their features
    learn: Learn | None = None  # None where there are no folds
    examples: Array | Images | None = None  # what is learned of, [n, ...]


def _of_folds(
    config: Config, images: Images, given: Images, features: np.ndarray | None
) -> _Judging:
    """By features of all images, computed once, where the method has them apart and they can be
    held; else by the images. What of these counts is judged by the images as they are `given`."""
    method = config.build()
    assert isinstance(method.learn, Fit)
    if features is None:
        even = all_even(images, config.intensity, given)
        learn, examples = fit.examples(method, even)
        if examples is even:
            return _Judging(scoring_call(config, all_distances=True), given, learn, even)
        features = np.asarray(examples)
    assert method.learn.seen
    if given is not images:
        call = scoring_call(config, all_distances=True)
        return _Judging(call, given, method.learn.seen.fit, features)
    size = height_width(config.image_size)
    call = scorer.scorer(method.learn.seen.judge, config.reduction(method.distances), size=size)
    return _Judging(call, features, method.learn.seen.fit, features)


def _models(
    config: Config, by: _Judging, trained: Trained, folds: Sequence[cross_fit.Fold]
) -> Iterator[tuple[np.ndarray, Variables, float]]:
    """Which of the unseen images each model scores, the model, and the seconds it took to fit."""
    if by.learn is None or by.examples is None:
        if len(by.given):
            yield np.arange(len(by.given)), trained.variables, 0.0
        return
    method = config.build()
    made = cross_fit.variables(by.learn, by.examples, folds, config.seed)
    for fold in folds:
        began = time.perf_counter()
        variables = jax.block_until_ready(jax.device_put(whole(method, next(made))))
        yield fold.own, variables, time.perf_counter() - began
        del variables
