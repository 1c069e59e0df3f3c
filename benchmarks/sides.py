"""Two sides of one method on the same images: what both find, how far apart, and what it takes."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from scipy import stats

from benchmarks import timing
from cae_jax.evaluation.metrics import image_auroc
from cae_jax.evaluation.pixel_metrics import pixel_auroc
from cae_jax.runs import build
from cae_jax.runs.config import Config
from cae_jax.runs.train import whole
from cae_jax.scoring.intensity import all_even
from cae_jax.training.fit import fit
from cae_jax.types import Split, Variables, unknown_name

ANOMALIB = "anomalib"
# What anomalib's twin of a method has, where ours would have something else unless told.
AS_THEIRS: Mapping[str, Mapping[str, Any]] = {
    "gaussian": {"neighborhood": 1, "shrinkage": 0.01 + 1e-5},
    "feature_memory": {"candidates": 2**31 - 1},
}
_EQUAL = ("stages", "neighborhood", "shrinkage", "coreset", "candidates")  # what a record tells


class Detector(Protocol):
    """What learns good images float32 [n, H, W, C] of NumPy and scores others, of both sides."""

    def fit(self, images: np.ndarray) -> object:
        """Learns them, anew with each call, and waits."""

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the images' numbers [B] and their maps [B, H, W]."""


class Twin(Protocol):
    """The other side: `engines.anomalib_twin`."""

    def detector(self, settings: Config) -> Detector:
        """Returns the twin of the settings' method; raises UsageError where it has none."""

    def same(
        self, settings: Config, variables: Variables, train: np.ndarray, test: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Returns "map" [m, h, w], and "score" [m] or not, of a twin equal to ours in all."""


class Ours:
    """A method of this project as a `Detector`."""

    def __init__(self, settings: Config) -> None:
        """Takes resolved settings."""
        self._settings, self._method = settings, settings.build()
        self._score = build.scoring_call(settings)
        self.variables: Variables = {}

    def fit(self, images: np.ndarray) -> None:
        """Learns them as experiments do."""
        learned = jax.block_until_ready(fit(self._method, images, self._settings.seed))
        self.variables = jax.device_put(whole(self._settings.build(), learned))

    def score(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scores them as experiments do, in one call."""
        found, name = jax.device_get(self._score(self.variables, images)), self._settings.distance
        return found.distances[name], found.residuals[name]

    def same(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """Returns "map" before it is resized and smoothed, and "score" where the method has one."""
        name, inspect, parts = self._settings.distance, jax.jit(self._method.inspect), []
        for image in images:
            found = inspect(self.variables, image[None])
            numbers = {"score": found.numbers[name]} if name in found.numbers else {}
            parts.append({"map": found.maps[name], **numbers})
        return {what: np.concatenate([part[what] for part in parts]) for what in parts[0]}


def equal_settings(given: Config) -> Config:
    """Returns the record with what both sides have, resolved; raises UsageError for a method
    without a twin."""
    if given.method not in AS_THEIRS:
        raise unknown_name("--method beside anomalib", given.method, AS_THEIRS)
    return given.changed(**AS_THEIRS[given.method]).resolved()


def measure(
    settings: Config, split: Split, twin: Twin, batches: list[int], repeats: int, fits: int
) -> dict[str, Any]:
    """Returns the record of one category.

    Args:
      settings: of `equal_settings`.
      split: its images; they are made even before, so that no side spends time on it.
      twin: the other side.
      batches: images a call.
      repeats: timed calls of each side and batch size.
      fits: timed fits of each side, after the first one.
    """
    before = os.getloadavg()[0]
    train, test = (all_even(x, settings.intensity) for x in (split.train, split.test))
    s = settings.changed(intensity="none")
    ours = Ours(s)
    sides: dict[str, Detector] = {timing.OURS: ours, ANOMALIB: twin.detector(s)}
    learning = {name: functools.partial(side.fit, train) for name, side in sides.items()}
    first = {name: _seconds(call) for name, call in learning.items()}
    again = _by_turns(learning, fits, warm=True)
    scores, calls = {name: _one_by_one(side, test) for name, side in sides.items()}, []
    for batch in batches:
        some = test[np.arange(batch) % len(test)]
        scoring = {name: functools.partial(side.score, some) for name, side in sides.items()}
        calls.append({"batch_size": batch, **_by_turns(scoring, repeats)})
    theirs = twin.same(s, ours.variables, train, test)
    return {
        **{"method": s.method, "category": split.category, "image_size": s.image_size},
        **{"channels": s.channels, "intensity": settings.intensity, "seed": s.seed},
        **{"n_train": len(train), "n_test": len(test)},
        **{name: getattr(s.options, name) for name in _EQUAL if hasattr(s.options, name)},
        **found(split, scores[timing.OURS], scores[ANOMALIB]),
        "same": _apart(ours.same(test), theirs),
        "first_fit_seconds": first,
        "fit": again,
        "scoring": calls,
        "load": [before, os.getloadavg()[0]],
    }


def found(
    split: Split,
    ours: tuple[np.ndarray, np.ndarray],
    theirs: tuple[np.ndarray, np.ndarray],
) -> dict[str, Any]:
    """Returns what both sides' numbers [m] and maps [m, H, W] of the test images are worth, and
    how alike they rank the images: Spearman's correlation."""
    known = split.has_mask
    auroc = [image_auroc(split.labels, numbers) for numbers, _ in (ours, theirs)]
    pixels = [pixel_auroc(split.masks[known], maps[known]) for _, maps in (ours, theirs)]
    return {
        "image_auroc": _both(*auroc),
        "pixel_auroc": _both(*pixels),
        "rank_correlation": float(stats.spearmanr(ours[0], theirs[0]).statistic),
    }


def _both(ours: float, theirs: float) -> dict[str, float]:
    return {timing.OURS: ours, ANOMALIB: theirs, "difference": ours - theirs}


def _apart(ours: Mapping[str, np.ndarray], theirs: Mapping[str, np.ndarray]) -> dict[str, float]:
    """The largest difference of each array over its largest value."""
    if ours.keys() != theirs.keys():
        raise ValueError(f"ours has {', '.join(ours)}, theirs {', '.join(theirs)}")
    return {
        what: float(np.max(np.abs(mine - theirs[what])) / np.max(np.abs(mine)))
        for what, mine in ours.items()
    }


def _one_by_one(side: Detector, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    numbers, maps = zip(*(side.score(image[None]) for image in images), strict=True)
    return np.concatenate(numbers), np.concatenate(maps)


def _by_turns(
    calls: Mapping[str, Callable[[], object]], repeats: int, warm: bool = False
) -> dict[str, Any]:
    """Medians of the calls' seconds, theirs over ours, and medians of the processor's seconds: what
    other programs on a busy machine take has less of a part in those."""
    spent: dict[str, list[float]] = {name: [] for name in calls}

    def counted(name: str) -> None:
        began = time.process_time()
        calls[name]()
        spent[name].append(time.process_time() - began)

    each = {name: functools.partial(counted, name) for name in calls}
    took = timing.interleaved(each, repeats, warm)
    return {
        "seconds": {name: float(np.median(took[name])) for name in calls},
        "ratio": timing.ratios(took)[ANOMALIB],
        "cpu_seconds": {name: float(np.median(spent[name][-repeats:])) for name in calls},
    }


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
