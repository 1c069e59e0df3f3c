"""Operators of ONNX that a program spells out in several primitives."""

from __future__ import annotations

from cae_jax.serving.onnx import complexes, taps
from cae_jax.serving.onnx.program import Body, Known, Step, Value, prune, shown

_PHASES = (0, 1, 3, 2, 4, 5)  # of [n, h, w, sh, sw, c], to [n, h, sh, w, sw, c]


def found(body: Body) -> None:
    """Puts single steps in the place of several, in a program and its loops; complex numbers
    become two real ones."""
    complexes.apart(body)
    _found(body)


def _found(body: Body) -> None:
    for step in body.steps:
        for inner in step.bodies.values():
            _found(inner)
    of = {id(v): step for step in body.steps for v in step.outs}
    for i, step in reversed(list(enumerate(body.steps))):
        made = None
        if step.name == "select_n":
            made = _leaky_relu(step, of)
        elif step.name == "reshape":
            made = _depth_to_space(step, of)
        elif step.name == "add":
            made = taps.convolution(step, of)
        if made is not None:
            body.steps[i] = made
    prune(body)


def _leaky_relu(step: Step, of: dict[int, Step]) -> Step | None:
    """x where it is not negative, and elsewhere a share of it."""
    test = of.get(id(step.ins[0]))
    if test is None or test.name not in ("ge", "gt") or _number(test.ins[1]) != 0:
        return None
    x, (below, above) = test.ins[0], step.ins[1:]
    product = of.get(id(below))
    if above is not x or product is None or product.name != "mul":
        return None
    for one, other in (product.ins, product.ins[::-1]):
        share = _number(one)
        if other is x and share is not None:
            return Step("leaky_relu", {"share": share}, [x], step.outs)
    return None


def _depth_to_space(step: Step, of: dict[int, Step]) -> Step | None:
    """Maps put together pixel by pixel, those of each phase of a transposed convolution."""
    turned = of.get(id(step.ins[0]))
    if turned is None or turned.name != "transpose" or len(turned.outs[0].shape) != len(_PHASES):
        return None
    apart = of.get(id(turned.ins[0]))
    if tuple(turned.params["permutation"]) != _PHASES or apart is None or apart.name != "reshape":
        return None
    stacked, (n, h, w, down, right, c) = of.get(id(apart.ins[0])), apart.outs[0].shape
    if stacked is None or stacked.name != "stack" or stacked.params["axis"] != 3:
        return None
    whole = step.outs[0].shape == (n, h * down, w * right, c)
    if down != right or len(stacked.ins) != down * right or not whole:
        return None
    if any(isinstance(v, Known) for v in stacked.ins):
        return None
    return Step("depth_to_space", {"side": down}, stacked.ins, step.outs)


def _number(value: Value) -> float | None:
    if not isinstance(value, Known) or shown(value).size != 1:
        return None
    return float(shown(value).item())
