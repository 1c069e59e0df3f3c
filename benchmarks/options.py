"""The flags that the benchmarks share, and what is done with their records."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
from absl import flags

from benchmarks import engines
from cae_jax import files
from cae_jax.runs import command_line
from cae_jax.runs.config import Config
from cae_jax.types import UsageError

_TRACED = 3  # calls in a trace

flags.disclaim_key_flags()  # they belong to the benchmark that calls `define`: its --help


def define(against: Sequence[str] = (), repeats: int = 20) -> None:
    """Defines --json and --repeats; with engines to compare with, --against and --profile_dir."""
    flags.DEFINE_string("json", "", "also write the records to this file")
    flags.DEFINE_integer("repeats", repeats, "timed runs of each call", lower_bound=1)
    if against:
        flags.DEFINE_list("against", [], f"engines: {', '.join(against)}")
        about = f"also write a trace of {_TRACED} calls here, for TensorBoard or Perfetto"
        flags.DEFINE_string("profile_dir", "", about)


def whole_numbers(name: str) -> list[int]:
    """Returns the numbers of a list flag; raises UsageError for none, or one not above 0."""
    given = flags.FLAGS[name].value
    if not given or not all(n.isdecimal() and int(n) for n in given):
        raise UsageError(f"--{name}={','.join(given)}: must be whole numbers above 0")
    return [int(n) for n in given]


def in_process(
    module: str,
    given: Mapping[str, object],
    environment: Mapping[str, str] = MappingProxyType({}),
    limit: float | None = None,
) -> dict:
    """Runs a benchmark's part in a process of its own; returns the JSON of its last line.

    Raises subprocess.SubprocessError where it fails, or takes longer than the limit.

    Args:
      module: of benchmarks.
      given: its flags by name.
      environment: what differs from this process's.
      limit: seconds, after which it is ended.
    """
    command = [sys.executable, "-m", f"benchmarks.{module}"]
    command += [f"--{name}={value}" for name, value in given.items()]
    env = {**os.environ, **environment}
    done = subprocess.run(command, stdout=-1, check=True, env=env, timeout=limit)
    return json.loads(done.stdout.splitlines()[-1])


def training_config() -> Config:
    """Returns the record of the flags, resolved, for a benchmark that cuts no image into patches;
    raises UsageError."""
    found = command_line.given()
    return (found.changed(stride=1) if "stride" in found.fields() else found).resolved()


def against(
    known: Sequence[str], needed: Mapping[str, Sequence[str]] = engines.PACKAGES
) -> list[str]:
    """Returns the engines of --against that are installed, see `engines.available`."""
    return engines.available(flags.FLAGS["against"].value, known, needed)


def trace(call: Callable[[], object], folder: str) -> None:
    """Writes a trace of the call to the folder; does nothing where that is empty."""
    if folder:
        with jax.profiler.trace(folder):
            for _ in range(_TRACED):
                call()


def finish(records: Sequence[Mapping[str, object]], text: str = "") -> None:
    """Prints the text, or the records as JSON, and writes the records where --json says."""
    print(text or "\n".join(json.dumps(record, indent=2) for record in records))
    if flags.FLAGS["json"].value:
        files.write_json(flags.FLAGS["json"].value, records)
