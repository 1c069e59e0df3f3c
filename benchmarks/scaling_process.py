"""Times training and scoring on all devices of this process: benchmarks.scaling's part."""

from __future__ import annotations

import json

import jax
import numpy as np
from absl import flags

from benchmarks import options, timing
from benchmarks.member_calls import FLAGS, step_call
from benchmarks.production import untrained
from cae_jax.runs import command_line
from cae_jax.runs.config import Config
from cae_jax.scoring import compilation
from cae_jax.serving import stream
from cae_jax.training import members
from cae_jax.types import height_width

OPTIONS = ("num_members", "images", "repeats")


def define() -> None:
    """Defines the flags that this program and benchmarks.scaling have beside FLAGS."""
    options.define(repeats=5)
    flags.DEFINE_integer("num_members", 4, "models that train together", lower_bound=1)
    flags.DEFINE_integer("images", 4, "scored in one call", lower_bound=1)


def measure(settings: Config, n_members: int, n_images: int, repeats: int) -> dict:
    """Returns a row: a step of all members on a mesh of all devices, and images scored on them."""
    batch_size = settings.options.batch_size
    mesh = members.mesh(n_members, batch_size, jax.local_devices())
    step = step_call(settings, n_members, "unroll", 0, mesh)
    at = stream.scoring_call(settings, untrained(settings), n_images)
    shape = (at.batch_size, *height_width(settings.image_size), settings.channels)
    pixels = np.random.default_rng(settings.seed).random(shape, np.float32)
    images = jax.device_put(pixels, at.sharding)

    def score() -> object:
        return jax.block_until_ready(at.call(at.variables, images))

    seconds = timing.interleaved({"train": step, "score": score}, repeats)
    step_seconds, score_seconds = (float(np.median(seconds[name])) for name in ("train", "score"))
    sides = dict(mesh.shape) if mesh else {"members": 1, "batch": 1}
    return {
        "n_devices": jax.local_device_count(),
        "mesh": ", ".join(f"{name} {size}" for name, size in sides.items()),
        "ms_per_step_of_all": step_seconds * 1e3,
        "patches_per_second": n_members * batch_size / step_seconds,
        "images_per_second": at.batch_size / score_seconds,
    }


def run() -> None:
    """Measures the devices that there are and prints a line of JSON."""
    compilation.use_cache()
    given = [command_line.value(name) for name in OPTIONS]
    print(json.dumps(measure(command_line.given().resolved(), *given)))


if __name__ == "__main__":
    define()
    command_line.main(run, FLAGS)
