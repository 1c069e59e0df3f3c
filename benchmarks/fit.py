"""Times the fit of a method that learns in one pass: good images in, what it learns out.

--help --method=NAME lists the flags of that method. Images are random: how many and how large they
are makes a fit longer, what they show does not.
"""

from __future__ import annotations

import numpy as np
from absl import flags

from benchmarks import options, production, timing
from benchmarks.production import Fitting, fitting
from cae_jax.options import fields
from cae_jax.runs import command_line, shared
from cae_jax.training.checkpoints import FROZEN

# What a fit knows nothing of: which images, where to, how scores are made of what it learns.
_BUT = {*fields(shared.Images, shared.Output, shared.Scoring)} - {"image_size", "channels"}


def measure(ready: Fitting, repeats: int) -> dict[str, object]:
    """Returns the record of a fit; its images go to the device in it, decoding does not count."""
    seconds = timing.interleaved({timing.OURS: ready.call}, repeats)
    p50, p95 = (float(each) for each in np.percentile(seconds[timing.OURS], (50, 95)))
    learned = {name: each for name, each in ready.variables.items() if name != FROZEN}
    return {
        **{"method": ready.settings.method, "model": ready.settings.label},
        **{"images": ready.n_images, "image_size": ready.settings.image_size},
        "first_call_seconds": ready.first_call_seconds,
        "compile_seconds": ready.first_call_seconds - p50,
        **{"p50_seconds": p50, "p95_seconds": p95, "images_per_second": ready.n_images / p50},
        "learned_mb": production.size_of(learned) / 1e6,
        "peak_memory_mb": ready.peak_memory_mb,
        **timing.environment(),
    }


def run() -> None:
    """Measures every number of images of the flags."""
    counts, settings = options.whole_numbers("images"), command_line.given()
    repeats = command_line.value("repeats")
    options.finish([measure(fitting(settings, n), repeats) for n in counts])


if __name__ == "__main__":
    flags.DEFINE_list("images", ["300"], "good images, several with commas")
    options.define(repeats=3)
    command_line.main(run, but=_BUT)
