"""Complex numbers as two real arrays, and Fourier transforms as products with their matrices.

ONNX Runtime's operators know no complex numbers. What alignment by phase correlation does with
them is little: transforms, products, moduli, and moving elements about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from cae_jax.serving.onnx.program import Body, Known, Step, Value, shown

_F = np.dtype(np.float32)
# of each part by itself
_MOVES = frozenset(
    {
        *("broadcast_in_dim", "reshape", "squeeze", "transpose", "slice", "concatenate", "stack"),
        *(
            "rev",
            "neg",
            "add",
            "sub",
            "add_any",
            "reduce_sum",
            "gather",
            "expand_dims",
            "select_n",
            "pad",
        ),
    }
)


@dataclasses.dataclass(eq=False)
class _Parts:
    """The steps of a program in real numbers, as they are found."""

    steps: list[Step] = dataclasses.field(default_factory=list)
    _of: dict[int, tuple[Value, Value]] = dataclasses.field(default_factory=dict)

    def of(self, value: Value) -> tuple[Value, Value]:
        """The real and the imaginary part."""
        if id(value) not in self._of:
            if not isinstance(value, Known):
                return value, _zeros(value.shape)
            array = np.broadcast_to(shown(value), value.shape)
            parts = array.real, array.imag
            self._of[id(value)] = _known(parts[0]), _known(parts[1])
        return self._of[id(value)]

    def are(self, value: Value, parts: tuple[Value, Value]) -> None:
        self._of[id(value)] = parts

    def does(self, name: str, ins: Sequence[Value], shape: Sequence[int], **params: Any) -> Value:
        """The output of a step of real numbers."""
        out = Value(tuple(shape), _F)
        self.steps.append(Step(name, params, list(ins), [out]))
        return out

    def is_what(self, step: Step, found: Value) -> None:
        """Says that a step's output, which is real, is that value."""
        params = {"new_sizes": found.shape, "dimensions": None}
        self.steps.append(Step("reshape", params, [found], step.outs))


def apart(body: Body) -> None:
    """Puts steps of real numbers in the place of those of complex ones."""
    for step in body.steps:
        for inner in step.bodies.values():
            apart(inner)
    parts = _Parts()
    for step in body.steps:
        if not any(_complex(v) for v in (*step.ins, *step.outs)):
            parts.steps.append(step)
        elif step.name in _RULES:
            _RULES[step.name](parts, step)
        elif step.name in _MOVES:
            _move(parts, step)
        else:
            parts.steps.append(step)  # has no rule, or none of complex numbers: it is named later
    body.steps[:] = parts.steps


def _move(p: _Parts, step: Step) -> None:
    pairs = [p.of(v) if _complex(v) else (v, v) for v in step.ins]
    out = step.outs[0]
    real, other = (
        p.does(step.name, list(ins), out.shape, **step.params) for ins in zip(*pairs, strict=True)
    )
    p.are(out, (real, other))


def _convert(p: _Parts, step: Step) -> None:
    (value,), out = step.ins, step.outs[0]
    if not _complex(out):
        p.is_what(step, p.of(value)[0])
    else:
        p.are(out, p.of(value))


def _mul(p: _Parts, step: Step) -> None:
    (a, b), (c, d), shape = p.of(step.ins[0]), p.of(step.ins[1]), step.outs[0].shape
    real = p.does("sub", [p.does("mul", [a, c], shape), p.does("mul", [b, d], shape)], shape)
    other = p.does("add", [p.does("mul", [a, d], shape), p.does("mul", [b, c], shape)], shape)
    p.are(step.outs[0], (real, other))


def _div(p: _Parts, step: Step) -> None:
    (a, b), (c, d), shape = p.of(step.ins[0]), p.of(step.ins[1]), step.outs[0].shape
    if not (isinstance(d, Known) and not np.any(d.array)):
        size = p.does(
            "add", [p.does("square", [c], c.shape), p.does("square", [d], d.shape)], shape
        )
        ac, bd = p.does("mul", [a, c], shape), p.does("mul", [b, d], shape)
        bc, ad = p.does("mul", [b, c], shape), p.does("mul", [a, d], shape)
        a, b, c = p.does("add", [ac, bd], shape), p.does("sub", [bc, ad], shape), size
    p.are(step.outs[0], (p.does("div", [a, c], shape), p.does("div", [b, c], shape)))


