"""Programs compiled ahead, so that compiling is timed apart and several are compiled at a time."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import production, timing
from benchmarks.accelerator import peaks
from cae_jax.runs.config import Config
from cae_jax.types import Variables

_LOCK = threading.Lock()
_PATIENCE = 12.0  # seconds that repeats of one call may take, two of them excepted


class Program(NamedTuple):
    """A compiled call, and what compiling it took."""

    call: Callable[..., Any]
    about: dict[str, Any]  # seconds to trace and to compile, bytes


def program(function: Any, *args: Any) -> Program:
    """Compiles a jitted function for the arguments, which are left as they are."""
    began = time.perf_counter()
    lowered = function.lower(*args)
    traced = time.perf_counter()
    compiled = lowered.compile()
    seconds = {"trace_seconds": traced - began, "compile_seconds": time.perf_counter() - traced}
    return Program(compiled, seconds | peaks.of_program(compiled))


def repeated(call: Callable[[], object], repeats: int) -> dict[str, float]:
    """Returns seconds of a call that waits for its result: median, 95th percentile and how often.

    It is called twice before. One that takes long is not repeated as often as asked.
    """
    began = time.perf_counter()
    call()
    first = time.perf_counter() - began
    times = min(repeats, max(2, int(_PATIENCE / max(first, 1e-9))))
    seconds = timing.interleaved({timing.OURS: call}, times)[timing.OURS]
    p50, p95 = (float(each) for each in np.percentile(seconds, (50, 95)))
    return {"p50_seconds": p50, "p95_seconds": p95, "repeats": times}


def waited(call: Callable[..., Any], *args: Any) -> Callable[[], Any]:
    """Returns a call of no arguments that waits for its result."""
    return lambda: jax.block_until_ready(call(*args))


def fresh(settings: Config) -> Variables:
    """Returns `production.untrained` of resolved settings, one at a time and each kept."""
    with _LOCK:
        return _fresh(settings)


_fresh = functools.lru_cache(maxsize=32)(production.untrained)
