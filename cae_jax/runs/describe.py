"""Every method in a row: how it learns, how large what it learns is, what it says of an image; and
every flag on a page."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from cae_jax import methods, options
from cae_jax.runs import build, config, shared
from cae_jax.runs.config import configure
from cae_jax.training.schedule import Training
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


def every_flag() -> str:
    """Returns the page of every flag of a run, from the records that they are fields of, as
    Markdown."""
    records = {"Images": shared.Images, "Scores and verdicts": shared.Scoring}
    records |= {"The run": config.Config, "Learning by steps": Training}
    blocks, seen = [_HEAD], dict[str, Any]()
    for title, record in records.items():
        found = options.fields(record)
        new = {name: field for name, field in found.items() if name not in seen}
        blocks.append(f"## {title}\n\n{_table(new)}")
        seen |= {name: field.default for name, field in new.items()}
    for method in methods.names():
        own = methods.options_of(method)
        changed = {
            name: field
            for name, field in options.fields(own).items()
            if name not in seen or field.default != seen[name]
        }
        how = ", and those of learning by steps" if issubclass(own, Training) else ""
        blocks.append(f"## --method={method}\n\nIts own{how}.\n\n{_table(changed)}")
    return "\n\n".join(blocks) + "\n"


_HEAD = """\
# Every flag

Made from the code by `python -m experiments.describe --every_flag`. A flag is given as
`--epochs=8`. Another value of a flag of *identity* is another run; one of *scoring* can be judged
anew by `experiments.evaluate`; a *free* one changes no result. A method's table also has the shared
flags of which it has a default of its own."""


def _table(found: options.Fields) -> str:
    rows = ["| flag | default | part | meaning |", "|---|---|---|---|"]
    for name, field in sorted(found.items()):
        about = field.metadata
        default = options.to_text(field.default).replace("|", "\\|") or "*empty*"
        meaning = (about["help"] + options.bounds(field)).replace("|", "\\|")
        rows.append(f"| `{name}` | {default} | {about['part']} | {meaning} |")
    return "\n".join(rows)
