"""Times AnoGAN's latent search for one image's patches: these in, scores of what was found out.

All steps of all patches are one call here; --against=torch takes them one after the other, eagerly.
The networks are not trained before: what they make of a vector does not change how long it takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np

from benchmarks import options, production, timing
from cae_jax.methods import anogan
from cae_jax.options import fields
from cae_jax.runs import command_line, config, shared
from cae_jax.scoring import patches
from cae_jax.training.schedule import Training
from cae_jax.types import CaeError, UsageError, height_width

_BUT = {*fields(shared.Images, shared.Output, shared.Scoring, Training)}
_BUT -= {"image_size", "channels"}
_KNOWN = ("torch",)
_TOLERANCE = 1e-2  # of scores: hundreds of steps make rounding large


def measure(
    settings: config.Config, repeats: int, against: Sequence[str], profile_dir: str = ""
) -> dict[str, object]:
    """Returns the record of one image's search; raises UsageError for another method, CaeError for
    an engine that finds other scores."""
    s, o = settings, settings.options
    if not isinstance(o, anogan.Options):
        raise UsageError(f"--method={s.method}: only anogan searches; pass --method=anogan")
    if o.restarts != 1:
        raise UsageError(f"--restarts={o.restarts}: one search a patch is timed")
    variables = jax.device_put(production.untrained(s))
    shape = (1, *height_width(s.image_size), s.channels)
    image = np.random.default_rng(s.seed).random(shape, np.float32)
    cut = np.asarray(patches.extract(image, o.patch_size, o.stride))
    cut = cut.reshape(-1, *cut.shape[3:])
    search = jax.jit(anogan.reconstructor(anogan.networks(o, s.channels), o))

    def call() -> np.ndarray:
        return np.asarray(search(variables, cut).aux["score"])

    calls, found, errors = {timing.OURS: call}, call(), {}
    for name in against:
        from benchmarks.engines import torch_search  # needs torch

        start = np.repeat(np.asarray(anogan.starts(o)), len(cut), axis=0)
        calls[name] = torch_search.searcher(variables, cut, start, o)
        errors[name] = float(np.abs(calls[name]() / found - 1).max())
        if errors[name] > _TOLERANCE:
            raise CaeError(f"{name}: its scores are off by {errors[name]:.2g} of ours")
    seconds = timing.interleaved(calls, repeats)
    options.trace(call, profile_dir)
    return {
        **{"method": s.method, "patches": len(cut), "steps": o.search_steps},
        **{"patch_size": o.patch_size, "width": o.width, "latent": o.latent, "repeats": repeats},
        "p50_seconds": float(np.median(seconds[timing.OURS])),
        "ratio": timing.ratios(seconds),
        "milliseconds": timing.milliseconds(seconds),
        "errors": errors,
        **timing.environment(against),
    }


def run() -> None:
    """Measures the search of the flags."""
    against = options.against(_KNOWN)
    repeats, profile_dir = (command_line.value(name) for name in ("repeats", "profile_dir"))
    options.finish([measure(command_line.given().resolved(), repeats, against, profile_dir)])


if __name__ == "__main__":
    options.define(_KNOWN, repeats=5)
    command_line.main(run, but=_BUT)
