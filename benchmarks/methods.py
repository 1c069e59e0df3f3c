"""Times every built-in method, each in a process of its own: scoring, learning, memory.

--against=onnxruntime,openvino,torch has other engines score the same images by turns. With --json
that file is written whole after each method, and what it has of the same size and numbers is not
measured again. Images are random: what they show makes nothing longer.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from benchmarks import engines, methods_process, options, timing
from cae_jax import files, methods
from cae_jax.runs import command_line
from cae_jax.types import unknown_name


def run() -> None:
    """Measures every method of the flags that has no record yet."""
    names, path = flags.FLAGS.methods or methods.names(), flags.FLAGS.json
    if unknown := [name for name in names if name not in methods.names()]:
        raise unknown_name("--methods", unknown[0], methods.names())
    given = {name: command_line.value(name) for name in methods_process.OPTIONS}
    against = options.against(list(engines.GRAPH), engines.GRAPH)
    limit = 60 * command_line.value("minutes")
    found: dict[str, dict[str, Any]] = {}
    if path and Path(path).exists():
        records = json.loads(Path(path).read_text(encoding="utf-8"))
        found = {r["method"]: r for r in records}
    for name in names:
        if has_all(found.get(name, {}), given, against):
            continue
        before = os.getloadavg()[0]
        flags_of_it = {"entry": name, **given, "against": ",".join(against)}
        try:
            record = options.in_process("methods_process", flags_of_it, limit=limit)
        except subprocess.SubprocessError as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        record["load"] = [before, os.getloadavg()[0]]
        found[name] = {**record, **timing.environment(engines.packages(against, engines.GRAPH))}
        if path:
            files.write_json(path, [found[each] for each in sorted(found)])
    options.finish([found[each] for each in sorted(found)])


def has_all(record: Mapping[str, Any], given: Mapping[str, object], against: list[str]) -> bool:
    """Returns whether a record is of the given numbers, and of these engines at least."""
    asked = set(record.get("against", ()))
    return all(record.get(flag) == value for flag, value in given.items()) and asked >= {*against}


if __name__ == "__main__":
    flags.DEFINE_list("methods", [], "built-in methods, several with commas; all if none")
    flags.DEFINE_float("minutes", 5.0, "that a method may take, then the next", lower_bound=0.1)
    methods_process.define()
    command_line.main(run, names=(), again="the same command with --json goes on where it stopped")
