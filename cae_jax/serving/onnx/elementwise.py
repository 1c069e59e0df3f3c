"""Primitives that work element by element, in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cae_jax.serving.onnx.program import Step, Value
from cae_jax.serving.onnx.writer import Laid, Writer, plain

_BINARY = {
    **{"add": "Add", "add_any": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "max": "Max"},
    **{"min": "Min", "pow": "Pow", "eq": "Equal", "lt": "Less", "le": "LessOrEqual"},
    **{"gt": "Greater", "ge": "GreaterOrEqual"},
}
_LOGIC = {"and": ("And", "BitwiseAnd"), "or": ("Or", "BitwiseOr"), "xor": ("Xor", "BitwiseXor")}
_UNARY = {
    **{"neg": "Neg", "sign": "Sign", "floor": "Floor", "ceil": "Ceil", "exp": "Exp", "log": "Log"},
    **{"tanh": "Tanh", "logistic": "Sigmoid", "sqrt": "Sqrt", "sin": "Sin", "cos": "Cos"},
    **{"tan": "Tan", "asin": "Asin", "acos": "Acos", "atan": "Atan", "sinh": "Sinh"},
    **{"cosh": "Cosh", "erf": "Erf", "abs": "Abs"},
}


def spread(w: Writer, step: Step, function: Callable[..., str]) -> Laid:
    """Returns function(the names of the operands) where operands broadcast as they lie."""
    rank = len(step.outs[0].shape)
    laid = [w.laid(v) for v in step.ins]
    unknown = [at for v, at in zip(step.ins, laid, strict=True) if w.known(v) is None]
    largest = max(unknown, key=lambda at: (len(at.shape) == rank, int(np.prod(at.shape))))
    shape = np.broadcast_shapes(*(at.shape for at in laid))
    if len(largest.perm) != rank:  # scalars choose among constants, say
        return plain(function(*(w.transpose(at.name, at.perm) for at in laid)), shape)
    perm = largest.perm
    return Laid(function(*(_operand(w, v, perm) for v in step.ins)), shape, perm)


def _operand(w: Writer, value: Value, perm: tuple[int, ...]) -> str:
    return w.small(value, perm if len(value.shape) == len(perm) else range(len(value.shape)))


def binary(w: Writer, step: Step) -> list[Laid]:
    """Returns add, mul, max, comparisons and the like."""
    if step.name in ("max", "min"):
        for value, bound in (step.ins, step.ins[::-1]):
            number = w.known(bound)
            if number is not None and number.size == 1 and value.dtype == np.float32:
                return [_bounded(w, step.name, value, float(number.item()))]
    return [spread(w, step, lambda a, b: w.op(_BINARY[step.name], a, b))]


def _bounded(w: Writer, name: str, value: Value, bound: float) -> Laid:
    """A maximum or minimum with a number, as what is computed together with a convolution."""
    at = w.laid(value)
    if name == "max" and bound == 0:
        return at._replace(name=w.op("Relu", at.name))
    if name == "max":
        return at._replace(name=w.op("Clip", at.name, w.const(bound, np.float32)))
    before = w.made_by(at.name)
    if before is not None and before[0] == "Relu" and bound >= 0:
        clipped = w.op("Clip", before[1][0], w.const(0, np.float32), w.const(bound, np.float32))
        return at._replace(name=clipped)
    return at._replace(name=w.op("Clip", at.name, "", w.const(bound, np.float32)))


def unary(w: Writer, step: Step) -> list[Laid]:
    """Returns what ONNX has an operator of the same meaning for."""
    return [spread(w, step, lambda a: w.op(_UNARY[step.name], a))]


def logic(w: Writer, step: Step) -> list[Laid]:
    """Returns and, or, xor: of bools or of bits."""
    of_bools, of_bits = _LOGIC[step.name]
    kind = of_bools if step.ins[0].dtype == bool else of_bits
    return [spread(w, step, lambda a, b: w.op(kind, a, b))]


def is_not(w: Writer, step: Step) -> list[Laid]:
    """Returns not: of bools or of bits."""
    kind = "Not" if step.ins[0].dtype == bool else "BitwiseNot"
    return [spread(w, step, lambda a: w.op(kind, a))]


def unequal(w: Writer, step: Step) -> list[Laid]:
    """Returns a != b."""
    return [spread(w, step, lambda a, b: w.op("Not", w.op("Equal", a, b)))]


def remainder(w: Writer, step: Step) -> list[Laid]:
    """Returns what division leaves, of the dividend's sign."""
    return [spread(w, step, lambda a, b: w.op("Mod", a, b, fmod=1))]


def square(w: Writer, step: Step) -> list[Laid]:
    """Returns x * x."""
    return [spread(w, step, lambda a: w.op("Mul", a, a))]


def integer_pow(w: Writer, step: Step) -> list[Laid]:
    """Returns x to an integer power, by products as XLA has it."""
    power = step.params["y"]

    def raised(a: str) -> str:
        found, base, left = None, a, abs(power)
        while left:
            if left % 2:
                found = base if found is None else w.op("Mul", found, base)
            left //= 2
            base = w.op("Mul", base, base) if left else base
        if found is None:
            return w.op("Add", w.op("Mul", a, _number(w, step, 0)), _number(w, step, 1))
        return w.op("Reciprocal", found) if power < 0 else found

    return [spread(w, step, raised)]


