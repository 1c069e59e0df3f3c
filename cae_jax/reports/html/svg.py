"""Curves as inline SVG, in the page's own colors and type, light and dark."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from markupsafe import Markup

from cae_jax.reports import charts
from cae_jax.reports.html import markup
from cae_jax.reports.rules import Mark

_WIDTH, _HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 12, 44  # margins
_DOTS = 24  # epochs up to which each has a dot
_RADIUS = {"oracle": 7.0, "leaks": 5.5, "honest": 3.5}  # points at one place are rings in rings


class _Axis(NamedTuple):
    low: float
    high: float
    start: float  # pixel of `low`
    end: float  # pixel of `high`
    log: bool = False
    whole: bool = False  # its values are integers

    def at(self, value: float) -> float:
        """The pixel of a value."""
        low, high, value = (
            (math.log10(x) for x in (self.low, self.high, value))
            if self.log
            else (self.low, self.high, value)
        )
        return self.start + (value - low) / (high - low) * (self.end - self.start)


class _Shape(NamedTuple):
    tag: str
    style: str  # CSS class
    attributes: dict[str, str]
    text: str = ""
    title: str = ""  # what a pointer that rests on it is told


def roc(
    fpr: np.ndarray, tpr: np.ndarray, points: Sequence[tuple[str, float, float, str]]
) -> Markup:
    """Returns the ROC curve [k] with operating points as (name, fpr, tpr, style); "" if empty."""
    if not len(fpr):
        return Markup()
    x, y = _plane()
    body = [
        _line([x.at(0), x.at(1)], [y.at(0), y.at(1)], "chance"),
        _line([x.at(v) for v in fpr], [y.at(v) for v in tpr], "curve"),
    ]
    for name, at_x, at_y, style in sorted(points, key=lambda point: -_RADIUS[point[3]]):
        body.append(_dot(x.at(at_x), y.at(at_y), style, _RADIUS[style], name))
    labels = ("good images called defective", "defective images found")
    return _chart("ROC curve", x, y, labels, body)


def pro(fpr: Sequence[float], overlap: Sequence[float], limit: float = 0.3) -> Markup:
    """Returns the PRO curve [k], the area up to `limit` shaded; "" if empty."""
    if not len(fpr):
        return Markup()
    x, y = _plane()
    xs, ys = [x.at(v) for v in fpr], [y.at(v) for v in overlap]
    inside = [v for v in fpr if v < limit]
    edge = float(np.interp(limit, fpr, overlap))
    area = [*zip(xs, ys, strict=True)][: len(inside)]
    area = [*area, (x.at(limit), y.at(edge)), (x.at(limit), y.at(0)), (xs[0], y.at(0))]
    across, down = zip(*area, strict=True)
    body = [_line(across, down, "area", "polygon"), _line(xs, ys, "curve")]
    return _chart("PRO curve", x, y, ("good pixels called defective", "region overlap"), body)


def histogram(of: charts.Histogram) -> Markup:
    """Returns the groups' histograms over shared bins, each as share of its images."""
    x = _across(of.x)
    y = _Axis(0, float(of.shares.max()) * 1.05, _HEIGHT - _BOTTOM, _TOP)
    across = [x.at(float(edge)) for edge in np.repeat(of.edges, 2)]
    body = []
    for group, share in zip(of.groups, of.shares, strict=True):
        up = [y.at(0), *(y.at(float(v)) for v in np.repeat(share, 2)), y.at(0)]
        body.append(_line(across, up, f"bars {group.style}", "polygon"))
    body += [_upright(x, mark) for mark in of.marks]
    return _chart("Histogram of distances", x, y, (of.x.label, "share of images"), body)


def whiskers(of: charts.Whiskers) -> Markup:
    """Returns the groups' boxes below each other, images beyond the whiskers as dots."""
    x, row = _across(of.x, left=112), 30
    height = _TOP + row * len(of.boxes) + _BOTTOM
    body = [_upright(x, mark, height) for mark in of.marks]
    for i, box in enumerate(of.boxes):
        middle, name = _TOP + row * (i + 0.5), box.group.name
        short = name if len(name) <= 15 else f"{name[:14]}…"
        body.append(_text(104, middle + 4, short, "name", name))
        if box.group.distances.size:
            body += _box(x, box, middle)
    y = _Axis(0, len(of.boxes), height - _BOTTOM, _TOP)
    return _chart("Whisker plot of distances", x, y, (of.x.label, ""), body, height)


def training(of: charts.Training) -> Markup:
    """Returns the curves of training over the epochs, those of validation images dashed."""
    x = _across(of.x)._replace(whole=True)
    y = _Axis(of.y.low, of.y.high, _HEIGHT - _BOTTOM, _TOP, of.y.log)
    body = []
    for curve in of.curves:
        style = f"curve{' validation' if curve.dashed else ''}"
        style += f" hue{curve.hue}" if curve.hue else ""
        xs = [x.at(float(v)) for v in curve.epochs]
        ys = [y.at(float(v)) for v in curve.values]
        body.append(_line(xs, ys, style))
        if len(xs) <= _DOTS:
            body += [_dot(at_x, at_y, style, 2.5) for at_x, at_y in zip(xs, ys, strict=True)]
    return _chart("Training curve", x, y, (of.x.label, of.y.label), body)


