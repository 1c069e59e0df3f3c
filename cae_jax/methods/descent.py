"""What every method that learns by steps may do with its optimiser: schedules, clipping, averages.

All of it is off unless asked for, and then the optimiser and its state are the method's own.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cae_jax.methods.options.descent import CONSTANT, OF_OPTAX, PIECEWISE, Descent
from cae_jax.options import pairs
from cae_jax.types import Metrics, State, Steps, UsageError, unknown_name

_WARMUP = 0.05  # share of the steps
_LOOKED_AT = 10_000  # steps at most, evenly spaced, at which a schedule is tried
_LAST = 2**31 - 1  # a step's number has 32 bits


class Live(NamedTuple):
    """Beside averaged parameters: those that learn, and their optimiser's state."""

    params: Any
    opt_state: Any


def guided(
    tx: optax.GradientTransformation, o: Descent, steps: int
) -> optax.GradientTransformation:
    """Returns a network's optimiser with clipping before it and the schedule after it.

    A schedule multiplies what the optimiser would do, its own schedule included, so it is one of
    the learning rate. The gradient is cut before L2 is added to it, as PyTorch's users do.

    Args:
      tx: the method's own.
      o: without a schedule and a clip `tx` itself is returned.
      steps: updates of this network, in all.

    Raises:
      UsageError: options that optax's schedule does not have, or that cannot work.
    """
    parts = [tx]
    if o.gradient_clip:
        parts.insert(0, optax.clip_by_global_norm(o.gradient_clip))
    if (rate := factor(o, steps)) is not None:
        parts.append(optax.scale_by_schedule(rate))
    return optax.chain(*parts) if len(parts) > 1 else tx


def factor(o: Descent, steps: int) -> optax.Schedule | None:
    """Returns the share of the learning rate by step, from 0 on; None where it is always 1.

    Raises UsageError as `guided`.
    """
    given = pairs("schedule_options", o.schedule_options)
    if o.schedule == CONSTANT:
        if given:
            raise _refused(o, f"--schedule={CONSTANT} has none")
        return None
    if o.schedule == PIECEWISE:
        return _checked(o, optax.piecewise_constant_schedule(1.0, _drops(o, given, steps)), steps)
    name, defaults = OF_OPTAX[o.schedule]
    make: Callable[..., optax.Schedule] = getattr(optax, name)
    known = {**inspect.signature(make).parameters}
    arguments = {
        name: {"steps": max(1, steps), "warmup": max(1, round(_WARMUP * steps))}.get(value, value)
        for name, value in defaults.items()
    }
    for name, text in given.items():
        if name not in known:
            raise unknown_name(f"option of --schedule={o.schedule}", name, known)
        arguments[name] = _number(o, name, text)
    for name in ("transition_steps", "decay_rate"):
        if arguments.get(name) == 0:  # of which optax makes a rate that stays as it is
            raise _refused(o, f"{name} must be above 0")
    if arguments.get("pct_start", 0) >= 1:  # where it would never rise
        raise _refused(o, "pct_start must be below 1")
    try:
        return _checked(o, make(**arguments), steps)
    except (ValueError, ZeroDivisionError) as error:
        raise _refused(o, str(error).rstrip(".")) from error


def averaged(learn: Steps, o: Descent) -> Steps:
    """Returns how a method learns where an average of its parameters is validated, kept and scored.

    average += (1 - d) (parameters - average) after each step, with d the smaller of the decay and
    (1 + n) / (10 + n) after n steps, so that the first parameters are soon forgotten. The other
    variables, such as the statistics of batch normalisation, are those of the parameters that
    learn, which the checkpoint holds besides.

    Raises UsageError for a decay of 1, with which nothing would ever be learned.
    """
    if not o.ema:
        return learn
    if o.ema >= 1:
        raise UsageError(f"--ema={o.ema}: must be below 1")

    def init(key: jax.Array) -> State:
        state = learn.init(key)
        own = jax.tree.map(jnp.array, state.variables["params"])  # apart: both are donated
        return state._replace(opt_state=Live(own, state.opt_state))

    def step(state: State, crops: jax.Array) -> tuple[State, Metrics]:
        average, (params, opt_state) = state.variables["params"], state.opt_state
        variables = {**state.variables, "params": params}
        now, metrics = learn.step(state._replace(variables=variables, opt_state=opt_state), crops)
        share = 1 - jnp.minimum(o.ema, (1 + now.step) / (10 + now.step))
        params = now.variables["params"]
        average = jax.tree.map(lambda old, new: old + share * (new - old), average, params)
        variables = {**now.variables, "params": average}
        return now._replace(variables=variables, opt_state=Live(params, now.opt_state)), metrics

    return learn._replace(init=init, step=step)


def _checked(o: Descent, rate: optax.Schedule, steps: int) -> optax.Schedule:
    """The schedule; raises UsageError where a share is negative or not finite, or all are 0."""
    at = np.unique(np.linspace(0, max(0, steps - 1), _LOOKED_AT).astype(np.int32))
    with jax.ensure_compile_time_eval():  # some methods make their optimiser as they are traced
        shares = np.asarray(jax.vmap(rate)(at))
    if not ((shares >= 0) & (shares < np.inf)).all():
        raise _refused(o, "the learning rate would be negative, or not finite")
    if steps and not shares.any():
        raise _refused(o, "the learning rate would be 0 at every step")
    return rate


def _drops(o: Descent, given: Mapping[str, str], steps: int) -> dict[int, float]:
    """At which steps the rate is multiplied, and by what: a tenth at 1/2 and 3/4 unless given."""
    if not given:
        return {round(share * steps): 0.1 for share in (0.5, 0.75)}
    for at in given:
        if not at.isdecimal():
            raise _refused(o, "expected STEP=SCALE, a whole number and a factor, with commas")
        if int(at) > _LAST:
            raise _refused(o, f"a step is at most {_LAST}")
    return {int(at): float(_number(o, at, scale)) for at, scale in given.items()}


def _number(o: Descent, name: str, text: str) -> Any:
    """A whole number where the name is of steps, a yes or no of a staircase, else a number."""
    kind = int if name.endswith("_steps") or name == "transition_begin" else float
    if name == "staircase" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    try:
        value = kind(text)
    except ValueError:
        raise _refused(o, f"{name} takes a number, got {text!r}") from None
    if not 0 <= value < float("inf"):
        raise _refused(o, f"{name} must be at least 0, and finite")
    if kind is int and value > _LAST:
        raise _refused(o, f"{name} must be at most {_LAST}")
    return value


def _refused(o: Descent, why: str) -> UsageError:
    return UsageError(f"--schedule_options={o.schedule_options}: {why}")
