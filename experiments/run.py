"""The main job: a folder of images in, a verdict per image out (thesis, Figure 5).

Without flags it runs on the built-in synthetic data, by experiments/presets/quickstart.flags.
"""

from __future__ import annotations

from absl import flags

from cae_jax.reports import results
from cae_jax.runs import config, dry_run, job

_DRY_RUN = flags.DEFINE_bool("dry_run", False, "say what would be done and needed, do nothing")


def run() -> None:
    """Runs the job of the flags and prints its results."""
    settings = config.from_flags()
    if _DRY_RUN.value:
        cells, method = job.plan(settings)
        print(dry_run.describe(cells, {(settings.model, settings.loss): method}))
        return
    table = job.run(settings)
    print("\n" + results.format_table(table))
    print(f"\nEverything lies in {settings.folder.absolute()}:")
    print("  results.csv, and per CATEGORY/MODEL/seed_N: report.html, scores.csv, metrics.json,")
    print("  gallery.png, whiskers.png, histogram.png, training_curve.png, checkpoints")


if __name__ == "__main__":
    config.define()
    config.main(run, default_preset="quickstart.flags")
