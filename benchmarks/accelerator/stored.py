"""Variables and other arrays in one file, from one process to another."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from cae_jax import files
from cae_jax.types import Variables

_VARIABLE, _ARRAY = "variable:", "array:"


def save(path: Path, variables: Variables, arrays: Mapping[str, np.ndarray]) -> None:
    """Writes nested dicts of arrays, and arrays by name."""
    found = {f"{_ARRAY}{name}": np.asarray(each) for name, each in arrays.items()}
    for keys, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        name = jax.tree_util.keystr(keys, simple=True, separator="/")
        found[f"{_VARIABLE}{name}"] = np.asarray(leaf)
    buffer = io.BytesIO()
    np.savez(buffer, **found)
    files.write_whole(path, buffer.getvalue())


def load(path: Path) -> tuple[Variables, dict[str, np.ndarray]]:
    """Returns what `save` wrote."""
    variables: Variables = {}
    arrays = {}
    with np.load(path) as found:
        for name in found.files:
            kind, _, rest = name.partition(":")
            if f"{kind}:" == _ARRAY:
                arrays[rest] = found[name]
                continue
            *above, last = rest.split("/")
            at = variables
            for key in above:
                at = at.setdefault(key, {})
            at[last] = found[name]
    return variables, arrays
