"""Scores, thresholds, metrics and plots made again from a workdir's checkpoints, no training.

Flags of scoring that are given here, such as --distance=ssim, take the place of the run's own.
"""

from __future__ import annotations

from pathlib import Path

from absl import flags

from cae_jax.reports import results
from cae_jax.runs import config, job
from cae_jax.types import UsageError


def run() -> None:
    """Evaluates the workdir of the flags and prints its results."""
    if not flags.FLAGS.workdir:
        raise UsageError("--workdir is needed: the folder that experiments.run wrote")
    given = {name: flags.FLAGS[name] for name in config.SCORING}
    changes = {name: flag.value for name, flag in given.items() if flag.present}
    table = job.evaluate(Path(flags.FLAGS.workdir).expanduser(), flags.FLAGS.data_dir, changes)
    print("\n" + results.format_table(table))


if __name__ == "__main__":
    config.define(["workdir", "data_dir", *config.SCORING])
    config.main(run)
