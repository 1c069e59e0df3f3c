"""Times every built-in method, each in a process of its own: scoring, learning, memory.

With --json that file is written whole after each method, and what it has of the same size and
numbers is not measured again. Images are random: what they show makes nothing longer.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import methods_process, options, timing
from cae_jax import files, methods
from cae_jax.runs import command_line
from cae_jax.types import unknown_name


def run() -> None:
    """Measures every method of the flags that has no record yet."""
    names, path = flags.FLAGS.methods or methods.names(), flags.FLAGS.json
    if unknown := [name for name in names if name not in methods.names()]:
        raise unknown_name("--methods", unknown[0], methods.names())
    given = {name: command_line.value(name) for name in methods_process.OPTIONS}
    found: dict[str, dict[str, Any]] = {}
    if path and Path(path).exists():
        records = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {r["method"]: r for r in records}
    for name in names:
        if all(found.get(name, {}).get(flag) == value for flag, value in given.items()):
            continue
        before = os.getloadavg()[0]
        record = options.in_process("methods_process", {"entry": name, **given})
        record["load"] = [before, os.getloadavg()[0]]
        found[name] = {**record, **timing.environment()}
        if path:
            files.write_json(path, [found[each] for each in sorted(found)])
    options.finish([found[each] for each in sorted(found)])


if __name__ == "__main__":
    flags.DEFINE_list("methods", [], "built-in methods, several with commas; all if none")
    methods_process.define()
    command_line.main(run, names=(), again="the same command with --json goes on where it stopped")
