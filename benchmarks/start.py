"""How long one waits at a start: for the import, a help, a detector and its first verdict.

Each number is of fresh processes, by turns; a first one of each fills the caches, uncounted.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time

import numpy as np
from absl import flags

from benchmarks import options, timing
from cae_jax.runs import command_line
from cae_jax.types import UsageError

_COMMANDS = {
    "import cae_jax": ["-c", "import cae_jax"],
    "--help": ["-m", "experiments.run", "--help"],
    "a wrong flag": ["-m", "experiments.run", "--nope"],
}
_VERDICT = """
import json, sys
import cae_jax
which = json.loads(sys.argv[3])
cae_jax.load(sys.argv[1], **which).score(sys.argv[2])
"""


def commands(models: list[str], image: str) -> dict[str, list[str]]:
    """Returns what is measured, by name; raises UsageError for a model without a name or image."""
    found = dict(_COMMANDS)
    for given in models:
        name, equals, folder = given.partition("=")
        if not equals or not image:
            raise UsageError(f"--model={given}: must be NAME=FOLDER, with an --image to score")
        folder, _, runtime = folder.partition(",runtime=")
        which = {"runtime": runtime} if runtime else {}
        found[f"load and score, {name}"] = ["-c", _VERDICT, folder, image, json.dumps(which)]
    return found


def once(arguments: list[str]) -> tuple[float, float]:
    """Returns a fresh process's seconds, and its processor seconds."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=-3, stderr=-3, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def run() -> None:
    """Measures all commands by turns and prints their medians."""
    found = commands(flags.FLAGS.model, flags.FLAGS.image)
    turns = [
        {name: once(each) for name, each in found.items()}
        for _ in range(1 + command_line.value("repeats"))
    ]
    rows = []
    for name in found:
        took = np.median([turn[name] for turn in turns[1:]], axis=0)
        rows.append({"what": name, "p50_seconds": took[0], "p50_processor_seconds": took[1]})
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    options.finish([{"rows": rows, "load": load} | timing.environment()])


if __name__ == "__main__":
    options.define(repeats=5)
    flags.DEFINE_multi_string("model", [], "NAME=FOLDER, of a run or an export; can be given again")
    flags.DEFINE_string("image", "", "what they score")
    command_line.main(run, [])
