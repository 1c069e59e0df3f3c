"""Unsupervised anomaly detection for manufacturing, in JAX."""

from __future__ import annotations

import os
import typing

__version__ = "0.1.0"

if typing.TYPE_CHECKING:
    from cae_jax.serving.detector import Detector


def load(
    folder: str | os.PathLike[str],
    percent: int | None = None,
    false_alarms: float | None = None,
    threshold: str | None = None,
    checkpoint: str | None = None,
    **which: typing.Any,
) -> Detector:
    """Returns a detector, ready to score images: an exported folder's, or a trained run's.

    Args:
      folder: what `experiments.export` wrote, which is loaded without any of the code that trained
        it, see `serving.exported.load`; or the workdir of `experiments.run`, see
        `serving.trained.open_run`.
      percent: for another threshold than the run's own, see `serving.trained.open_run`.
      false_alarms: the same by a rate, see there.
      threshold: the same by a rule, as in "percent:95", see there.
      checkpoint: of a workdir "last" or "best", see there.
      which: of an exported folder `runtime`, "jax" or "onnxruntime"; of a workdir flags by name
        that say which run.

    Raises:
      UsageError: what was asked for cannot work.
      DataError: a file of the folder is missing, altered or cannot be read.
    """
    # one of them alone is of a folder that has lost the other, which is told there
    if any(os.path.exists(os.path.join(folder, name)) for name in ("model.json", "SHA256SUMS")):
        from cae_jax.serving import exported
        from cae_jax.types import UsageError

        if others := which.keys() - {"runtime"}:
            raise UsageError(
                f"{folder}: an exported folder is one model; {min(others)}= is of runs"
            )
        if checkpoint is not None:
            raise UsageError(f"{folder}: an exported folder is one model; checkpoint= is of runs")
        return exported.load(folder, percent, false_alarms, threshold, **which)
    from cae_jax.serving import trained

    return trained.load(folder, percent, false_alarms, threshold, checkpoint, **which)


def detector(
    variables: dict[str, typing.Any],
    unseen: typing.Any,
    *,
    percent: int | None = None,
    false_alarms: float | None = None,
    **flags: typing.Any,
) -> Detector:
    """Returns a detector of a method and variables of one's own, its threshold picked on good
    images that were not learned from; takes and raises what `serving.own.detector` does."""
    from cae_jax.serving import own

    return own.detector(variables, unseen, percent=percent, false_alarms=false_alarms, **flags)
