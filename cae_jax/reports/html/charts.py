"""Curves as inline SVG, in the page's own colors and type, light and dark."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cae_jax.reports.html import markup

_WIDTH, _HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 12, 44  # margins
_BINS = 24
_WIDE = 30  # a ratio of distances from which on an axis is logarithmic
_RADIUS = {"oracle": 7.0, "leaks": 5.5, "honest": 3.5}  # points at one place are rings in rings


class Mark(NamedTuple):
    """A threshold in a chart."""

    name: str
    value: float  # a distance
    style: str  # CSS class: "honest", "leaks" or "oracle"


class Group(NamedTuple):
    """The distances of some images."""

    name: str
    distances: np.ndarray  # float64 [n]
    style: str  # CSS class: "validation", "good" or "defective"


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


def roc(fpr: np.ndarray, tpr: np.ndarray, points: Sequence[tuple[str, float, float, str]]) -> str:
    """Returns the ROC curve [k] with operating points as (name, fpr, tpr, style); "" if empty."""
    if not len(fpr):
        return ""
    x, y = _plane()
    body = [
        _line([x.at(0), x.at(1)], [y.at(0), y.at(1)], "chance"),
        _line([x.at(v) for v in fpr], [y.at(v) for v in tpr], "curve"),
    ]
    for name, at_x, at_y, style in sorted(points, key=lambda point: -_RADIUS[point[3]]):
        body.append(
            f'<circle class="{style}" cx="{x.at(at_x):.1f}" cy="{y.at(at_y):.1f}" '
            f'r="{_RADIUS[style]}"><title>{markup.text(name)}</title></circle>'
        )
    labels = ("good images called defective", "defective images found")
    return _chart("ROC curve", x, y, labels, body)


def pro(fpr: Sequence[float], overlap: Sequence[float], limit: float = 0.3) -> str:
    """Returns the PRO curve [k], the area up to `limit` shaded; "" if empty."""
    if not len(fpr):
        return ""
    x, y = _plane()
    xs, ys = [x.at(v) for v in fpr], [y.at(v) for v in overlap]
    inside = [v for v in fpr if v < limit]
    edge = float(np.interp(limit, fpr, overlap))
    area = [*zip(xs, ys, strict=True)][: len(inside)]
    area = [*area, (x.at(limit), y.at(edge)), (x.at(limit), y.at(0)), (xs[0], y.at(0))]
    corners = " ".join(f"{a:.1f},{b:.1f}" for a, b in area)
    body = [f'<polygon class="area" points="{corners}"/>', _line(xs, ys, "curve")]
    return _chart("PRO curve", x, y, ("good pixels called defective", "region overlap"), body)


def histogram(groups: Sequence[Group], marks: Sequence[Mark], label: str) -> str:
    """Returns the groups' histograms over shared bins, each as share of its images."""
    x = _distance_axis(groups)
    if x is None:
        return ""
    spaced = np.geomspace if x.log else np.linspace
    edges = spaced(x.low, x.high, _BINS + 1)
    edges[0], edges[-1] = x.low, x.high  # not rounded: the extremes belong to a bin
    shares = [
        np.histogram(group.distances, edges)[0] / max(1, group.distances.size) for group in groups
    ]
    y = _Axis(0, max(float(share.max()) for share in shares) * 1.05, _HEIGHT - _BOTTOM, _TOP)
    body = []
    for group, share in zip(groups, shares, strict=True):
        across = [x.at(float(edge)) for edge in np.repeat(edges, 2)]
        up = [y.at(0), *(y.at(float(v)) for v in np.repeat(share, 2)), y.at(0)]
        points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(across, up, strict=True))
        body.append(f'<polygon class="bars {group.style}" points="{points}"/>')
    body += [_upright(x, mark) for mark in marks if x.low <= mark.value <= x.high]
    return _chart("Histogram of distances", x, y, (label, "share of images"), body)


def whiskers(groups: Sequence[Group], marks: Sequence[Mark], label: str) -> str:
    """Returns a box for each group: quartiles, whiskers to the last image within 1.5 times the
    box's width, images beyond as dots."""
    x = _distance_axis(groups, left=112)
    if x is None:
        return ""
    row = 30
    height = _TOP + row * len(groups) + _BOTTOM
    body = [_upright(x, mark, height) for mark in marks if x.low <= mark.value <= x.high]
    for i, group in enumerate(groups):
        middle = _TOP + row * (i + 0.5)
        name = group.name if len(group.name) <= 15 else f"{group.name[:14]}…"
        body.append(
            f'<text class="name" x="104" y="{middle + 4:.1f}">{markup.text(name)}'
            f"<title>{markup.text(group.name)}</title></text>"
        )
        if group.distances.size:
            body += _box(x, group, middle)
    y = _Axis(0, len(groups), height - _BOTTOM, _TOP)
    return _chart("Whisker plot of distances", x, y, (label, ""), body, height)


