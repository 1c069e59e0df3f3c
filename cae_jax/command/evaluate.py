"""Scores, thresholds, metrics and plots made again from a workdir's checkpoints, no training.

Flags of scoring that are given here, such as --distance=ssim, take the place of the run's own.
"""

from __future__ import annotations

from cae_jax.runs import command_line


def run() -> None:
    """Evaluates the workdir of the flags and prints its results."""
    from cae_jax.reports import results  # a --help need not wait for them
    from cae_jax.runs import job

    workdir = command_line.needed("workdir", "the folder of a run")
    changes = command_line.present()
    data_dir = changes.pop("data_dir", "")
    del changes["workdir"]
    table = job.evaluate_again(workdir, data_dir, changes)
    print("\n" + results.format_table(table))


if __name__ == "__main__":
    names, again = (
        ["workdir", "data_dir", "save_maps", "csv"],
        "the same command judges all runs anew",
    )
    command_line.main(run, names, of_runs=True, again=again)
