"""What the compiler is given by each production call, and how long it takes over a few of them.

All are ratios to a reference program in the same process, whatever the machine. `--check` fails
where a call has grown by half since `--write` wrote the record.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from absl import flags

from benchmarks import production_calls, timing
from cae_jax import files
from cae_jax.runs import command_line
from cae_jax.types import CaeError, UsageError

RECORD = Path(__file__).resolve().parent / "results" / "compilation.json"
GROWN = 1.5
TIMED = ("chow, scoring 1", "gaussian, scoring")  # compiled, too
_WRITE = flags.DEFINE_bool("write", False, "write the record")
_CHECK = flags.DEFINE_bool("check", False, "fail where a call has grown by half since the record")
_CALLS = flags.DEFINE_string("calls", "", "only those whose names begin so")


def operations(begins: str = "") -> dict[str, float]:
    """Returns the operations of calls whose names begin so, over the reference program's."""
    count, calls = production_calls.operations, production_calls.lowerings()
    whole = count(production_calls.reference())
    return {n: count(call()) / whole for n, call in calls.items() if n.startswith(begins)}


def seconds(begins: str = "") -> dict[str, float]:
    """Returns the processor seconds to compile those of TIMED, likewise; the better of two."""
    calls, names = production_calls.lowerings(), [n for n in TIMED if n.startswith(begins)]
    whole = _compiling(production_calls.reference()) if names else 1.0
    return {name: _compiling(calls[name]()) / whole for name in names}


def grown(before: Mapping[str, float], now: Mapping[str, float]) -> list[str]:
    """Returns a line for each call that has grown by half, or that has no record."""
    much = [name for name, ratio in now.items() if not ratio < GROWN * before.get(name, 0)]
    return [f"{n}: {now[n]:.1f} references, {before.get(n, 0):.1f} before" for n in much]


def _compiling(lowered: Any) -> float:
    found = []
    for _ in range(2):
        jax.clear_caches()
        began = time.process_time()
        lowered.compile()
        found.append(time.process_time() - began)
    return min(found)


def run() -> None:
    """Measures, then prints, compares or writes; raises CaeError for what has grown."""
    jax.config.update("jax_enable_compilation_cache", False)
    begins = _CALLS.value
    if begins and _WRITE.value:
        raise UsageError(f"--calls={begins}: not with --write, whose record is of all calls")
    found = {"operations": operations(begins), "seconds": seconds(begins)}
    print(json.dumps(found, indent=2))
    before = json.loads(RECORD.read_text(encoding="utf-8")) if _CHECK.value else found
    if lines := [line for part, now in found.items() for line in grown(before[part], now)]:
        raise CaeError("grown by half: " + "; ".join(lines))
    if _WRITE.value:
        files.write_json(RECORD, {**found, **timing.environment()})


if __name__ == "__main__":
    command_line.main(run, names=())
