"""Scores folders of synthetic PNG files end to end: images/s, and peak memory by their number.

Each folder is scored in a fresh process. For memory alone, a larger --stride gives fewer patches
an image, and the same images in memory, in less time.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
from absl import flags

from benchmarks import networks, options, scoring_process, timing
from cae_jax import files
from cae_jax.data import pictures
from cae_jax.runs import command_line

_SIZE = flags.DEFINE_integer("size", 1024, "side of the images in the files, in pixels", 1)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", None, "images per call, on all devices", 1)
_JSON = flags.DEFINE_string("json", "", "also write the numbers to this file")
_POOL = 32  # different images; the folders hold links to them
_BLOCK = 16


def draw(file: Path, size: int, seed: int) -> None:
    """Writes a random RGB texture of `size` x `size` pixels: colored blocks under noise."""
    rng, blocks = np.random.default_rng(seed), -(-size // _BLOCK)
    image = np.kron(rng.integers(40, 215, (blocks, blocks, 3)), np.ones((_BLOCK, _BLOCK, 1)))
    image = image[:size, :size] + rng.normal(0, 6, (size, size, 3))
    pictures.save_png(file, image.astype(np.uint8))


def run() -> None:
    """Draws the images and measures a folder of each size in a process of its own."""
    counts = options.whole_numbers("images")
    settings = command_line.given().resolved()  # here, not in its process: what cannot work
    flags_given = {name: command_line.value(name) for name in scoring_process.FLAGS}
    given = dict(flags_given)
    if _BATCH_SIZE.value:
        given["images_per_call"] = _BATCH_SIZE.value
    folders = []
    with tempfile.TemporaryDirectory() as temporary:
        for i in range(_POOL):
            draw(Path(temporary, f"{i}.png"), _SIZE.value, i)
        for n in (1, *counts):  # the first only fills the compilation cache
            root = Path(temporary, f"folder_{len(folders)}")
            root.mkdir()
            for i in range(n):
                (root / f"{i:06}.png").hardlink_to(Path(temporary, f"{i % _POOL}.png"))
            folders.append(options.in_process("scoring_process", given | {"folder": root}))
    peaks = [one["peak_memory_mb"] for one in sorted(folders[1:], key=lambda one: one["n_images"])]
    result = {"data": "synthetic", **flags_given, "size": _SIZE.value}
    result["patches_per_image"] = networks.patches_per_image(settings)
    result |= {"folders": folders[1:], "peak_memory_ratio": peaks[-1] / peaks[0]}
    result |= timing.environment()
    print(json.dumps(result, indent=2))
    if _JSON.value:
        files.write_json(_JSON.value, result)


if __name__ == "__main__":
    flags.DEFINE_list("images", ["1000", "10000"], "in a folder; several with commas")
    command_line.main(run, scoring_process.FLAGS)
