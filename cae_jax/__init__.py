"""Unsupervised anomaly detection for manufacturing, in JAX."""

from __future__ import annotations

import os
import typing

if typing.TYPE_CHECKING:
    from cae_jax.serving.detector import Detector


def load(
    workdir: str | os.PathLike[str],
    percent: int | None = None,
    false_alarms: float | None = None,
    **which: typing.Any,
) -> Detector:
    """Returns a trained run of a workdir, ready to score images; see `serving.detector.load`."""
    from cae_jax.serving import detector

    return detector.load(workdir, percent, false_alarms, **which)
