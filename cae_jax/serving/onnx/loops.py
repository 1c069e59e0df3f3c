"""Loops and choices, in ONNX."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cae_jax.serving.onnx.program import Body, Step, Value
from cae_jax.serving.onnx.writer import Laid, Writer, graph, of_body, plain

Write = Callable[[Writer, list[Step]], None]


def scan(w: Writer, step: Step, write: Write) -> list[Laid]:
    """Returns what a loop over the first axis of arrays carries to its end, and what it makes of
    each of their elements."""
    p, body = step.params, step.bodies["jaxpr"]
    consts, carry, n = p["num_consts"], p["num_carry"], p["length"]
    over = step.ins[consts + carry :]
    if not over:  # a Scan needs something to go over
        over = [Value((n,), np.dtype(np.int32))]
        w.put(over[0], w.const(np.arange(n), np.int32))
        body = Body([*body.ins, Value((), np.dtype(np.int32))], body.steps, body.outs)
    inner = _entered(w, body)
    write(inner, body.steps)
    made = of_body(inner, body, "turn")
    given = [w.full(v) for v in [*step.ins[consts : consts + carry], *over]]
    back, made_of = int(p["reverse"]), len(step.outs) - carry
    names = w.ops(
        "Scan",
        given,
        len(step.outs),
        body=made,
        num_scan_inputs=len(over),
        scan_input_directions=[back] * len(over),
        **({"scan_output_directions": [back] * made_of} if made_of else {}),
    )
    return [plain(name, v.shape) for name, v in zip(names, step.outs, strict=True)]


def while_loop(w: Writer, step: Step, write: Write) -> list[Laid]:
    """Returns what a loop carries to its end, which a function of that tells."""
    p, turn, more = step.params, step.bodies["body_jaxpr"], step.bodies["cond_jaxpr"]
    start = step.ins[p["cond_nconsts"] + p["body_nconsts"] :]
    first = w.inner()
    first.nodes = w.nodes  # the question is asked once before the loop
    for own, value in zip(more.ins, start, strict=True):
        first.lay(own, w.laid(value))
    write(first, more.steps)
    goes = first.full(more.outs[0])
    inner = _entered(w, turn)
    write(inner, turn.steps)
    for own, value in zip(more.ins, turn.outs, strict=True):
        inner.lay(own, inner.laid(value))
    write(inner, more.steps)
    again = inner.ops("Identity", [inner.full(more.outs[0])], 1)[0]
    i, go = w.new("i"), w.new("go")
    before = [(i, np.int64, ()), (go, np.bool_, ())]
    made = of_body(inner, turn, "turn", [*_typed(before)], [*_typed([(again, np.bool_, ())])])
    names = w.ops("Loop", ["", goes, *(w.full(v) for v in start)], len(step.outs), body=made)
    return [plain(name, v.shape) for name, v in zip(names, step.outs, strict=True)]


def cond(w: Writer, step: Step, write: Write) -> list[Laid]:
    """Returns the outputs of the branch that an index names, or the nearest one."""
    index, count = w.full(step.ins[0]), len(step.bodies)
    names = _branch(w, step, write, index, 0, count)
    return [plain(name, v.shape) for name, v in zip(names, step.outs, strict=True)]


def _branch(w: Writer, step: Step, write: Write, index: str, i: int, count: int) -> list[str]:
    test = w.op("LessOrEqual", index, w.const(i, step.ins[0].dtype))
    chosen = _choice(w, step.bodies[str(i)], write)
    if i + 2 == count:
        other = _choice(w, step.bodies[str(i + 1)], write)
    else:
        inner = w.inner()
        names = _branch(inner, step, write, index, i + 1, count)
        outs = [(n, v.dtype, v.shape) for n, v in zip(names, step.outs, strict=True)]
        other = graph(inner, "branch", [], outs)
    return w.ops("If", [test], len(step.outs), then_branch=chosen, else_branch=other)


def _choice(w: Writer, body: Body, write: Write) -> object:
    inner = w.inner()
    write(inner, body.steps)
    return of_body(inner, body, "branch")


def _entered(w: Writer, body: Body) -> Writer:
    inner = w.inner()
    for value in body.ins:
        inner.put(value, w.new("in"))
    return inner


def _typed(ports: list[tuple]) -> list[tuple]:
    return [(name, np.dtype(dtype), shape) for name, dtype, shape in ports]


RULES: dict[str, Callable[[Writer, Step, Write], list[Laid]]] = {
    **{"scan": scan, "while": while_loop, "cond": cond},
}
