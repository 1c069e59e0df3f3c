"""Prints the table a model was built from: sizes, parameters, costs, errors in print."""

from __future__ import annotations

import json

from absl import flags

from cae_jax.reports import architectures
from cae_jax.runs import config
from cae_jax.types import unknown_name

_FORMAT = flags.DEFINE_string("format", "text", "text or json")


def run() -> None:
    """Describes the model of the flags, or compares all built-in ones."""
    if _FORMAT.value not in ("text", "json"):
        raise unknown_name("--format", _FORMAT.value, ("text", "json"))
    f = flags.FLAGS
    if f.model == "all":
        found = architectures.describe_all(f.channels, f.patch_size)
    else:
        options = config.Config(model_options=f.model_options).options()
        found = {f.model: architectures.describe(f.model, f.channels, f.patch_size, options)}
    if _FORMAT.value == "json":
        print(json.dumps(found if f.model == "all" else found[f.model], indent=2))
    elif f.model == "all":
        print(architectures.format_comparison(found.values()))
    else:
        print(architectures.format_rows(found[f.model]))


if __name__ == "__main__":
    config.define(["model", "model_options", "channels", "patch_size"])
    config.main(run)
