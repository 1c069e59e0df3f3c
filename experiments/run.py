"""The main job: a folder of images in, a verdict per image out (thesis, Figure 5).

Without flags it runs on the built-in synthetic data, by experiments/presets/quickstart.flags.
"""

from __future__ import annotations

from cae_jax import config, report, runs


def run() -> None:
    """Runs the job of the flags and prints its results."""
    flags = config.from_flags()
    table = runs.run(flags)
    print("\n" + report.format_table(table))
    print(f"\nEverything lies in {flags.folder.absolute()}:")
    print("  results.csv, and per CATEGORY/MODEL/seed_N: report.html, scores.csv, metrics.json,")
    print("  gallery.png, whiskers.png, histogram.png, training_curve.png, checkpoints")


if __name__ == "__main__":
    config.define()
    config.main(run, default_preset="quickstart.flags")
