"""Scores one folder with an untrained model and prints what that took: benchmarks.scoring's part.

A process of its own, so that its peak memory is that of this folder.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import jax
import numpy as np
from absl import flags

from benchmarks.production import untrained
from cae_jax.evaluation import verdict
from cae_jax.runs import command_line
from cae_jax.runs.cell import Cell
from cae_jax.runs.config import Config
from cae_jax.runs.dry_run import peak_bytes
from cae_jax.scoring import compilation, scorer
from cae_jax.serving import folder, stream
from cae_jax.serving.trained import TrainedRun

FLAGS = ("model", "model_options", "image_size", "patch_size", "stride", "channels", "precision")
_FOLDER = flags.DEFINE_string("folder", "", "the images; tables go into a folder beside it")
_BATCH = flags.DEFINE_integer("images_per_call", None, "on all devices together", 1)
_SAMPLE = 64  # images that are decoded alone


def measure(c: Config, root: Path, batch_size: int | None) -> dict[str, object]:
    """Returns images/s end to end, of decoding and of the call alone, and the peak memory."""
    variables, judge = untrained(c), verdict.judge(np.empty(0), np.ones(1), ())
    fresh = TrainedRun(Cell(root, c), variables, judge, {})
    sample = folder.find(root)[:_SAMPLE]
    at = stream.scoring_call(c, variables, batch_size)
    list(stream.scored(at, root, sample[: at.batch_size]))  # compiles; the cache keeps it
    output = root.with_name(f"{root.name}.scores")
    began = time.perf_counter()
    n = folder.score_folder(fresh, root, output, batch_size=at.batch_size).n_images
    speeds = {"end_to_end": n / (time.perf_counter() - began)}
    peak = peak_bytes() / 1e6
    began = time.perf_counter()
    pixels = [image.pixels for image in stream.decoded(root, sample, c.frame, ahead=_SAMPLE)]
    speeds["decoding"] = len(pixels) / (time.perf_counter() - began)
    batch = jax.device_put(np.resize(pixels, (at.batch_size, *pixels[0].shape)), at.sharding)
    speeds["call"] = 1e3 / scorer.milliseconds_per_image(at.call, at.variables, batch)
    return {
        "n_images": n,
        "images_per_second": speeds,
        "bottleneck": min("decoding", "call", key=speeds.get),
        "peak_memory_mb": peak,
    }


def run() -> None:
    """Measures the folder of the flags and prints a line of JSON."""
    compilation.use_cache()
    found = measure(command_line.given().resolved(), Path(_FOLDER.value), _BATCH.value)
    print(json.dumps(found))


if __name__ == "__main__":
    command_line.main(run, FLAGS)
