"""Times every layer of a model, forward and both gradients, beside the machine's own peak."""

from __future__ import annotations

import numpy as np

from benchmarks import networks, options, timing
from benchmarks.layer_calls import layers
from benchmarks.layer_table import table
from benchmarks.production import training
from cae_jax.methods import gradients
from cae_jax.runs import command_line
from cae_jax.runs.config import Config

_FLAGS = ("model", "model_options", "image_size", "patch_size", "channels", "seed", "batch_size")
_SLOW, _SHARE = 1 / 3, 0.05  # a marked layer is below that part of the peak, above this of the step


def measure(settings: Config, repeats: int) -> dict[str, object]:
    """Returns the record: the step, the peak, and a row per layer.

    GFLOP/s count useful multiply-adds alone: no zeros of a dilated input. A layer's share is its
    time for the whole batch over the production step's; layers run on as many patches as a chunk
    of that step. `marked` are those that stand below a third of the peak and take more than 5 %.
    Raises UsageError for a model without tables.
    """
    o = settings.options
    chunk = min(gradients.default_chunk_size(o.patch_size) or o.batch_size, o.batch_size)
    found = layers(networks.build(settings), chunk, settings.seed)
    step = training(settings, n_images=4)
    calls = {timing.OURS: step.call, timing.PEAK: timing.matrix_product()}
    for layer in found:
        calls |= {(layer.name, way): call for way, call in layer.calls.items()}
    seconds = timing.interleaved(calls, repeats)
    took = {name: float(np.median(each)) for name, each in seconds.items()}
    peak = timing.PEAK_GFLOP / took[timing.PEAK]
    rows = []
    for layer in found:
        times = {way: took[layer.name, way] for way in layer.calls}
        total, gflop = sum(times.values()), 2e-9 * layer.macs * chunk
        share = total * o.batch_size / chunk / took[timing.OURS]
        gflops = gflop * len(times) / total
        rows.append(
            {
                **{"name": layer.name, "op": layer.op, "input": layer.input},
                **{"output": layer.output, "macs_per_patch": layer.macs},
                "milliseconds": {way: 1e3 * each for way, each in times.items()},
                "gflops": {way: gflop / each for way, each in times.items()},
                **{"gflops_together": gflops, "share_of_step": share},
                "marked": bool(gflops < _SLOW * peak and share > _SHARE),
            }
        )
    return {
        **{"model": o.model, "batch_size": o.batch_size, "chunk_size": chunk},
        **{"ms_per_step": took[timing.OURS] * 1e3, "peak_gflops": peak, "layers": rows},
        **timing.environment(),
    }


def run() -> None:
    """Measures the layers of the flags' model."""
    found = measure(options.training_config(), command_line.value("repeats"))
    options.finish([found], table(found, _SHARE))


if __name__ == "__main__":
    options.define(repeats=10)
    command_line.main(run, _FLAGS)
