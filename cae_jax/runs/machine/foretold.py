"""How long a program will compile, told by how long JAX took to trace and lower it.

On a CPU the one is about proportional to the other. A program from the compilation cache is loaded
in less than SETTLED, so that what is still under way by then is being compiled.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

STEP = "compiling the training step"
CALL = "compiling the scoring call"
INITIAL = "compiling the first state of the network"
_TIMES = {STEP: 7.5, CALL: 5.5, INITIAL: 14.0}  # tracing and lowering; measured on two cores
_TRACED = "/jax/core/compile/jaxpr_trace_duration"
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_COMPILED = "/jax/core/compile/backend_compile_duration"  # also what was in the cache
SETTLED = 2.0  # seconds after lowering
_LEAST, _EVEN = 5.0, 5  # seconds: of less nothing is told, and what is told is a multiple


class Forecast:
    """Hears JAX prepare programs; knows of the last one how long it will compile."""

    def __init__(self, what: str) -> None:
        """`what` is one of the programs of this file."""
        self._times = _TIMES[what]
        self._spans: list[tuple[float, float]] = []  # begin and seconds, of the program to come
        self._lowered: float | None = None
        self._began = time.monotonic()

    def hear(self, event: str, duration_secs: float, **_: Any) -> None:
        """Takes a duration of `jax.monitoring`, which has just ended."""
        now = time.monotonic()
        # by a clock of JAX's that may be set meanwhile
        seconds = min(max(duration_secs, 0.0), now - self._began)
        if event == _COMPILED:
            self._spans, self._lowered = [], None
        elif event in (_TRACED, _LOWERED):
            # a function traced within another one is part of its time
            before = [span for span in self._spans if span[0] < now - seconds]
            self._spans = [*before, (now - seconds, seconds)]
            self._lowered = now if event == _LOWERED else None

    def seconds(self) -> int:
        """Returns the seconds that compiling will take, 0 where nothing can be told (yet)."""
        lowered, spans = self._lowered, self._spans
        if lowered is None or time.monotonic() - lowered < SETTLED:
            return 0
        found = self._times * sum(seconds for _, seconds in spans)
        return _EVEN * round(found / _EVEN) if found >= _LEAST else 0


@contextlib.contextmanager
def heard(what: str) -> Iterator[Callable[[], int] | None]:
    """Yields `Forecast.seconds` of what is compiled while the block runs; None for what is no
    program of this file, and on other devices than CPUs."""
    import jax  # here: a --help is read without it

    if what not in _TIMES or jax.default_backend() != "cpu":
        yield None
        return
    forecast = Forecast(what)
    jax.monitoring.register_event_duration_secs_listener(forecast.hear)
    try:
        yield forecast.seconds
    finally:
        with contextlib.suppress(AssertionError, ValueError):  # a host program cleared all of them
            jax.monitoring.unregister_event_duration_listener(forecast.hear)
