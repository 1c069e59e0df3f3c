"""Times the scoring call of a method: images on the device in, maps and distances out.

--help --method=NAME lists the flags of that method, which is not trained before; one that learns
in one pass is fitted to random images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from absl import flags

from benchmarks import engines, networks, options, timing
from benchmarks.production import Scoring, scoring
from cae_jax.options import fields
from cae_jax.runs import command_line, shared
from cae_jax.training.schedule import Training

# What the call knows nothing of: which images, where to, how long to train, masks.
_BUT = {*fields(shared.Images, shared.Output, Training), "minimum_area", "opening"}
_BUT -= {"image_size", "channels"}


def measure(
    ready: Scoring, repeats: int, against: Sequence[str], profile_dir: str = ""
) -> dict[str, object]:
    """Returns the record of one batch size: what our call costs, and other engines' time over it.

    Neither decoding nor the way to the device counts. Around the network: extract, merge, distance.
    Raises CaeError for an engine that does not compute the same, UsageError where it has no twin.
    """
    batch, theirs, errors = len(ready.images), {}, {}
    if against:
        from benchmarks.engines import compare  # needs torch

        theirs, errors = compare.scoring(against, ready)
    calls = {**ready.calls, timing.PEAK: timing.matrix_product(), **theirs}
    seconds = timing.interleaved(calls, repeats)
    options.trace(ready.calls[timing.OURS], profile_dir)
    p50 = float(np.median(seconds[timing.OURS]))
    return {
        **{"method": ready.settings.method, "model": ready.settings.label, "batch_size": batch},
        "first_call_seconds": ready.first_call_seconds,
        "compile_seconds": ready.first_call_seconds - p50,
        **timing.milliseconds_per("image", batch, seconds),
        **networks.of_patches(ready.settings, batch, seconds),
        "transfer_ms_per_image": ready.transfer_seconds * 1e3 / batch,
        "images_per_second": batch / p50,
        "peak_memory_mb": ready.peak_memory_mb,
        "ratio": timing.ratios(seconds),
        "milliseconds": timing.milliseconds(seconds),
        "errors": errors,
        **timing.environment(engines.packages(against)),
    }


def run() -> None:
    """Measures every batch size of the flags."""
    batches = options.whole_numbers("batch_size")
    settings, against = command_line.given().resolved(), options.against(engines.NAMES)
    repeats, profile_dir = (command_line.value(name) for name in ("repeats", "profile_dir"))
    # all of them before other engines take their memory
    ready = [scoring(settings, n) for n in batches]
    options.finish([measure(each, repeats, against, profile_dir) for each in ready])


if __name__ == "__main__":
    flags.DEFINE_list("batch_size", ["1"], "images per call, several with commas")
    options.define(engines.NAMES)
    command_line.main(run, but=_BUT)
