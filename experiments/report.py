"""One HTML file for each finished run of a workdir and one over all, from the runs' own files."""

from __future__ import annotations

from pathlib import Path

from absl import flags

from cae_jax.reports import html
from cae_jax.runs import config
from cae_jax.types import UsageError


def run() -> None:
    """Writes the pages of the flags' workdir and prints where the one over all stands."""
    if not flags.FLAGS.workdir:
        raise UsageError("--workdir is needed: the folder that experiments.run wrote")
    written = html.write(Path(flags.FLAGS.workdir).expanduser())
    print(f"{len(written) - 1} runs: {written[-1]}")


if __name__ == "__main__":
    config.define(["workdir"])
    config.main(run)
