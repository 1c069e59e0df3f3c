"""Times a training step of several members by every strategy: what `--members=auto` rests on."""

from __future__ import annotations

import time

import numpy as np
from absl import flags

from benchmarks import options, timing
from benchmarks.member_calls import FLAGS, step_call
from cae_jax.runs import command_line
from cae_jax.runs.config import Config
from cae_jax.training import members
from cae_jax.training.schedule import STRATEGIES
from cae_jax.types import CaeError

_MEMBERS = flags.DEFINE_integer("num_members", 5, "models that train together", lower_bound=2)
_STEPS = flags.DEFINE_integer("scan", 0, "steps in one call by lax.scan; 0: a call per step", 0)
_AGREEMENT = 1e-3  # of the losses after a few steps, relative


def measure(settings: Config, n: int, scan: int, repeats: int) -> dict[str, object]:
    """Returns the record: milliseconds per step of all members by strategy, and ratios to "loop".

    Raises CaeError where the strategies' losses differ by more than rounding.
    """
    batch_size = settings.options.batch_size
    calls, compiled, losses = {}, {}, {}
    for name in STRATEGIES:
        calls[name] = step_call(settings, n, name, scan)
        began = time.perf_counter()
        calls[name]()
        compiled[name] = time.perf_counter() - began
        losses[name] = calls[name]()
    for name, found in losses.items():
        if not np.allclose(found, losses["loop"], rtol=_AGREEMENT):
            raise CaeError(f"{name}: losses {found}, but by loop {losses['loop']}")
    seconds = timing.interleaved({**calls, timing.PEAK: timing.matrix_product()}, repeats)
    steps = max(1, scan)
    per_step = {name: float(np.median(seconds[name])) * 1e3 / steps for name in calls}
    return {
        "model": settings.options.model,
        "num_members": n,
        "batch_size": batch_size,
        "steps_per_call": steps,
        "ms_per_step_of_all": per_step,
        "patches_per_second": {k: 1e3 * n * batch_size / each for k, each in per_step.items()},
        "first_call_seconds": compiled,
        "faster_than_loop": {name: per_step["loop"] / each for name, each in per_step.items()},
        "default": members.default_plan("auto", n, batch_size).strategy,
        "best": min(per_step, key=per_step.get),
        **timing.environment(),
    }


def run() -> None:
    """Measures the flags' model."""
    settings, repeats = options.training_config(), command_line.value("repeats")
    options.finish([measure(settings, _MEMBERS.value, _STEPS.value, repeats)])


if __name__ == "__main__":
    options.define(repeats=5)
    command_line.main(run, FLAGS)
