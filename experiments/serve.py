"""Puts a trained model to work: judges what a camera writes into a folder."""

from __future__ import annotations

from absl import flags

import cae_jax
from cae_jax.runs import command_line
from cae_jax.runs.build import use_compilation_cache
from cae_jax.serving.watch import flags as watching

flags.DEFINE_string("model", "", "an exported folder, or the workdir of a run")


def run() -> None:
    """Watches the folder of the flags until it is stopped."""
    model = command_line.needed("model", "what experiments.export or experiments.run wrote")
    use_compilation_cache()
    watching.run(lambda: cae_jax.load(model))


if __name__ == "__main__":
    watching.define()
    command_line.main(run, [])
