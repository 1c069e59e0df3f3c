"""A model as the table it was built from: sizes, parameters, costs, contradictions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from cae_jax import models
from cae_jax.models.layers import table

_OPS = {"scale": "norm", "embedding": "embedding"}  # parameter -> layer; a kernel tells more


def architecture(
    name: str, channels: int, patch_size: int, options: Mapping[str, str]
) -> dict[str, Any]:
    """Returns a model's cost as plain data.

    A model with tables gives its rows; any other, a fork's, the rows of its parameters, and
    multiply-accumulates counted from its traced program.

    Returns:
      parameters: of the initialised module. macs_per_patch: of one forward pass. rows: per row
      part, name, op, features, kernel, stride, printed size (None where there is none), computed
      size, parameters, macs, agrees (False where print and arithmetic differ), note. Of a model
      without tables a row tells name, op, features, kernel and parameters; the rest is None.

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


def architectures(channels: int, patch_size: int) -> dict[str, dict[str, Any]]:
    """Returns `architecture` of every built-in model and of the variants that its file names."""
    found = {}
    for name in models.names():
        for options in ({}, *models.variants(name)):
            one = architecture(name, channels, patch_size, options)
            found[one["model"]] = one
    return found


def format_rows(found: Mapping[str, Any]) -> str:
    """Returns what `architecture` found as text, a line per row, "!" and a note if print errs."""
    lines = [f"{found['model']}: {found['parameters']:,} parameters, {_millions(found)} a patch"]
    if not any(row["computed"] for row in found["rows"]):
        return "\n".join([*lines, "", *_layer_lines(found["rows"])])
    head = ("part", "row", "kernel", "stride", "printed", "computed", "parameters", "MACs")
    lines += ["", "{:8} {:12} {:>6} {:>6} {:>13} {:>13} {:>11} {:>13}".format(*head)]
    for row in found["rows"]:
        lines.append(
            f"{row['part']:8} {row['name']:12} {_size(row['kernel']):>6} {row['stride']:>6} "
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


def _layer_lines(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line per layer of a model without tables, of what its parameters tell."""
    width = max([12, *(len(row["name"]) for row in rows)])
    lines = [f"{'layer':{width}} {'op':10} {'kernel':>8} {'features':>8} {'parameters':>11}"]
    for row in rows:
        lines.append(
            f"{row['name']:{width}} {row['op']:10} {_size(row['kernel']):>8} "
            f"{_size(row['features']):>8} {row['parameters']:>11,}"
        )
    return lines


def _millions(found: Mapping[str, Any]) -> str:
    return f"{found['macs_per_patch'] / 1e6:,.1f} M"


def _size(size: Any) -> str:
    if not size:
        return ""
    return "x".join(map(str, size)) if isinstance(size, tuple | list) else str(size)


def _table_rows(model: Any, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    rows = []
    printed = shape  # the table's own previous size, so that one bad row does not hide the next
    for part, layers in model.tables().items():
        for cost in table.costs(layers, shape, model.channels):
            row = cost.row
            literal = table.literal_size(row, printed)
            rows.append(
                {
                    "part": part,
                    "name": row.name,
                    "op": row.op,
                    "features": row.features or model.channels,
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
    groups: dict[str, dict[str, tuple[int, ...]]] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]:
        *layer, name = (str(getattr(key, "key", key)) for key in path)
        # a parameter outside any layer is one of its own
        groups.setdefault("/".join(layer) or name, {})[name] = leaf.shape
    nothing = dict.fromkeys(("stride", "padding", "printed", "literal", "computed"))
    return [
        {
            **{"part": "", "name": name, **nothing, **_layer(shapes)},
            "parameters": sum(map(math.prod, shapes.values())),
            **{"macs": 0, "agrees": True, "note": ""},
        }
        for name, shapes in groups.items()
    ]


def _layer(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The op, the kernel's size and the features of a layer, from the shapes of its parameters."""
    if "kernel" in shapes:
        *size, _, features = shapes["kernel"]
        return {
            "op": "conv" if size else "dense",
            "kernel": tuple(size) or None,
            "features": features,
        }
    op = next((op for name, op in _OPS.items() if name in shapes), "parameter")
    largest = max(shapes.values(), key=math.prod)
    return {"op": op, "kernel": None, "features": largest[-1] if largest else None}


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
