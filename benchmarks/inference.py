"""Times the scoring call of a model: images on the device in, maps and distances out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from absl import flags

from benchmarks import engines, options, timing
from benchmarks.production import Scoring, scoring
from cae_jax.reports import architectures
from cae_jax.runs import config
from cae_jax.scoring import patches

_FLAGS = ("model", "model_options", "image_size", "patch_size", "stride", "channels", "seed")


def measure(
    ready: Scoring, repeats: int, against: Sequence[str], profile_dir: str = ""
) -> dict[str, object]:
    """Returns the record of one batch size: what our call costs, and other engines' time over it.

    Neither decoding nor the way to the device counts. Around the network: extract, merge, distance.
    Raises CaeError for an engine that does not compute the same, UsageError where it has no twin.
    """
    s, batch = ready.settings, len(ready.images)
    ours = {timing.OURS: ready.call, timing.AROUND: ready.around}
    theirs, errors = {}, {}
    if against:
        from benchmarks.engines import compare  # needs torch

        theirs, errors = compare.scoring(against, ready)
    seconds = timing.interleaved({**ours, timing.PEAK: timing.matrix_product(), **theirs}, repeats)
    options.trace(ready.call, profile_dir)
    windows = len(patches.starts(s.image_size, s.stride)) ** 2
    cost = architectures.describe(s.model, s.channels, s.patch_size, s.options())
    gflop = 2e-9 * cost["macs_per_patch"] * windows * batch
    percentiles = np.percentile(seconds[timing.OURS], (50, 95, 99))
    times = {
        f"{name}_ms_per_{unit}": float(each) * 1e3 / n
        for unit, n in (("image", batch), ("patch", batch * windows))
        for name, each in zip(("p50", "p95", "p99"), percentiles, strict=True)
    }
    return {
        "model": cost["model"],
        "batch_size": batch,
        "patches_per_image": windows,
        "first_call_seconds": ready.first_call_seconds,
        "compile_seconds": ready.first_call_seconds - float(percentiles[0]),
        **times,
        "around_the_network_share": float(np.median(seconds[timing.AROUND]) / percentiles[0]),
        "transfer_ms_per_image": ready.transfer_seconds * 1e3 / batch,
        "images_per_second": batch / float(percentiles[0]),
        **timing.speed(gflop, seconds),
        "peak_memory_mb": ready.peak_memory_mb,
        "ratio": timing.ratios(seconds),
        "milliseconds": timing.milliseconds(seconds),
        "errors": errors,
        **timing.environment(engines.packages(against)),
    }


def run() -> None:
    """Measures every batch size of the flags."""
    batches = options.whole_numbers("batch_size")
    settings, against = config.from_flags(_FLAGS), options.against(engines.NAMES)
    repeats, profile_dir = flags.FLAGS["repeats"].value, flags.FLAGS["profile_dir"].value
    # all of them before other engines take their memory
    ready = [scoring(settings, n) for n in batches]
    options.finish([measure(each, repeats, against, profile_dir) for each in ready])


if __name__ == "__main__":
    config.define(_FLAGS)
    flags.DEFINE_list("batch_size", ["1"], "images per call, several with commas")
    options.define(engines.NAMES)
    config.main(run)
