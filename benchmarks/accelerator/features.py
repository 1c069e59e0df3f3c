"""Methods that learn in one pass: the fit, and the scoring call on what it learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks import production
from benchmarks.accelerator import inference, peaks, programs
from cae_jax.runs.config import Config, configure
from cae_jax.runs.train import whole
from cae_jax.training.checkpoints import FROZEN
from cae_jax.types import Variables

TOGETHER = 1  # a fit is not to be timed beside another's compilation


def prepare(given: Mapping[str, Any], scratch: Path) -> Callable[[], dict[str, Any]]:
    """Returns what fits a method to random images, which times the fit, and times its calls."""
    settings = configure(**given["flags"]).resolved()

    def measure() -> dict[str, Any]:
        found, variables = fitted(settings, given["images"])
        return {**about(settings), **found, "calls": calls(settings, variables, given)}

    return measure


def about(settings: Config) -> dict[str, Any]:
    """Returns what a record says of the method, with the features it learns, if they are named."""
    features = getattr(settings.options, "features", None)
    return {"method": settings.method, **({"features": features} if features else {})}


def fitted(settings: Config, n_images: int) -> tuple[dict[str, Any], Variables]:
    """Returns what a fit takes, and the scoring call's variables; see `production.fitting`."""
    ready = production.fitting(settings, n_images)
    again = programs.repeated(ready.call, 2)
    variables = whole(settings.build(), ready.variables)
    return {
        "images": n_images,
        "first_fit_seconds": ready.first_call_seconds,
        "compile_seconds": ready.first_call_seconds - again["p50_seconds"],
        "fit_seconds": again["p50_seconds"],
        "variables_bytes": production.size_of({k: v for k, v in variables.items() if k != FROZEN}),
        **{f"fit_{name}": value for name, value in peaks.memory().items()},
    }, jax.device_put(variables)


def calls(settings: Config, variables: Variables, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns a record of the scoring call per batch size; of one that failed, why."""
    found = []
    for batch in given["batches"]:
        try:
            found.append(inference.scoring(settings, variables, batch, given["repeats"])())
        except Exception as error:
            found.append({"batch_size": batch, "failed": f"{type(error).__name__}: {error}"[:300]})
    return found
