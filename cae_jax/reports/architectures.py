"""A model as the table it was built from: sizes, parameters, costs, contradictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from cae_jax import models


def describe(
    name: str, channels: int, patch_size: int, options: Mapping[str, str]
) -> dict[str, Any]:
    """Returns a model's cost as plain data.

    A model with tables gives its rows; any other, a fork's, the rows of its parameters, and
    multiply-accumulates counted from its traced program.

    Returns:
      parameters: of the initialised module. macs_per_patch: of one forward pass. rows: per row
      part, name, op, kernel, stride, printed size (None where there is none), computed size,
      parameters, macs, agrees (False where print and arithmetic differ), note.

    Raises:
      UsageError: see `models.build`.
    """
    model = models.build(name, channels, patch_size, options)
    patch = jax.ShapeDtypeStruct((1, patch_size, patch_size, channels), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), patch)
    parameters = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(variables["params"]))
    if hasattr(model, "tables"):
        rows = _table_rows(model, (patch_size, patch_size, channels))
        macs = sum(row["macs"] for row in rows)
    else:
        rows = _parameter_rows(variables["params"])
        macs = _macs(jax.make_jaxpr(model.apply)(variables, patch).jaxpr)
    if options:
        name += ":" + ",".join(f"{key}={value}" for key, value in options.items())
    return {
        "model": name,
        "parameters": parameters,
        "macs_per_patch": macs,
        "rows": rows,
    }


def describe_all(channels: int, patch_size: int) -> dict[str, dict[str, Any]]:
    """Returns `describe` of every built-in model and of the variants that its file names."""
    found = {}
    for name in models.names():
        for options in ({}, *models.variants(name)):
            one = describe(name, channels, patch_size, options)
            found[one["model"]] = one
    return found


def format_rows(found: Mapping[str, Any]) -> str:
    """Returns what `describe` found as text: a line per row, "!" and a note where print errs."""
    lines = [f"{found['model']}: {found['parameters']:,} parameters, {_millions(found)} a patch"]
    head = (
        "part",
        "row",
        "kernel",
        "stride",
        "printed",
        "computed",
        "parameters",
        "MACs",
    )
    lines += ["", "{:8} {:12} {:>6} {:>6} {:>13} {:>13} {:>11} {:>13}".format(*head)]
    for row in found["rows"]:
        lines.append(
            f"{row['part']:8} {row['name']:12} {_size(row['kernel'])!s:>6} {row['stride']!s:>6} "
            f"{_size(row['printed']):>13} {_size(row['computed']):>13} {row['parameters']:>11,} "
            f"{row['macs']:>13,}{'' if row['agrees'] else ' !'}"
        )
    notes = [f"  {row['name']}: {row['note']}" for row in found["rows"] if row["note"]]
    if notes:
        lines += ["", "! the print contradicts itself; how the row is read:", *notes]
    return "\n".join(lines)


def format_comparison(found: Iterable[Mapping[str, Any]]) -> str:
    """Returns a line per model: parameters, multiply-accumulates, rows, contradictions."""
    lines = [
        f"{'model':28} {'parameters':>12} {'MACs a patch':>14} {'rows':>5} {'errors in print':>16}"
    ]
    for one in found:
        wrong = sum(not row["agrees"] for row in one["rows"])
        lines.append(
            f"{one['model']:28} {one['parameters']:>12,} {_millions(one):>14} "
            f"{len(one['rows']):>5} {wrong:>16}"
        )
    return "\n".join(lines)


def _millions(found: Mapping[str, Any]) -> str:
    return f"{found['macs_per_patch'] / 1e6:,.1f} M"


def _size(size: Any) -> str:
    if not size:
        return ""
    return "x".join(map(str, size)) if isinstance(size, tuple | list) else str(size)


def _table_rows(model: Any, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    rows = []
    printed = shape  # the table's own previous size, so that one bad row does not hide the next
    for part, table in model.tables().items():
        for cost in table.costs(table, shape, model.channels):
            row = cost.row
            literal = table.literal_size(row, printed)
            rows.append(
                {
                    "part": part,
                    "name": row.name,
                    "op": row.op,
                    "kernel": row.kernel,
                    "stride": row.printed_stride or row.stride,
                    "padding": row.printed_padding,
                    "printed": row.printed or None,
                    "literal": literal,
                    "computed": cost.output,
                    "parameters": cost.parameters,
                    "macs": cost.macs,
                    "agrees": literal is None or literal == row.printed[0],
                    "note": row.note,
                }
            )
            printed, shape = row.printed or cost.output, cost.output
    return rows


def _parameter_rows(params: Mapping[str, Any]) -> list[dict[str, Any]]:
    """A row per layer of a model without tables: what its parameters tell."""
    groups: dict[str, list[tuple[int, ...]]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        names = [str(getattr(key, "key", key)) for key in path]
        groups.setdefault("/".join(names[:-1]), []).append(leaf.shape)
    nothing = dict.fromkeys(("stride", "padding", "printed", "literal", "computed"))
    return [
        {
            **{"part": "", "name": name, "op": "", **nothing},
            "kernel": max(shapes, key=len)[:-2] or None,
            "parameters": sum(map(math.prod, shapes)),
            **{"macs": 0, "agrees": True, "note": ""},
        }
        for name, shapes in groups.items()
    ]


def _macs(jaxpr: Any) -> int:
    """Counts the multiply-accumulates of convolutions and matrix products in a traced program."""
    total = 0
    for eqn in jaxpr.eqns:
        shapes = [variable.aval.shape for variable in eqn.invars if hasattr(variable, "aval")]
        out = eqn.outvars[0].aval.shape if eqn.outvars else ()
        if eqn.primitive.name == "conv_general_dilated":
            numbers = eqn.params["dimension_numbers"]
            weights = math.prod(shapes[1]) // shapes[1][numbers.rhs_spec[0]]
            total += math.prod(out) * weights // math.prod(eqn.params["lhs_dilation"])
        elif eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            total += math.prod(out) * math.prod(shapes[0][axis] for axis in contracted)
        for value in eqn.params.values():
            inner = getattr(value, "jaxpr", None)
            if inner is not None:
                total += _macs(getattr(inner, "jaxpr", inner))
    return total
