"""Times a training step: crops in, the metrics out, as `cae_jax.training.loop` takes it.

--help --method=NAME lists the flags of that method, which learns by steps.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks import engines, networks, options, timing
from benchmarks.production import Training, training
from cae_jax.options import fields
from cae_jax.runs import command_line, shared

# What a step knows nothing of: which images, where to, how scores are made of what it learns.
_KEPT = {"image_size", "channels"}
_BUT = {*fields(shared.Images, shared.Output, shared.Scoring), "stride"} - _KEPT
_IMAGES = 64  # that the crops come from
_ENGINES = ("torch",)
_THESIS_EPOCHS = 200


def measure(
    ready: Training, repeats: int, against: Sequence[str], profile_dir: str = ""
) -> dict[str, object]:
    """Returns the record: what a step costs, what an epoch with its input costs, and ratios.

    A step cuts its crops on the device and ends with the metrics on the host; drawing an epoch's
    crops is timed apart and counted into the epoch. Of a method with a network of layer tables the
    record says how fast that computes. Raises CaeError where an engine's first step is another than
    ours, UsageError where it has no twin.
    """
    o = ready.settings.options
    calls = {timing.OURS: ready.call, timing.PEAK: timing.matrix_product()}
    theirs, errors = {}, {}
    if against:
        from benchmarks.engines import compare  # needs torch

        theirs, errors = compare.training(against, ready)
    seconds = timing.interleaved({**calls, **theirs}, repeats)
    options.trace(ready.call, profile_dir)
    p50, p95 = (float(each) for each in np.percentile(seconds[timing.OURS], (50, 95)))
    epoch = p50 * len(ready.crops) + ready.crops_seconds
    return {
        "method": ready.settings.method,
        "model": ready.settings.label,
        "batch_size": o.batch_size,
        "num_patches": o.num_patches,
        "first_call_seconds": ready.first_call_seconds,
        "compile_seconds": ready.first_call_seconds - p50,
        "p50_ms_per_step": p50 * 1e3,
        "p95_ms_per_step": p95 * 1e3,
        "crops_ms_per_epoch": ready.crops_seconds * 1e3,
        "patches_per_second": len(ready.crops) * o.batch_size / epoch,
        "seconds_per_epoch": epoch,
        "seconds_per_200_epochs": epoch * _THESIS_EPOCHS,
        **networks.of_step(ready.settings, seconds),
        "peak_memory_mb": ready.peak_memory_mb,
        "ratio": timing.ratios(seconds),
        "milliseconds": timing.milliseconds(seconds),
        "errors": errors,
        **timing.environment(engines.packages(against)),
    }


def run() -> None:
    """Measures the step of the flags."""
    settings, against = options.training_config(), options.against(_ENGINES)
    repeats, profile_dir = (command_line.value(name) for name in ("repeats", "profile_dir"))
    ready = training(settings, _IMAGES)
    options.finish([measure(ready, repeats, against, profile_dir)])


if __name__ == "__main__":
    options.define(_ENGINES)
    command_line.main(run, but=_BUT)
