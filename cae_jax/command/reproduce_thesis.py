"""The thesis's experiment: categories x models x seeds, and its tables with ours beside them; with
--methods all systems that the thesis names: its Tables 2 and 3 whole, chapter 2's rows."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

from absl import flags

from cae_jax.reports import thesis as report
from cae_jax.runs import command_line
from cae_jax.runs.machine import multihost

with command_line.importing_jax():
    from cae_jax.runs import benchmark, dry_run, job, thesis

_MODELS = flags.DEFINE_list("models", None, "models, several with commas; default: the thesis's")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds, several with commas")
_OF_MODEL = flags.DEFINE_multi_string("flags_of_model", [], "MODEL:flag=value,flag=value")
_LOSSES = flags.DEFINE_list("losses", ["l2"], "losses, several with commas; Tables 2, 3: l2,ssim")
_METHODS = flags.DEFINE_list("methods", [], "systems that the thesis names, with commas, or all")
_OF_METHOD = flags.DEFINE_multi_string(
    "flags_of_method", [], "NAME:flag=value,flag=value: of one system of --methods, or one method"
)
_OF = flags.DEFINE_multi_string("flags_of", [], "CATEGORY:flag=value,flag=value, with --methods")
_TABLES_ONLY = flags.DEFINE_bool("tables_only", False, "with --methods: run nothing, write tables")
_TABLES = flags.DEFINE_string("tables_dir", "", "where the tables go; WORKDIR/tables when empty")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "say what would be done and needed, do nothing")


def run() -> None:
    """Runs what is not finished yet and writes the tables."""
    thesis.check_flags(command_line.words())
    seeds = benchmark.whole_numbers("seeds", _SEEDS.value, math.inf)
    for error in (errors := _systems(seeds) if _METHODS.present else _models(seeds)):
        print(f"error: {error}", file=sys.stderr)
    if errors:
        sys.exit(1)


def _models(seeds: list[int]) -> list[str]:
    settings = command_line.given()
    chosen = report.MODELS if _MODELS.value is None else _MODELS.value
    own = benchmark.flags_by_category(_OF_MODEL.value, "flags_of_model", "MODEL", ())
    configs = thesis.grid(settings, chosen, seeds, _LOSSES.value, own)
    if _DRY_RUN.value:
        print(dry_run.forecast(job.plan(configs)))
        return []
    multihost.start_from_flags()
    outcome = job.run_grid(configs)
    failed = {name: " ".join(str(error).split()) for name, error in outcome.failed.items()}
    if multihost.is_first():
        folder = _folder(settings.folder)
        print(report.write_tables(folder, outcome.rows(), failed, settings.excel))
    return [f"{name}: {cause}" for name, cause in failed.items()]


def _systems(seeds: list[int]) -> list[str]:
    given = command_line.present()
    workdir = Path(os.path.expanduser(given.pop("workdir", None) or "runs/thesis"))
    of_method = benchmark.flags_by_category(_OF_METHOD.value, "flags_of_method", "NAME")
    of_category = benchmark.flags_by_category(_OF.value)
    planned = thesis.planned(_METHODS.value, seeds, given, of_method, of_category, workdir)
    if _DRY_RUN.value:
        print(dry_run.forecast([cell for each in planned.grids for cell in each.cells]))
        return []
    if not _TABLES_ONLY.value:
        benchmark.run(planned.grids, workdir)
    cells, missing = thesis.finished(planned, workdir)
    print(report.write_systems(_folder(workdir), cells, missing, command_line.excel()))
    return [] if _TABLES_ONLY.value else [f"{m.system} {m.category}: {m.cause}" for m in missing]


def _folder(workdir: Path) -> Path:
    return Path(os.path.expanduser(_TABLES.value)) if _TABLES.value else workdir / "tables"


if __name__ == "__main__":
    multihost.define_flags()
    but, again = ("model", "seed", "loss"), command_line.GOES_ON
    command_line.main(run, but=but, of_entries=thesis.methods_of, again=again)
