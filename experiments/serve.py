"""Puts a trained model to work: judges what a camera writes into a folder."""

from __future__ import annotations

from absl import flags

import cae_jax
from cae_jax.runs import command_line
from cae_jax.runs.build import use_compilation_cache
from cae_jax.serving.watch import options, watcher

flags.DEFINE_string("model", "", "an exported folder, or the workdir of a run")


def run() -> None:
    """Watches the folder of the flags until it is stopped."""
    model = command_line.needed("model", "what experiments.export or experiments.run wrote")
    inbox = command_line.needed("watch", "the folder that a camera writes into")
    output = command_line.needed("output", "where results.csv goes")
    asked = options.given()
    asked.check(inbox, output)  # before a model is loaded
    use_compilation_cache()
    detector = cae_jax.load(model)
    detector.warm_up()
    done = watcher.watch(detector, inbox, output, asked)
    print(
        f"{done.judged} images judged, {done.defective} of them defective, "
        f"{done.refused} refused: {output / 'results.csv'}"
    )


if __name__ == "__main__":
    options.define()
    command_line.main(run, [])
