"""Steps of several members by a strategy, some in one call, as they train on an accelerator."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.accelerator import programs
from benchmarks.member_calls import step_call
from cae_jax.runs.config import configure

TOGETHER = 1  # what does not fit into memory takes no other with it


def prepare(given: Mapping[str, Any], scratch: Path) -> Callable[[], dict[str, Any]]:
    """Returns what compiles and times the steps."""
    settings = configure(**given["flags"], stride=1).resolved()
    n, scan = given["members"], given["scan"]

    def measure() -> dict[str, Any]:
        call = step_call(settings, n, given["strategy"], scan)
        began = time.perf_counter()
        losses = call()
        first = time.perf_counter() - began
        found = programs.repeated(call, given["repeats"])
        per_step = found["p50_seconds"] / scan
        return {
            **{"model": settings.options.model, "members": n, "strategy": given["strategy"]},
            **{"batch_size": settings.options.batch_size, "steps_per_call": scan},
            **{"first_call_seconds": first, "compile_seconds": first - found["p50_seconds"]},
            **{**found, "ms_per_step_of_all": 1e3 * per_step},
            "patches_per_second": n * settings.options.batch_size / per_step,
            "losses": losses[:5],
        }

    return measure
