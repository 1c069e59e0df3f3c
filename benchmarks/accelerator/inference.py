"""The scoring call of autoencoders: images on the device in, maps and distances out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import networks
from benchmarks.accelerator import peaks, programs
from cae_jax.runs import build
from cae_jax.runs.config import Config, configure
from cae_jax.types import Variables, height_width

TOGETHER = 3  # programs that are compiled side by side: the precisions of one call


def prepare(given: Mapping[str, Any], scratch: Path) -> Callable[[], dict[str, Any]]:
    """Returns what times a compiled call, or a matrix product where `given` has its "side"."""
    if "side" in given:
        return lambda: {"tflops": peaks.products(given["side"], given["repeats"])}
    settings = configure(**given["flags"]).resolved()
    usual = settings.changed(precision="float32").resolved()
    variables = jax.device_put(programs.fresh(usual))
    timed = scoring(settings, variables, given["batch_size"], given["repeats"])

    def measure() -> dict[str, Any]:
        found = timed()
        macs = networks.cost(settings)["macs_per_patch"] * networks.patches_per_image(settings)
        gflops = 2e-9 * macs * found["images_per_second"]
        names = {"model": settings.options.model, "mode": given["mode"]}
        return {**names, **found, "gflops": gflops, **peaks.shares(gflops, given["mode"])}

    return measure


def scoring(
    settings: Config, variables: Variables, batch_size: int, repeats: int
) -> Callable[[], dict[str, Any]]:
    """Compiles the scoring call of resolved settings; returns what times it, on random images."""
    shape = (batch_size, *height_width(settings.image_size), settings.channels)
    images = jax.device_put(np.random.default_rng(settings.seed).random(shape, np.float32))
    compiled = programs.program(build.scoring_call(settings), variables, images)

    def measure() -> dict[str, Any]:
        found = programs.repeated(programs.waited(compiled.call, variables, images), repeats)
        of_patches = {}
        if windows := networks.patches_per_image(settings):
            of_patches["patches_per_second"] = batch_size * windows / found["p50_seconds"]
        return {
            **{"batch_size": batch_size, **compiled.about, **found},
            "ms_per_image": 1e3 * found["p50_seconds"] / batch_size,
            "images_per_second": batch_size / found["p50_seconds"],
            **of_patches,
        }

    return measure
