"""A detector of variables that somebody has in hand, without a run and its folder."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from cae_jax.data.arrays import images_of
from cae_jax.evaluation import finite, thresholds, verdict
from cae_jax.evaluation.segmentation import MinimumArea
from cae_jax.reports import rules
from cae_jax.runs.build import scoring_call
from cae_jax.runs.config import Config, configure
from cae_jax.runs.machine.progress import say
from cae_jax.runs.train import whole
from cae_jax.scoring import scorer
from cae_jax.serving.detector import Detector, Model, claim_jax
from cae_jax.types import DataError, Images, Scores, UsageError, Variables, size_of

_OF_IMAGES = ("image_size", "channels", "dataset")


def detector(
    variables: Variables,
    unseen: Any,
    *,
    percent: int | None = None,
    false_alarms: float | None = None,
    **flags: Any,
) -> Detector:
    """Returns a detector of a method and what it has learned, with a threshold.

    Args:
      variables: what the method learned: `loop.Progress.state.variables`, what `fit.fit` returned,
        or `train.load_trained(...).variables`. Pretrained weights need not be among them.
      unseen: good images that were not learned from, as `data.arrays.split` takes them: the
        threshold is picked on them, and they say the size and channels of all images.
      percent: the share of them, 1..100, that is called good; 90 if neither it nor a rate is given.
      false_alarms: the rate up to 0.5 that the threshold is for.
      flags: of the method and of scoring by name, as the variables were learned with:
        `method="gaussian"`, `intensity="median"`, `distance="ssim"`.

    Raises:
      UsageError: flags that cannot work, a percent and a rate; a fork of a process that uses JAX.
      DataError: images that cannot be used, none, or variables that are not this method's.
      CaeError: a score is not finite.
    """
    good = images_of("unseen", unseen, flags.get("bit_depth", "auto"))
    if not len(good):
        raise DataError("unseen: holds no image, so there is no threshold")
    config = _config(good, flags)
    claim_jax()
    method, score = config.build(), scoring_call(config)
    held = jax.device_put(whole(method, variables))
    _check(score, held, good, config.method)
    found = scorer.score_all(score, held, good, scorer.default_batch_size())
    finite.check_finite(found, [f"unseen image {i}" for i in range(len(good))])
    area, maps = MinimumArea(config.smallest_defect, config.opening), found.residuals
    for each in maps[config.distance]:
        area = area.seen(each)
    judge = verdict.asked(
        "this detector",
        np.empty(0),
        found.distances[config.distance].astype(np.float64),
        [{"rule": "min_area", "threshold": area.threshold}],
        thresholds.VALIDATION_GOOD,
        config.false_alarms,
        percent,
        false_alarms,
    )
    for said in rules.warnings(judge.threshold):
        say(f"warning: {config.title}: {said}")

    def call(images: np.ndarray) -> Scores[np.ndarray]:
        return jax.device_get(score(held, images))

    again = {"variables": jax.device_get(variables), "unseen": good, **flags}
    again |= {"percent": percent, "false_alarms": false_alarms}
    return Detector(_model(config, maps[config.distance]), judge, call, (detector, again))


def _config(images: Images, flags: dict[str, Any]) -> Config:
    """The record of flags by name, beside those that the images answer."""
    for name in _OF_IMAGES:
        if name in flags:
            raise UsageError(f"{name}: is that of the images; leave it out of the flags")
    _, height, width, channels = images.shape
    size = size_of(height, width)
    flags = {**flags, "bit_depth": str(flags.get("bit_depth", "auto"))}  # images take a number too
    return configure(image_size=size, channels=channels, dataset="arrays", **flags).resolved()


def _model(config: Config, maps: np.ndarray) -> Model:
    """What it is of; the colors of a map reach to the largest value of `maps`, of good images."""
    return Model(
        title=config.title,
        category="",
        method=config.method,
        version="",
        image_size=config.image_size,
        channels=config.channels,
        distance=config.distance,
        opening=config.opening,
        scale=float(maps.max()),
        runtime="jax",
        card={},
        looks=config.bare_frame,
    )


def _check(score: scorer.Scorer, variables: Variables, images: Images, method: str) -> None:
    """Raises DataError where the method cannot score by these variables: of another one, or of
    other options or sizes."""
    one = jax.ShapeDtypeStruct((1, *images.shape[1:]), np.float32)
    try:
        jax.eval_shape(score, variables, one)
    except Exception as error:  # Flax and JAX raise many kinds, at length
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DataError(
            f"variables: not of --method={method} with these flags and images "
            f"{list(images.shape[1:])}: {type(error).__name__}: {cause}"
        ) from error
