"""The CPU's half of `numbers`: python -m benchmarks.accelerator.reference FLAGS FILE."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.accelerator import numbers, stored
from cae_jax.runs.config import configure
from cae_jax.types import Fit

if __name__ == "__main__":
    flags, path = json.loads(sys.argv[1]), Path(sys.argv[2])
    settings = configure(**flags).resolved()
    split, (variables, _) = numbers.drawn(settings), stored.load(path)
    arrays = numbers.distances(settings, split, variables, None)
    if isinstance(settings.build().learn, Fit):
        own = numbers.fitted(settings, split)
        of_own = numbers.distances(settings, split, own, None)
        arrays |= {f"{numbers.OWN} {name}": each for name, each in of_own.items()}
    stored.save(path.with_suffix(".cpu.npz"), {}, arrays)
