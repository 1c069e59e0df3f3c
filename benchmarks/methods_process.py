"""Times one method in this process, whose peak memory is its own: benchmarks.methods's part."""

from __future__ import annotations

import json

import jax
from absl import flags

from benchmarks import engines, method_calls, options
from cae_jax.runs import command_line

OPTIONS = ("image_size", "images", "repeats")


def define() -> None:
    """Defines the flags that this program and benchmarks.methods have."""
    options.define(repeats=5)
    flags.DEFINE_list("against", [], f"engines: {', '.join(engines.GRAPH)}")
    flags.DEFINE_integer("image_size", 256, "side of the images in pixels", lower_bound=1)
    flags.DEFINE_integer("images", 16, "random good images to learn from", lower_bound=1)


def run() -> None:
    """Measures the method of the flags and prints a line of JSON."""
    jax.config.update("jax_enable_compilation_cache", False)
    image_size, *numbers = (command_line.value(name) for name in OPTIONS)
    settings = method_calls.settings_of(flags.FLAGS.entry, image_size)
    print(json.dumps(method_calls.measure(settings, *numbers, flags.FLAGS.against)))


if __name__ == "__main__":
    flags.DEFINE_string("entry", "", "the method")
    define()
    command_line.main(run, names=())
