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
    **which: typing.Any,
) -> Detector:
    """Returns a detector, ready to score images: an exported folder's, or a trained run's.

    Args:
      folder: what `experiments.export` wrote, which is loaded without any of the code that trained
        it, see `serving.exported.load`; or the workdir of `experiments.run`, see
        `serving.trained.open_run`.
      percent: for another threshold than the run's own, see `serving.trained.open_run`.
      false_alarms: the same by a rate, see there.
      which: of an exported folder `runtime`, "jax" or "onnxruntime"; of a workdir flags by name
        that say which run.

    Raises:
      UsageError: what was asked for cannot work.
      DataError: a file of the folder is missing, altered or cannot be read.
    """
    if os.path.exists(os.path.join(folder, "model.json")):
        from cae_jax.serving import exported
        from cae_jax.types import UsageError

        if others := which.keys() - {"runtime"}:
            raise UsageError(
                f"{folder}: an exported folder is one model; {min(others)}= is of runs"
            )
        return exported.load(folder, percent, false_alarms, **which)
    from cae_jax.serving import trained

    return trained.load(folder, percent, false_alarms, **which)
