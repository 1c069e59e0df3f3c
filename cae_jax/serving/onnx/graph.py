"""A JAX function as an ONNX model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import jax
import onnx
from onnx import helper

from cae_jax.serving.onnx import (
    elementwise,
    indexing,
    loops,
    patterns,
    products,
    program,
    reducing,
    resizing,
    shaping,
)
from cae_jax.serving.onnx.program import Body, Step
from cae_jax.serving.onnx.writer import Constants, Writer, graph, live, read_by, type_of
from cae_jax.types import CaeError

OPSET, IR_VERSION = 18, 8  # antialiased Resize came with 18
_RULES = {
    **elementwise.RULES,
    **shaping.RULES,
    **products.RULES,
    **reducing.RULES,
    **indexing.RULES,
}


def write(w: Writer, steps: list[Step]) -> None:
    """Writes the steps of a program; raises CaeError for a primitive that has no rule."""
    for step in steps:
        if step.name in loops.RULES:
            found = loops.RULES[step.name](w, step, write)
        elif step.name in _RULES:
            found = _RULES[step.name](w, step)
        else:
            raise CaeError(f"ONNX: no rule for the primitive {step.name}")
        for value, laid in zip(step.outs, found, strict=True):
            w.lay(value, laid)


def convert(
    function: Callable[[jax.Array], Sequence[jax.Array]],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    outputs: Sequence[str],
    dynamic_batch: bool = False,
    about: str = "",
    metadata: Mapping[str, str] = MappingProxyType({}),
    any_size: bool = True,
) -> onnx.ModelProto:
    """Returns a scoring function as a model.

    Args:
      function: images float32 [1, S, S, C] -> arrays that lead with 1. Pure; what it closes over
        becomes constants.
      inputs: the name of the images, and their shape [1, S, S, C].
      outputs: names of the arrays.
      dynamic_batch: whether the model takes any number of images. It goes through them one after
        the other, so that none can know the others.
      about: what the model says of itself, and errors of it.
      metadata: the same by name.
      any_size: whether it takes images of any height and width, and resizes them.

    Returns:
      A checked model. Its input is float32 [1, H, W, C], or [B, H, W, C]; H and W are any, or S.

    Raises:
      CaeError: something in the function has no counterpart: a primitive, which is named.
    """
    ((name, image),) = inputs.items()
    w = Writer(Constants())
    try:
        body = program.trace(function, [image])
        patterns.found(body)
        names = (_each if dynamic_batch else _one)(w, body, name, any_size)
    except CaeError as error:
        raise CaeError(f"{about}: {error}" if about else str(error)) from error
    for found, output in zip(names, outputs, strict=True):
        w.nodes.append(helper.make_node("Identity", [found], [output]))
    batch = "B" if dynamic_batch else 1
    sides = ("H", "W") if any_size else image.shape[1:3]
    ins = [(name, image.dtype, (batch, *sides, image.shape[3]))]
    outs = [(n, v.dtype, (batch, *v.shape[1:])) for n, v in zip(outputs, body.outs, strict=True)]
    made = model(w, ins, outs, about, metadata)
    onnx.checker.check_model(made, full_check=True)
    return made


def _one(w: Writer, body: Body, name: str, any_size: bool) -> list[str]:
    """The outputs for the single image of that name."""
    as_it_is = resizing.fits(w, name, body.ins[0].shape[1:3]) if any_size else ""
    first = w.op("Squeeze", name, w.ints([0]))
    _image(w, body, first, as_it_is)
    write(w, body.steps)
    return [w.full(v) for v in body.outs]


def _image(w: Writer, body: Body, image: str, as_it_is: str) -> None:
    """The body's input, an image that is resized if it has to be, or may be."""
    if as_it_is:
        resizing.resized(w, body.ins[0], image, as_it_is)
    else:
        resizing.kept(w, body.ins[0], image)


def _each(w: Writer, body: Body, name: str, any_size: bool) -> list[str]:
    """The outputs for all images of that name, by a loop."""
    as_it_is = resizing.fits(w, name, body.ins[0].shape[1:3]) if any_size else ""
    inner, image = w.inner(), w.new("image")
    _image(inner, body, image, as_it_is)
    write(inner, body.steps)
    outs = []
    for value in body.outs:
        found = inner.ops("Squeeze", [inner.full(value), inner.ints([0])], 1)[0]
        outs.append((found, value.dtype, value.shape[1:]))
    sides = ("H", "W") if any_size else body.ins[0].shape[1:3]
    ins = [(image, body.ins[0].dtype, (*sides, body.ins[0].shape[3]))]
    turn = graph(inner, "image", ins, outs)
    together = w.ops("Scan", [name], len(outs), body=turn, num_scan_inputs=1)
    _own_constants(w)
    return together


def _own_constants(w: Writer) -> None:
    """Puts the constants of the last node's graph into it: ONNX Runtime knows them there, and
    computes its convolutions in the fast layout; in twice the time where they are outside."""
    (body,) = (a.g for a in w.nodes[-1].attribute if a.HasField("g"))
    names = sorted(read_by(body.node) - read_by(w.nodes[:-1]))
    body.initializer.extend(w.constants.tensors[n] for n in names if n in w.constants.tensors)


def of_function(
    function: Callable[..., Sequence[jax.Array]],
    inputs: Mapping[str, jax.ShapeDtypeStruct],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Returns a function of arrays as a model, of the same shapes."""
    body = program.trace(function, list(inputs.values()))
    patterns.found(body)
    w = Writer(Constants())
    for value, name in zip(body.ins, inputs, strict=True):
        w.put(value, name)
    write(w, body.steps)
    for value, name in zip(body.outs, outputs, strict=True):
        w.nodes.append(helper.make_node("Identity", [w.full(value)], [name]))
    ins = [(n, v.dtype, v.shape) for n, v in zip(inputs, body.ins, strict=True)]
    outs = [(n, v.dtype, v.shape) for n, v in zip(outputs, body.outs, strict=True)]
    return model(w, ins, outs)


def model(
    w: Writer,
    ins: Sequence[tuple],
    outs: Sequence[tuple],
    about: str = "",
    metadata: Mapping[str, str] = MappingProxyType({}),
) -> onnx.ModelProto:
    """Returns what was written as a model, of (name, dtype, shape) of its inputs and outputs."""
    made = [helper.make_tensor_value_info(n, type_of(t), s) for n, t, s in ins]
    given = [helper.make_tensor_value_info(n, type_of(t), s) for n, t, s in outs]
    nodes = live(w.nodes, [n for n, _, _ in outs])
    used = read_by(nodes)
    constants = [tensor for name, tensor in w.constants.tensors.items() if name in used]
    whole = helper.make_graph(nodes, "cae_jax", made, given, initializer=constants)
    found = helper.make_model(
        whole,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="cae_jax",
        doc_string=about,
    )
    helper.set_model_props(found, dict(metadata))
    return found
