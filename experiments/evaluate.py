"""Scores, thresholds, metrics and plots made again from a workdir's checkpoints, no training."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from cae_jax import config, report, runs
from cae_jax.types import UsageError


def run() -> None:
    """Evaluates the workdir of the flags and prints its results."""
    if not flags.FLAGS.workdir:
        raise UsageError("--workdir is needed: the folder that experiments.run wrote")
    table = runs.evaluate(Path(flags.FLAGS.workdir).expanduser(), flags.FLAGS.data_dir)
    print("\n" + report.format_table(table))


if __name__ == "__main__":
    config.define(["workdir", "data_dir"])
    config.main(run)
