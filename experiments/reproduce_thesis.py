"""The thesis's experiment: categories x models x seeds, and its tables with ours beside them."""

from __future__ import annotations

import sys
from pathlib import Path

from absl import flags

from cae_jax import models
from cae_jax.reports.thesis import page, tables
from cae_jax.runs import config, dry_run, reproduction
from cae_jax.runs.machine import multihost
from cae_jax.types import UsageError

_FLAGS = [name for name in config.names() if name not in ("model", "seed", "loss")]
_MODELS = flags.DEFINE_list("models", list(models.names()), "models, several with commas")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds, several with commas")
_LOSSES = flags.DEFINE_list("losses", ["l2"], "losses, several with commas; Tables 2, 3: l2,ssim")
_TABLES = flags.DEFINE_string("tables_dir", "", "where the tables go; WORKDIR/tables when empty")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "say what would be done and needed, do nothing")


def run() -> None:
    """Runs what is not finished yet and writes the tables."""
    settings = config.from_flags(_FLAGS)
    if not all(seed.isdecimal() for seed in _SEEDS.value) or not _SEEDS.value:
        raise UsageError(f"--seeds={','.join(_SEEDS.value)}: must be whole numbers from 0 on")
    seeds = list(dict.fromkeys(map(int, _SEEDS.value)))
    models_, losses = (list(dict.fromkeys(flag.value)) for flag in (_MODELS, _LOSSES))
    if _DRY_RUN.value:
        print(dry_run.describe(*reproduction.plan(settings, models_, seeds, losses)))
        return
    multihost.start_from_flags()
    outcome = reproduction.reproduce(settings, models_, seeds, losses)
    if multihost.is_first():
        _write(outcome, settings)
    for name, cause in outcome.failed.items():
        print(f"error: {name}: {cause}", file=sys.stderr)
    if outcome.failed:
        sys.exit(1)


def _write(outcome: reproduction.Outcome, settings: config.Config) -> None:
    """Writes the tables and prints the shortest of them."""
    folder = Path(_TABLES.value).expanduser() if _TABLES.value else settings.folder / "tables"
    reproduction.write_tables(folder, outcome)
    print(page.header(outcome.cells))
    for table in (tables.honest(outcome.cells), tables.tables2_3(outcome.cells)):
        print("\n".join([*page.grid(table), ""]))
    print(f"Tables: {folder.absolute()}")


if __name__ == "__main__":
    config.define(_FLAGS)
    multihost.define_flags()
    config.main(run)
