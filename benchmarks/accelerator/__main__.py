"""Runs everything that only a GPU or TPU can show, most important first, and tabulates it.

Each part is a process of its own and one JSON file of the output folder, written whole after every
case. What is there already is not measured again: the same command goes on. A case that fails,
hangs or crashes is recorded as that, and the others go on.
"""

from __future__ import annotations

import time
from pathlib import Path

import jax
from absl import flags

from benchmarks.accelerator import conduct, page, plan
from cae_jax import files
from cae_jax.runs import command_line
from cae_jax.types import UsageError, unknown_name

_OUTPUT = flags.DEFINE_string("output", "", "folder of the JSON files and of tables.md")
_MINUTES = flags.DEFINE_float("minutes", 8.0, "when to stop, from the start", lower_bound=0.1)
_PARTS = flags.DEFINE_list("parts", list(plan.PARTS), "which, in the order of plan.PARTS")
_MODELS = flags.DEFINE_list("models", list(plan.MODELS), "autoencoders, the first at more sizes")
_WEIGHTS = flags.DEFINE_string("weights", "", "file of lite0's weights; the package's if empty")
_CASES = flags.DEFINE_list("cases", [], "only cases whose name holds one of these")
_TOY = flags.DEFINE_bool("toy", False, "sizes for a CPU, which say nothing but that all runs")
_LIST = flags.DEFINE_bool("list", False, "name every case with its estimate, and run none")


def run() -> None:
    """Runs the parts of the flags."""
    ends = time.monotonic() + 60 * _MINUTES.value
    for name in _PARTS.value:
        if name not in plan.PARTS:
            raise unknown_name("part of --parts", name, plan.PARTS)
    # the accelerator's memory belongs to the parts' processes: nothing is computed in this one
    jax.config.update("jax_platforms", "cpu")
    sizes = plan.TOY if _TOY.value else plan.FULL
    cases = plan.cases(sizes, _MODELS.value, _WEIGHTS.value)
    cases = {name: cases[name] for name in plan.PARTS if name in _PARTS.value}
    for name in cases if _CASES.value else ():
        cases[name] = [c for c in cases[name] if any(word in c.name for word in _CASES.value)]
    if _LIST.value:
        print(plan.text(cases))
        return
    if not _OUTPUT.value:
        raise UsageError("--output is needed: the folder that everything is written to")
    folder = Path(_OUTPUT.value).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    conduct.run(cases, folder, ends, plan.share)
    files.write_whole(folder / "tables.md", page.tables(folder))
    print(page.tables(folder))


if __name__ == "__main__":
    command_line.main(run, ())
