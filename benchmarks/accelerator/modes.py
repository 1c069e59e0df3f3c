"""The precisions that a method can be asked for, and how a device may round products besides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cae_jax.runs import config

# The flags that choose a precision. What stands behind none of them rounds as the device likes:
# a GPU takes TF32 for float32 products that do not ask for more.
_FLAGS = ("precision", "feature_precision")


def modes(flags: Mapping[str, Any]) -> dict[str, tuple[dict[str, Any], str | None]]:
    """Returns by name the flags of each precision of a run of those flags, "method" among them,
    and jax's precision of all other products.

    "float32" is what the method does unasked; "float32, all highest" leaves no product to the
    device. The latter's second is None for what the device does by itself.
    """
    found: dict[str, tuple[dict[str, Any], str | None]] = {"float32": ({}, None)}
    known = config.flags_of(flags["method"])
    for flag in _FLAGS:
        if flag in known and flags.get("features") != "filter_bank":  # which has none
            others = [kind for kind in known[flag].metadata["among"] if kind != "float32"]
            found |= {kind: ({flag: kind}, None) for kind in others}
    return found | {"float32, all highest": ({}, "highest")}
