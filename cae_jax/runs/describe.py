"""Every method in a row: how it learns, how large what it learns is, what it says of an image."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from cae_jax import methods
from cae_jax.runs import build
from cae_jax.runs.config import configure
from cae_jax.types import Steps, WeightsError, unknown_name

_SHOWN = 6  # networks; more are one network's layers
N_IMAGES = 100  # good ones: how many a memory learns from says how large it is


def of_methods(names: Sequence[str]) -> list[dict[str, Any]]:
    """Returns a row for each method at its defaults.

    Returns:
      method; learns ("steps", or "fit"); parameters, of what is learned, of N_IMAGES where it
      learns in one pass; networks, the same by the first name in the variables; frozen, parameters
      of pretrained networks; distances; cause, why the rest is None: weights that are not there.

    Raises:
      UsageError: an unknown method.
    """
    known = methods.names()
    for name in names:
        if "." not in name and name not in known:
            raise unknown_name("method", name, known)
    return [_row(name) for name in names]


def text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Returns the rows as a table of words."""
    lines = [f"{'method':20} {'learns by':10} {'parameters':>12} {'pretrained':>12}  distances"]
    for row in rows:
        line = f"{row['method']:20} {row['learns'] or '':10} "
        if row["cause"]:
            lines.append(line + row["cause"])
            continue
        parts = [f"{name} {count:,}" for name, count in row["networks"].items()]
        lines.append(
            f"{line}{row['parameters']:>12,} {row['frozen']:>12,}  {', '.join(row['distances'])}"
        )
        if 1 < len(parts) <= _SHOWN:
            lines.append(f"{'':20} {'; '.join(parts)}")
    return "\n".join(lines)


def _row(name: str) -> dict[str, Any]:
    nothing = dict.fromkeys(("learns", "parameters", "networks", "frozen", "distances"))
    try:
        config = configure(method=name).resolved()
        method = config.build()
    except WeightsError as error:
        return {"method": name, **nothing, "cause": str(error)}
    params = build.shapes(config, N_IMAGES)[1]["params"]
    networks = {part: _count(tree) for part, tree in params.items()}
    return {
        "method": name,
        "learns": "steps" if isinstance(method.learn, Steps) else "fit",
        "parameters": _count(params),
        "networks": networks,
        "frozen": _count(dict(method.frozen)),
        "distances": list(method.distances),
        "cause": "",
    }


def _count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))