def training(history: Mapping[str, np.ndarray], label: str) -> str:
    """Returns the losses over the epochs; `history` has "epoch" and named losses, each [n]."""
    losses = {
        name: values
        for name, values in history.items()
        if name in ("loss", "validation_loss") and np.isfinite(values).any()
    }
    if not losses or not len(history["epoch"]):
        return ""
    epochs = history["epoch"]
    finite = np.concatenate([values[np.isfinite(values)] for values in losses.values()])
    low, high = float(finite.min()), float(finite.max())
    log = low > 0 and high > 2 * low
    low, high = (low / 1.1, high * 1.1) if log else _wider(min(0.0, low), high)
    y = _Axis(low, high, _HEIGHT - _BOTTOM, _TOP, log)
    ends = _wider(float(epochs.min()), float(epochs.max()))
    x = _Axis(*ends, _LEFT, _WIDTH - _RIGHT, whole=True)
    body = []
    for name, values in losses.items():
        style = "curve" if name == "loss" else "curve validation"
        known = np.isfinite(values)
        xs = [x.at(float(v)) for v in epochs[known]]
        ys = [y.at(float(v)) for v in values[known]]
        body.append(_line(xs, ys, style))
        if len(xs) <= _BINS:
            body += [f'<circle class="{style}" cx="{a:.1f}" cy="{b:.1f}" r="2.5"/>'
                     for a, b in zip(xs, ys, strict=True)]  # fmt: skip
    return _chart("Training curve", x, y, ("epoch", label), body)


def bar(value: float) -> str:
    """Returns a small bar from chance, 0.5, to an AUROC in [0, 1]; "" for NaN."""
    if math.isnan(value):
        return ""
    left, width = 100 * min(value, 0.5), 100 * abs(value - 0.5)
    return (
        '<svg class="bar" viewBox="0 0 100 10" aria-hidden="true">'
        f'<rect class="track" width="100" height="10"/>'
        f'<rect x="{left:.1f}" width="{max(width, 0.5):.1f}" height="10"/></svg>'
    )


def _plane() -> tuple[_Axis, _Axis]:
    """Two axes from 0 to 1."""
    return _Axis(0, 1, _LEFT, _WIDTH - _RIGHT), _Axis(0, 1, _HEIGHT - _BOTTOM, _TOP)


def _distance_axis(groups: Sequence[Group], left: float = _LEFT) -> _Axis | None:
    values = np.concatenate([group.distances for group in groups]) if groups else np.empty(0)
    if not values.size:
        return None
    low, high = float(values.min()), float(values.max())
    log = low > 0 and high > _WIDE * low
    low, high = (low, high) if low < high else _wider(low, high)
    return _Axis(low, high, left, _WIDTH - _RIGHT, log)


def _wider(low: float, high: float) -> tuple[float, float]:
    """A range that is one."""
    if low < high:
        return low, high
    room = 0.5 * abs(low) or 0.5
    return low - room, high + room


def _box(x: _Axis, group: Group, middle: float) -> list[str]:
    first, median, third = np.quantile(group.distances, [0.25, 0.5, 0.75])
    reach = 1.5 * (third - first)
    near = (group.distances >= first - reach) & (group.distances <= third + reach)
    low, high = group.distances[near].min(), group.distances[near].max()
    a, b, c, d, e = (x.at(float(v)) for v in (low, first, median, third, high))
    top, side = middle - 8, f'class="box {group.style}"'
    return [
        f'<path {side} d="M{a:.1f} {middle}H{b:.1f}M{d:.1f} {middle}H{e:.1f}'
        f'M{a:.1f} {middle - 4}v8M{e:.1f} {middle - 4}v8"/>',
        f'<rect {side} x="{b:.1f}" y="{top}" width="{max(d - b, 1):.1f}" height="16"/>',
        f'<path class="median {group.style}" d="M{c:.1f} {top}v16"/>',
        *(
            f'<circle {side} cx="{x.at(float(v)):.1f}" cy="{middle}" r="2"/>'
            for v in group.distances[~near]
        ),
    ]


def _upright(x: _Axis, mark: Mark, height: float = _HEIGHT) -> str:
    at = f"{x.at(mark.value):.1f}"
    return (
        f'<line class="{mark.style}" x1="{at}" x2="{at}" y1="{_TOP}" y2="{height - _BOTTOM}">'
        f"<title>{markup.text(mark.name)}: {markup.amount(mark.value)}</title></line>"
    )


def _line(xs: Sequence[float], ys: Sequence[float], style: str) -> str:
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(xs, ys, strict=True))
    return f'<polyline class="{style}" points="{points}"/>'


def _chart(
    title: str,
    x: _Axis,
    y: _Axis,
    labels: tuple[str, str],
    body: Sequence[str],
    height: float = _HEIGHT,
) -> str:
    """The frame: axes, ticks, names; without a label the vertical axis has no ticks."""
    bottom, right = height - _BOTTOM, _WIDTH - _RIGHT
    parts = [f'<path class="axis" d="M{x.start:.1f} {_TOP}V{bottom}H{right}"/>']
    for value in _ticks(x):
        at = f"{x.at(value):.1f}"
        parts.append(f'<path class="grid" d="M{at} {_TOP}V{bottom}"/>')
        parts.append(f'<text x="{at}" y="{bottom + 16}">{_short(value)}</text>')
    for value in _ticks(y) if labels[1] else ():
        at = y.at(value)
        parts.append(f'<path class="grid" d="M{x.start:.1f} {at:.1f}H{right}"/>')
        tick = f'x="{x.start - 8:.1f}" y="{at + 4:.1f}"'
        parts.append(f'<text class="name" {tick}>{_short(value)}</text>')
    middle = (_TOP + bottom) / 2
    parts += [
        *body,
        f'<text class="label" x="{(x.start + right) / 2:.1f}" y="{height - 8}">'
        f"{markup.text(labels[0])}</text>",
        f'<text class="label" transform="rotate(-90 12 {middle})" x="12" y="{middle}">'
        f"{markup.text(labels[1])}</text>",
    ]
    return (
        f'<svg class="chart" role="img" aria-label="{markup.text(title)}" '
        f'viewBox="0 0 {_WIDTH} {height}">{"".join(parts)}</svg>'
    )


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
