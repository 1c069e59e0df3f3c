"""How training many members and scoring grow with devices: the same work on 1, 2, 4 ... of them.

Where there are no such devices, a CPU is divided into virtual ones, which share its cores: that
shows what dividing costs, not what more devices give. Each number runs in a fresh process.
"""

from __future__ import annotations

import os

import jax
from absl import flags

from benchmarks import options, scaling_process, timing
from benchmarks.member_calls import FLAGS
from cae_jax.runs import command_line

_SPEEDS = ("patches_per_second", "images_per_second")


def _in_process(n: int, given: dict[str, object]) -> dict:
    """The row of n devices, measured by a process that sees no more of them."""
    shown = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(n)))}
    if jax.default_backend() == "cpu":
        before = os.environ.get("XLA_FLAGS", "")
        shown = {"XLA_FLAGS": f"{before} --xla_force_host_platform_device_count={n}".strip()}
    return options.in_process("scaling_process", given, shown)


def run() -> None:
    """Measures every number of devices of the flags, and what each gives over the first."""
    counts = options.whole_numbers("devices")
    command_line.given().resolved()  # here, not in a process of its own: what cannot work
    given = {name: command_line.value(name) for name in (*FLAGS, *scaling_process.OPTIONS)}
    rows = [_in_process(n, given) for n in counts]
    for row in rows:
        row |= {f"{name}_over_first": row[name] / rows[0][name] for name in _SPEEDS}
    options.finish([{**given, "rows": rows, **timing.environment()}])


if __name__ == "__main__":
    scaling_process.define()
    flags.DEFINE_list("devices", ["1", "2", "4"], "numbers of devices, with commas")
    command_line.main(run, FLAGS)
