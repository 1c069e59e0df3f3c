"""The flags that the benchmarks share, and what is done with their records."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

import jax
from absl import flags

from benchmarks import engines
from cae_jax import config, report

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


def training_config(names: Sequence[str]) -> config.Config:
    """Returns the record of the flags named, for a benchmark that cuts no image into patches."""
    found = config.Config(**{name: flags.FLAGS[name].value for name in names}, stride=1)
    found.check()
    return found


def against(known: Sequence[str]) -> list[str]:
    """Returns the engines of --against that are installed, see `engines.available`."""
    return engines.available(flags.FLAGS["against"].value, known)


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
        report.write_json(flags.FLAGS["json"].value, records)
