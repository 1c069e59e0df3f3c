"""A training step of an autoencoder, and an epoch in one call: crops in, losses out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import networks
from benchmarks.accelerator import peaks, programs, stored
from cae_jax.data import synthetic
from cae_jax.runs.config import configure
from cae_jax.training import loop
from cae_jax.training.crops import epoch_crops
from cae_jax.training.members import Plan, compile_step, place_crops, place_images, place_state

TOGETHER = 2  # programs that are compiled side by side
_IMAGES = 60  # that the crops come from
_THESIS_EPOCHS = 200


def prepare(given: Mapping[str, Any], scratch: Path) -> Callable[[], dict[str, Any]]:
    """Returns what times epochs of the compiled call, on synthetic images; where `given` says
    "keep", what was learned is kept for the part "trained"."""
    settings = configure(**given["flags"], stride=1).resolved()
    o, learn = settings.options, settings.build().learn
    plan = Plan("loop", given["scan"])
    schedule = o.course(learn.patch_size, settings.seed)
    drawn = synthetic.read("weave", settings.image_size, 1, settings.seed, _IMAGES, 1, 1).train
    images = place_images(drawn, plan)

    def crops(epoch: int) -> Any:
        batches = list(epoch_crops(drawn, schedule, epoch))
        return np.stack(batches) if plan.scan else batches

    first = crops(1)
    state = place_state(loop.fresh_state(learn, settings.seed), plan)
    sample = place_crops(first if plan.scan else first[0], plan)
    compiled = programs.program(compile_step(learn, plan), state, images, sample)
    at, losses = [state], []

    def epoch() -> None:
        batches = [first] if plan.scan else first[: given["repeats"]]
        for batch in batches:
            at[0], metrics = compiled.call(at[0], images, place_crops(batch, plan))
            losses.extend(np.ravel(jax.device_get(metrics["loss"])).tolist())

    def measure() -> dict[str, Any]:
        began = time.perf_counter()
        crops(2)
        drawing = time.perf_counter() - began
        found = programs.repeated(epoch, min(5, given["repeats"]))
        steps = len(first) if plan.scan else min(len(first), given["repeats"])
        per_step = found["p50_seconds"] / steps
        seconds = per_step * len(first) + drawing
        if given["keep"]:
            stored.save(scratch / f"{o.model.replace(':', '.')}.npz", at[0].variables, {})
        cost = networks.cost(settings)
        # forward, input and kernel gradient, but for the first layer's input gradient
        macs = 3 * cost["macs_per_patch"] - cost["rows"][0]["macs"]
        gflops = 2e-9 * macs * o.batch_size / per_step
        return {
            **{"model": o.model, "mode": given["mode"], "an_epoch_a_call": plan.scan},
            **{**compiled.about, **found, "batch_size": o.batch_size},
            **{
                "steps_per_epoch": len(first),
                "ms_per_step": 1e3 * per_step,
                "crops_seconds": drawing,
            },
            "seconds_per_epoch": seconds,
            "seconds_per_200_epochs": seconds * _THESIS_EPOCHS,
            "patches_per_second": len(first) * o.batch_size / seconds,
            **{"first_loss": losses[0], "last_loss": losses[-1], "gflops": gflops},
            **peaks.shares(gflops, given["mode"]),
        }

    return measure
