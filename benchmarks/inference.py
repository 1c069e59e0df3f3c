"""Times the scoring call of a model: images on the device in, maps and distances out."""

from __future__ import annotations

import json
import statistics
import time

import jax
import numpy as np
from absl import flags

from cae_jax import config, describe, patches, report, runs, score
from cae_jax.types import UsageError

_FLAGS = ("model", "model_options", "image_size", "patch_size", "stride", "channels", "seed")
_BATCHES = flags.DEFINE_list("batch_size", ["1"], "images per call, several with commas")
_REPEATS = flags.DEFINE_integer("repeats", 20, "timed calls per batch size", lower_bound=1)
_JSON = flags.DEFINE_string("json", "", "also write the numbers to this file")


def measure(settings: config.Config, batch_size: int, repeats: int) -> dict[str, object]:
    """Returns compile time and the call's time for one batch size; milliseconds unless named."""
    s = settings
    method = runs.build_method(s)
    variables = runs.fresh_state(method, s.seed).variables
    call = score.scorer(method.reconstruct, s.patch_size, s.stride, score.default_chunk_size())
    shape = (batch_size, s.image_size, s.image_size, s.channels)
    images = jax.device_put(np.random.default_rng(s.seed).random(shape, dtype=np.float32))
    began = time.perf_counter()
    jax.block_until_ready(call(variables, images))
    compiled = time.perf_counter() - began
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(call(variables, images))
        seconds.append(time.perf_counter() - began)
    windows = len(patches.starts(s.image_size, s.stride)) ** 2
    cost = describe.describe(s.model, s.channels, s.patch_size, s.options())
    p50, p95, p99 = np.percentile(seconds, [50, 95, 99]) * 1e3 / batch_size
    per_second = batch_size / statistics.median(seconds)
    return {
        "model": s.model,
        "batch_size": batch_size,
        "first_call_seconds": compiled,
        "p50_ms_per_image": float(p50),
        "p95_ms_per_image": float(p95),
        "p99_ms_per_image": float(p99),
        "p50_ms_per_patch": float(p50) / windows,
        "images_per_second": per_second,
        "gflops": 2e-9 * cost["macs_per_patch"] * windows * per_second,
        "device": score.device(),
        "jax": jax.__version__,
    }


def run() -> None:
    """Measures every batch size of the flags."""
    if not all(n.isdecimal() and int(n) for n in _BATCHES.value):
        raise UsageError(f"--batch_size={','.join(_BATCHES.value)}: must be whole numbers above 0")
    settings = config.from_flags(_FLAGS)
    found = [measure(settings, int(n), _REPEATS.value) for n in _BATCHES.value]
    for one in found:
        print(json.dumps(one, indent=2))
    if _JSON.value:
        report.write_json(_JSON.value, found)


if __name__ == "__main__":
    config.define(_FLAGS)
    config.main(run)
