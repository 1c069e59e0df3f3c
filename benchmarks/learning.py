"""Times what a method learns by beside another library on the same work, by turns.

A fit, rounds or steps from the same start, once it is known that both come to the same. With --json
what that file has of the same numbers is not measured again. See also benchmarks.training (networks
of layer tables beside torch) and benchmarks.beside (anomalib's PaDiM and PatchCore).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from benchmarks import engines, method_calls, options, timing
from benchmarks.engines import learners
from cae_jax import files
from cae_jax.runs import command_line
from cae_jax.types import CaeError

_ALLOWED = 1e-2  # largest difference of a network's ends: steps and rounds make rounding large
_PROJECTS = {"sklearn": "scikit-learn"}  # by package, where it has another name
_NUMBERS = ("image_size", "images", "repeats")


def measure(method: str, image_size: int, n_images: int, repeats: int) -> dict[str, Any]:
    """Returns the record of one method; raises CaeError where the other does not come to the same,
    UsageError where it cannot do this size."""
    before = os.getloadavg()[0]
    settings = method_calls.settings_of(method, image_size)
    pair = learners.PAIRS[method](settings, n_images)
    if not pair.apart <= _ALLOWED:
        raise CaeError(f"{method}: {pair.engine}'s {pair.compared} are off by {pair.apart:.1e}")
    seconds = timing.interleaved({timing.OURS: pair.ours, pair.engine: pair.theirs}, repeats)
    milliseconds = {k: 1e3 * float(np.median(v)) / pair.each for k, v in seconds.items()}
    return {
        **{"method": method, "image_size": image_size, "images": n_images, "repeats": repeats},
        **{"what": pair.what, "engine": pair.engine, "compared": pair.compared},
        **{"apart": pair.apart, "milliseconds": milliseconds, "ratio": timing.ratios(seconds)},
        "load": [before, os.getloadavg()[0]],
        **timing.environment([_PROJECTS.get(p, p) for p in learners.NEEDED[method]]),
    }


def run() -> None:
    """Measures every method of the flags whose other library is installed."""
    path, given = flags.FLAGS.json, {name: command_line.value(name) for name in _NUMBERS}
    asked = flags.FLAGS.methods or list(learners.PAIRS)
    found: dict[str, dict[str, Any]] = {}
    if path and Path(path).exists():
        records = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {record["method"]: record for record in records}
    for name in engines.available(asked, list(learners.PAIRS), learners.NEEDED):
        if not all(found.get(name, {}).get(flag) == value for flag, value in given.items()):
            found[name] = measure(name, *given.values())
            if path:
                files.write_json(path, [found[each] for each in sorted(found)])
    options.finish([found[each] for each in sorted(found)])


if __name__ == "__main__":
    flags.DEFINE_list("methods", [], f"of {', '.join(learners.PAIRS)}; all if none")
    flags.DEFINE_integer("image_size", 256, "side of the images in pixels", lower_bound=1)
    flags.DEFINE_integer("images", 16, "random good images to learn from", lower_bound=1)
    options.define(repeats=5)
    command_line.main(run, names=(), again="the same command with --json goes on where it stopped")
