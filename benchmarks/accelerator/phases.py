"""Other methods: the steps of each phase, alone and of members by vmap, a fit, the scoring call.

f_anogan's phases stand in a `lax.cond`, of which vmap computes both sides and selects.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.accelerator import features, programs
from cae_jax.runs.config import Config, configure
from cae_jax.training import loop, members
from cae_jax.training.members import Plan, compile_step
from cae_jax.types import Steps

TOGETHER = 1  # these are few, and unlike
_IMAGES = 16


def prepare(given: Mapping[str, Any], scratch: Path) -> Callable[[], dict[str, Any]]:
    """Returns what times a method's learning and its calls."""
    settings = configure(**given["flags"]).resolved()

    def measure() -> dict[str, Any]:
        if "members" in given:
            found = _steps(settings, given["members"], given["scan"], given["repeats"])
        elif isinstance(settings.build().learn, Steps):
            variables = jax.device_put(programs.fresh(settings))
            found = {"calls": features.calls(settings, variables, given)}
        else:
            return features.prepare(given, scratch)()
        return {**features.about(settings), **found}

    return measure


def _steps(settings: Config, n: int, scan: int, repeats: int) -> dict[str, Any]:
    """What a step of n members takes, by vmap where they are several, at each phase's start."""
    learn, plan = settings.build().learn, Plan("vmap" if n > 1 else "loop", True)
    rng, p = np.random.default_rng(settings.seed), learn.patch_size
    images = members.place_images(rng.random((_IMAGES, p, p, settings.channels), np.float32), plan)
    crops = np.zeros((scan, n, settings.options.batch_size, 3), np.int32)
    crops[..., 0] = rng.integers(0, _IMAGES, crops.shape[:-1])
    crops = members.place_crops(crops if plan.stacked else crops[:, 0], plan)
    states = [loop.fresh_state(learn, settings.seed + i) for i in range(n)]
    state = members.place_state(members.stack(states) if plan.stacked else states[0], plan)
    compiled = programs.program(compile_step(learn, plan), state, images, crops)
    found: dict[str, Any] = {"members": n, "steps_per_call": scan, **compiled.about}
    for phase, step in _phases(settings).items():
        at = [state._replace(step=jnp.full_like(state.step, step))]

        def call(at: list = at, step: int = step) -> None:
            # the phase's start again each time, or a long measurement would run into the next one
            at[0], metrics = compiled.call(at[0], images, crops)
            at[0] = at[0]._replace(step=jnp.full_like(at[0].step, step))
            jax.block_until_ready((at[0], metrics))

        seconds = programs.repeated(call, min(5, repeats))["p50_seconds"]
        found[f"{phase}_ms_per_step_of_all"] = 1e3 * seconds / scan
        state = at[0]
    return found


def _phases(settings: Config) -> dict[str, int]:
    """The first steps of the phases that a method learns in, by name."""
    first = getattr(settings.options, "gan_steps", None)
    return {"learning": 0} if first is None else {"gan": 0, "encoder": first}
