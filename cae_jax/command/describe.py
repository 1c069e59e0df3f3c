"""Prints the table a model was built from: sizes, parameters, costs, errors in print.

With --methods a row for each method: how it learns, how many parameters, its distances. With
--every_flag the page of every flag of a run, in Markdown.
"""

from __future__ import annotations

import json

from absl import flags

from cae_jax import methods
from cae_jax.runs import command_line
from cae_jax.types import unknown_name

_FORMAT = flags.DEFINE_string("format", "text", "text or json")
_METHODS = flags.DEFINE_list("methods", [], "methods to describe in the place of a model, or all")
_EVERY_FLAG = flags.DEFINE_bool("every_flag", False, "print docs/flags.md")


def run() -> None:
    """Describes the model of the flags, or compares all built-in ones."""
    from cae_jax.reports import architectures  # a --help need not wait for them
    from cae_jax.runs import describe

    if _FORMAT.value not in ("text", "json"):
        raise unknown_name("--format", _FORMAT.value, ("text", "json"))
    if _METHODS.value:
        rows = describe.of_methods(methods.names() if _METHODS.value == ["all"] else _METHODS.value)
        print(json.dumps(rows, indent=2) if _FORMAT.value == "json" else describe.text(rows))
        return
    if _EVERY_FLAG.value:
        print(describe.every_flag(), end="")
        return
    c = command_line.given()
    o = c.options
    if o.model == "all":
        found = architectures.architectures(c.channels, o.patch_size)
    else:
        found = {o.model: architectures.architecture(o.model, c.channels, o.patch_size, o.of_model)}
    if _FORMAT.value == "json":
        print(json.dumps(found if o.model == "all" else found[o.model], indent=2))
    elif o.model == "all":
        print(architectures.format_comparison(found.values()))
    else:
        print(architectures.format_rows(found[o.model]))


if __name__ == "__main__":
    command_line.main(run, ["model", "model_options", "code", "channels", "patch_size"])
