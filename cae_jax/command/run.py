"""The main job: a folder of images in, a verdict per image out (thesis, Figure 5).

Without flags it runs on the built-in synthetic data, by --preset=quickstart.
--help --method=NAME lists the flags of that method.
"""

from __future__ import annotations

from absl import flags

from cae_jax.runs import command_line

_DRY_RUN = flags.DEFINE_bool("dry_run", False, "say what would be done and needed, do nothing")
_TIME_STEPS = flags.DEFINE_integer(
    "time_steps", 3, "of --dry_run: training steps to take, which tell the time; 0: none", 0, 1000
)


def run() -> None:
    """Runs the job of the flags and prints its results."""
    from cae_jax.reports import results  # --help need not wait for it
    from cae_jax.runs import dry_run, job

    settings = command_line.given()
    if _DRY_RUN.value:
        print(dry_run.forecast(job.plan([settings]), _TIME_STEPS.value))
        return
    outcome = job.run_grid([settings])
    if not outcome.cells:
        outcome.raise_first()
    print("\n" + results.format_table(outcome.table))
    print(f"\nEverything lies in {settings.folder.absolute()}:")
    print("  results.csv, and per CATEGORY/RUN/seed_N: report.html, scores.csv, metrics.json,")
    print("  gallery.png, whiskers.png, histogram.png, training_curve.png, checkpoints")
    outcome.raise_first()


if __name__ == "__main__":
    command_line.main(run, default_preset="quickstart", again=command_line.GOES_ON)
