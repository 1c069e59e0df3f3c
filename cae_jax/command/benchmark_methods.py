"""Methods side by side: methods x categories x seeds, and tables that say what is worth what.

Every cell is a run of experiments.run's job; the same command again does what is not finished.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from absl import flags

from cae_jax.reports import benchmark as tables
from cae_jax.runs import command_line, presets

with command_line.importing_jax():
    from cae_jax.runs import benchmark, dry_run

_METHODS = flags.DEFINE_list(
    "methods",
    [],
    "presets (by name, or FILE.flags) and methods, several with commas; those that a CPU can do: "
    + ",".join(presets.for_a_cpu()),
)
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds, several with commas")
_FEW = flags.DEFINE_list(
    "train_images", ["0"], "learn from so many images, several with commas; 0: from all"
)
_OF_METHOD = flags.DEFINE_multi_string(
    "flags_of_method", [], "NAME:name=value,name=value: of one entry of --methods, or one method"
)
_FLAGS_OF = flags.DEFINE_multi_string(
    "flags_of",
    [],
    "CATEGORY:name=value,name=value: flags of one category; can be given again",
)
_TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "run nothing, write the tables anew")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "say what would be done and needed, do nothing")


def run() -> None:
    """Runs what is not finished yet, and writes the tables."""
    given = command_line.present()
    workdir = Path(os.path.expanduser(given.pop("workdir", None) or "runs/benchmark"))
    excel = command_line.excel()
    failed = {}
    if not _TABLES_ONLY.value:
        grids = benchmark.grids(
            _METHODS.value or presets.for_a_cpu(),
            benchmark.whole_numbers("seeds", _SEEDS.value, 2**31 - 1),
            benchmark.whole_numbers("train_images", _FEW.value, 2**31 - 1),
            given,
            benchmark.flags_by_category(_FLAGS_OF.value),
            workdir,
            benchmark.flags_by_category(_OF_METHOD.value, "flags_of_method", "NAME"),
        )
        if _DRY_RUN.value:
            print(dry_run.forecast([cell for grid in grids for cell in grid.cells]))
            return
        failed = benchmark.run(grids, workdir)
    written = tables.write(workdir, excel)
    print("\n" + written.text)
    print(f"\nAll of it: {workdir.absolute() / 'benchmark.html'}")
    for name, cause in failed.items():
        print(f"error: {name}: {cause}", file=sys.stderr)
    if failed:
        sys.exit(1)


if __name__ == "__main__":
    command_line.main(
        run,
        but=("seed", "train_images"),
        of_entries=presets.methods_listed,
        again=command_line.GOES_ON,
    )