def _conj(p: _Parts, step: Step) -> None:
    real, other = p.of(step.ins[0])
    p.are(step.outs[0], (real, p.does("neg", [other], other.shape)))


def _complex_of(p: _Parts, step: Step) -> None:
    p.are(step.outs[0], (step.ins[0], step.ins[1]))


def _real(p: _Parts, step: Step) -> None:
    p.is_what(step, p.of(step.ins[0])[0])


def _imag(p: _Parts, step: Step) -> None:
    p.is_what(step, p.of(step.ins[0])[1])


def _abs(p: _Parts, step: Step) -> None:
    shape = step.outs[0].shape
    squares = [p.does("square", [part], shape) for part in p.of(step.ins[0])]
    p.is_what(step, p.does("sqrt", [p.does("add", squares, shape)], shape))


def _fft(p: _Parts, step: Step) -> None:
    """Transforms one axis after the other, of real numbers the last axis first, or last."""
    kind, lengths = step.params["fft_type"].name, step.params["fft_lengths"]
    real, back = "RFFT" in kind, "IRFFT" in kind or "IFFT" in kind
    rank = len(step.outs[0].shape)
    axes = list(range(rank - len(lengths), rank))
    pair = p.of(step.ins[0])
    if real and not back:
        cos, sin = _waves(lengths[-1], lengths[-1] // 2 + 1)
        pair = _along(p, pair[0], cos, axes[-1]), _along(p, pair[0], -sin, axes[-1])
    for axis, n in zip(axes[:-1] if real else axes, lengths, strict=False):
        cos, sin = _waves(n, n)
        cos, sin = (cos / n, -sin / n) if back else (cos, sin)
        pair = (
            _sum(p, pair, (cos, sin), axis),
            _sum(p, pair[::-1], (cos, -sin), axis),
        )
    if not (real and back):
        p.are(step.outs[0], pair)
        return
    n = lengths[-1]
    cos, sin = (wave.T / n for wave in _waves(n, n // 2 + 1))
    twice = np.full((n // 2 + 1, 1), 2.0)  # the other half is the conjugate
    twice[0] = 1
    twice[n // 2 :] = 1 if n % 2 == 0 else 2
    p.is_what(step, _sum(p, pair, (twice * cos, -twice * sin), axes[-1]))


def _sum(
    p: _Parts, pair: tuple[Value, Value], waves: tuple[np.ndarray, np.ndarray], axis: int
) -> Value:
    one, other = (_along(p, part, wave, axis) for part, wave in zip(pair, waves, strict=True))
    return p.does("add", [one, other], one.shape)


def _along(p: _Parts, value: Value, matrix: np.ndarray, axis: int) -> Value:
    """A product along an axis, whose place the result's keeps."""
    rank, shape = len(value.shape), list(value.shape)
    del shape[axis]
    dims = (((axis,), (0,)), ((), ()))
    found = p.does(
        "dot_general",
        [value, _known(matrix)],
        [*shape, matrix.shape[1]],
        dimension_numbers=dims,
    )
    order = [*range(axis), rank - 1, *range(axis, rank - 1)]
    return p.does("transpose", [found], [found.shape[a] for a in order], permutation=order)


def _waves(n: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Cosines and sines of 2 pi j k / n, [n, count]."""
    turns = np.outer(np.arange(n), np.arange(count)) % n * (2 * np.pi / n)
    return np.cos(turns), np.sin(turns)


def _complex(value: Value) -> bool:
    return getattr(value.dtype, "kind", "") == "c"


def _known(array: np.ndarray) -> Known:
    return Known(array.shape, _F, array.astype(_F))


def _zeros(shape: tuple[int, ...]) -> Known:
    return _known(np.zeros(shape))


_RULES: dict[str, Callable[[_Parts, Step], None]] = {
    **{"convert_element_type": _convert, "mul": _mul, "div": _div, "conj": _conj},
    **{"complex": _complex_of, "real": _real, "imag": _imag, "abs": _abs, "fft": _fft},
}
