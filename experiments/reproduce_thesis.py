"""The thesis's experiment: categories x models x seeds, and its tables with ours beside them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from cae_jax.reports import thesis
from cae_jax.reports.thesis import page, tables
from cae_jax.runs import command_line, dry_run, job
from cae_jax.runs.config import Config
from cae_jax.runs.machine import multihost
from cae_jax.types import UsageError

_MODELS = flags.DEFINE_list("models", None, "models, several with commas; default: the thesis's")
_SEEDS = flags.DEFINE_list("seeds", ["0"], "seeds, several with commas")
_LOSSES = flags.DEFINE_list("losses", ["l2"], "losses, several with commas; Tables 2, 3: l2,ssim")
_TABLES = flags.DEFINE_string("tables_dir", "", "where the tables go; WORKDIR/tables when empty")
_DRY_RUN = flags.DEFINE_bool("dry_run", False, "say what would be done and needed, do nothing")


def run() -> None:
    """Runs what is not finished yet and writes the tables."""
    settings = command_line.given()
    if not all(seed.isdecimal() for seed in _SEEDS.value) or not _SEEDS.value:
        raise UsageError(f"--seeds={','.join(_SEEDS.value)}: must be whole numbers from 0 on")
    chosen = sorted(tables.PRINTED) if _MODELS.value is None else _MODELS.value
    configs = grid(settings, chosen, [*map(int, _SEEDS.value)], _LOSSES.value)
    if _DRY_RUN.value:
        print(dry_run.forecast(job.plan(configs)))
        return
    multihost.start_from_flags()
    outcome = job.run_grid(configs)
    failed = {name: " ".join(str(error).split()) for name, error in outcome.failed.items()}
    if multihost.is_first():
        _write(outcome.rows(), failed, settings.folder)
    for name, cause in failed.items():
        print(f"error: {name}: {cause}", file=sys.stderr)
    if failed:
        sys.exit(1)


def grid(
    settings: Config, chosen: Sequence[str], seeds: Sequence[int], losses: Sequence[str]
) -> list[Config]:
    """Returns every seed with every model and loss; a model trained on SSIM is judged by it."""
    for name, values in (("models", chosen), ("seeds", seeds), ("losses", losses)):
        if not values:
            raise UsageError(f"--{name}=: must be one or more, with commas")
    return [
        settings.changed(
            seed=seed,
            model=model,
            loss=loss,
            distance="ssim" if loss == "ssim" else settings.distance,
        )
        for seed in dict.fromkeys(seeds)
        for model in dict.fromkeys(chosen)
        for loss in dict.fromkeys(losses)
    ]


def _write(rows: list, failed: dict[str, str], workdir: Path) -> None:
    """Writes the tables and prints the shortest of them."""
    folder = Path(_TABLES.value).expanduser() if _TABLES.value else workdir / "tables"
    thesis.write_tables(folder, rows, failed)
    print(page.header(rows))
    for table in (tables.honest(rows), tables.tables2_3(rows)):
        print("\n".join([*page.grid(table), ""]))
    print(f"Tables: {folder.absolute()}")


if __name__ == "__main__":
    multihost.define_flags()
    command_line.main(run, but=("model", "seed", "loss"))