def rsqrt(w: Writer, step: Step) -> list[Laid]:
    """Returns 1 / sqrt(x)."""
    return [spread(w, step, lambda a: w.op("Reciprocal", w.op("Sqrt", a)))]


def exp2(w: Writer, step: Step) -> list[Laid]:
    """Returns 2 ** x."""
    return [spread(w, step, lambda a: w.op("Pow", _number(w, step, 2), a))]


def log1p(w: Writer, step: Step) -> list[Laid]:
    """Returns log(1 + x), also of small x: x log(u) / (u - 1) with u = 1 + x rounded, as W. Kahan
    has it."""

    def of(a: str) -> str:
        one = _number(w, step, 1)
        u = w.op("Add", a, one)
        exact = w.op("Div", w.op("Mul", a, w.op("Log", u)), w.op("Sub", u, one))
        return w.op("Where", w.op("Equal", u, one), a, exact)

    return [spread(w, step, of)]


def expm1(w: Writer, step: Step) -> list[Laid]:
    """Returns exp(x) - 1, also of small x: (u - 1) x / log(u) with u = exp(x) rounded."""

    def of(a: str) -> str:
        one = _number(w, step, 1)
        u = w.op("Exp", a)
        less = w.op("Sub", u, one)
        exact = w.op("Div", w.op("Mul", less, a), w.op("Log", u))
        large = w.op("Greater", w.op("Abs", a), one)  # u may be 0 or infinite there
        return w.op("Where", large, less, w.op("Where", w.op("Equal", u, one), a, exact))

    return [spread(w, step, of)]


def rounded(w: Writer, step: Step) -> list[Laid]:
    """Returns the nearest whole number; halves to even, or away from zero."""
    to_even = "EVEN" in str(step.params["rounding_method"])

    def of(a: str) -> str:
        if to_even:
            return w.op("Round", a)
        away = w.op("Floor", w.op("Add", w.op("Abs", a), _number(w, step, 0.5)))
        return w.op("Mul", w.op("Sign", a), away)

    return [spread(w, step, of)]


def is_finite(w: Writer, step: Step) -> list[Laid]:
    """Returns where x is neither infinite nor NaN."""
    return [spread(w, step, lambda a: w.op("Not", w.op("Or", w.op("IsNaN", a), w.op("IsInf", a))))]


def leaky_relu(w: Writer, step: Step) -> list[Laid]:
    """Returns x where it is not negative, and elsewhere a share of it."""
    return [spread(w, step, lambda a: w.op("LeakyRelu", a, alpha=step.params["share"]))]


def clamp(w: Writer, step: Step) -> list[Laid]:
    """Returns x between two bounds."""
    return [spread(w, step, lambda low, x, high: w.op("Min", w.op("Max", x, low), high))]


def select(w: Writer, step: Step) -> list[Laid]:
    """Returns at every place the case that a bool, or an index, names."""

    def of(which: str, *cases: str) -> str:
        if step.ins[0].dtype == bool:
            return w.op("Where", which, cases[1], cases[0])
        found = cases[-1]
        for i, case in reversed(list(enumerate(cases[:-1]))):
            number = w.const(i, step.ins[0].dtype)
            found = w.op("Where", w.op("LessOrEqual", which, number), case, found)
        return found

    return [spread(w, step, of)]


def convert(w: Writer, step: Step) -> list[Laid]:
    """Returns the same numbers as another type."""
    return [spread(w, step, lambda a: w.cast(a, step.outs[0].dtype))]


def shift(w: Writer, step: Step) -> list[Laid]:
    """Returns bits shifted, zeros in their place."""
    way = "LEFT" if step.name == "shift_left" else "RIGHT"

    def of(a: str, by: str) -> str:
        moved = w.op("BitShift", w.cast(a, "uint32"), w.cast(by, "uint32"), direction=way)
        return w.cast(moved, step.outs[0].dtype)

    return [spread(w, step, of)]


def _number(w: Writer, step: Step, value: Any) -> str:
    return w.const(value, step.ins[0].dtype)


RULES: dict[str, Callable[[Writer, Step], list[Laid]]] = {
    **dict.fromkeys(_BINARY, binary),
    **dict.fromkeys(_UNARY, unary),
    **dict.fromkeys(_LOGIC, logic),
    **dict.fromkeys(("shift_left", "shift_right_logical"), shift),
    **{"not": is_not, "ne": unequal, "rem": remainder},
    **{"square": square, "integer_pow": integer_pow, "rsqrt": rsqrt, "exp2": exp2},
    **{"log1p": log1p, "expm1": expm1, "round": rounded, "is_finite": is_finite},
    **{
        "clamp": clamp,
        "leaky_relu": leaky_relu,
        "select_n": select,
        "convert_element_type": convert,
    },
}