def _plane() -> tuple[_Axis, _Axis]:
    """Two axes from 0 to 1."""
    return _Axis(0, 1, _LEFT, _WIDTH - _RIGHT), _Axis(0, 1, _HEIGHT - _BOTTOM, _TOP)


def _across(axis: charts.Axis, left: float = _LEFT) -> _Axis:
    return _Axis(axis.low, axis.high, left, _WIDTH - _RIGHT, axis.log)


def _box(x: _Axis, box: charts.Box, middle: float) -> list[_Shape]:
    a, b, c, d, e = map(x.at, (box.low, box.first, box.median, box.third, box.high))
    top, style = middle - 8, f"box {box.group.style}"
    ends = f"M{a:.1f} {middle - 4}v8M{e:.1f} {middle - 4}v8"
    size = {"x": f"{b:.1f}", "y": f"{top}", "width": f"{max(d - b, 1):.1f}", "height": "16"}
    return [
        _path(f"M{a:.1f} {middle}H{b:.1f}M{d:.1f} {middle}H{e:.1f}{ends}", style),
        _Shape("rect", style, size),
        _path(f"M{c:.1f} {top}v16", f"median {box.group.style}"),
        *(_dot(x.at(float(v)), middle, style, 2) for v in box.beyond),
    ]


def _upright(x: _Axis, mark: Mark, height: float = _HEIGHT) -> _Shape:
    at = f"{x.at(mark.value):.1f}"
    ends = {"x1": at, "x2": at, "y1": f"{_TOP}", "y2": f"{height - _BOTTOM}"}
    return _Shape("line", mark.style, ends, title=f"{mark.name}: {markup.amount(mark.value)}")


def _dot(x: float, y: float, style: str, radius: float, title: str = "") -> _Shape:
    at = {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": f"{radius}"}
    return _Shape("circle", style, at, title=title)


def _line(xs: Sequence[float], ys: Sequence[float], style: str, tag: str = "polyline") -> _Shape:
    points = (f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    # one of those that fall on one place: thousands of images would be thousands of points
    return _Shape(tag, style, {"points": " ".join(point for point, _ in itertools.groupby(points))})


def _path(way: str, style: str) -> _Shape:
    return _Shape("path", style, {"d": way})


def _text(x: float, y: float, text: str, style: str = "", title: str = "") -> _Shape:
    return _Shape("text", style, {"x": f"{x:.1f}", "y": f"{y:.1f}"}, text, title)


def _chart(
    title: str,
    x: _Axis,
    y: _Axis,
    labels: tuple[str, str],
    body: Sequence[_Shape],
    height: float = _HEIGHT,
) -> Markup:
    """The frame: axes, ticks, names; without a label the vertical axis has no ticks."""
    bottom, right = height - _BOTTOM, _WIDTH - _RIGHT
    shapes = [_path(f"M{x.start:.1f} {_TOP}V{bottom}H{right}", "axis")]
    for value in _ticks(x):
        shapes.append(_path(f"M{x.at(value):.1f} {_TOP}V{bottom}", "grid"))
        shapes.append(_text(x.at(value), bottom + 16, _short(value)))
    for value in _ticks(y) if labels[1] else ():
        shapes.append(_path(f"M{x.start:.1f} {y.at(value):.1f}H{right}", "grid"))
        shapes.append(_text(x.start - 8, y.at(value) + 4, _short(value), "name"))
    upright = _text(12, (_TOP + bottom) / 2, labels[1], "label")
    upright.attributes["transform"] = f"rotate(-90 12 {(_TOP + bottom) / 2})"
    shapes += [*body, _text((x.start + right) / 2, height - 8, labels[0], "label"), upright]
    return markup.render("chart.svg", title=title, width=_WIDTH, height=height, shapes=shapes)


def _ticks(axis: _Axis) -> list[float]:
    """Round values inside an axis, about five."""
    if axis.log:
        powers = range(math.floor(math.log10(axis.low)), math.ceil(math.log10(axis.high)) + 1)
        steps = (1,) if len(powers) > 4 else (1, 2, 5)
        values = [step * 10.0**power for power in powers for step in steps]
        inside = [v for v in values if axis.low <= v <= axis.high]
        return inside[:: math.ceil(len(inside) / 7)] if inside else [axis.low]
    rough = (axis.high - axis.low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next(s * unit for s in (1, 2, 5, 10) if s * unit >= rough * 0.999)
    step = max(1.0, step) if axis.whole else step
    first = math.ceil(axis.low / step - 1e-9)
    return [i * step for i in range(first, math.floor(axis.high / step + 1e-9) + 1)]


def _short(value: float) -> str:
    """A tick's number: 0.2, 40M."""
    for unit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.3g}{letter}"
    return f"{value:.3g}"
