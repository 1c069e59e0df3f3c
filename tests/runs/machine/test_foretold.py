"""How long a program will compile, by JAX's own reports of a program that is prepared."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from cae_jax.runs.machine import foretold
from cae_jax.runs.machine.foretold import CALL, STEP, Forecast

TRACED = "/jax/core/compile/jaxpr_trace_duration"
LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.fixture
def clock(monkeypatch):
    """Stands still unless `clock.now` is set, in seconds."""
    clock = SimpleNamespace(now=100.0, monotonic=lambda: clock.now)
    monkeypatch.setattr(foretold, "time", clock)
    return clock


def hear(forecast, clock, *events):
    """Events and their seconds; those after the first begin where the one before ended."""
    for event, seconds in events:
        clock.now += seconds
        forecast.hear(event, seconds, fun_name="f")


def test_a_multiple_of_what_was_traced_and_lowered(clock):
    forecast = Forecast(STEP)
    hear(forecast, clock, (TRACED, 2.0), (LOWERED, 1.0))
    assert forecast.seconds() == 0  # it could be loading from the cache
    clock.now += 2.1
    assert forecast.seconds() == 20  # 7.5 x 3 s, to 5 s
    forecast.hear(COMPILED, 20.0)
    assert forecast.seconds() == 0


def test_what_is_traced_within_counts_once(clock):
    forecast = Forecast(CALL)
    hear(forecast, clock, (TRACED, 1.0), (TRACED, 1.5))
    clock.now += 1.0
    forecast.hear(TRACED, 3.5)  # around both
    hear(forecast, clock, (LOWERED, 1.0))
    clock.now += 2.1
    assert forecast.seconds() == 25  # 5.5 x 4.5 s


def test_small_programs_before_it_and_short_ones_are_not_told(clock):
    forecast = Forecast(STEP)
    hear(forecast, clock, (TRACED, 9.0), (LOWERED, 1.0))
    forecast.hear(COMPILED, 1.0)
    hear(forecast, clock, (TRACED, 0.3), (LOWERED, 0.3))
    clock.now += 2.1
    assert forecast.seconds() == 0  # 4.5 s


def test_jax_still_reports_what_is_heard(monkeypatch):
    """Events of these names with times within those of a call, in the versions that are allowed."""
    heard = []
    monkeypatch.setattr(Forecast, "hear", lambda _, event, seconds, **__: heard.append(event))
    with foretold.heard(STEP) as seconds:
        assert seconds() == 0
        jax.jit(lambda x: jnp.sin(x) + 41.5)(jnp.ones(3))
    assert {TRACED, LOWERED, COMPILED} <= set(heard)
    assert heard.index(LOWERED) < len(heard) - 1 - heard[::-1].index(COMPILED)
    n = len(heard)
    jax.jit(lambda x: jnp.sin(x) + 42.5)(jnp.ones(3))
    assert len(heard) == n  # nobody listens any more


def test_nothing_is_foretold_elsewhere(monkeypatch):
    with foretold.heard("fit nut: compiling") as seconds:
        assert seconds is None
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with foretold.heard(STEP) as seconds:
        assert seconds is None


def test_a_clock_that_is_set_meanwhile_tells_no_hours(clock):
    forecast = Forecast(CALL)
    clock.now += 2.0
    forecast.hear(TRACED, 3600.0)
    forecast.hear(LOWERED, -3600.0)
    clock.now += 2.1
    assert forecast.seconds() == 10  # 5.5 x 2 s
