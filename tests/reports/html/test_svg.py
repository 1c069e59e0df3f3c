"""The charts, read back from their SVG: scikit-learn's curve, NumPy's quartiles."""

import re

import numpy as np
import pandas as pd
import pytest
from html_pages import Document
from sklearn.metrics import roc_curve

from cae_jax.reports import charts
from cae_jax.reports.html import svg


def test_the_roc_curve_is_scikit_learns(rng):
    labels, scores = rng.integers(0, 2, 40), rng.integers(0, 12, 40).astype(float)
    fpr, tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    image = svg.roc(fpr, tpr, [("<a>", 0.25, 0.5, "leaks")])
    points = re.findall(r'class="curve" points="([^"]*)"', image)[0].split()
    drawn = np.array([point.split(",") for point in points], float)
    axes = {float(y): float(x) for x, y in re.findall(r'<text x="([\d.]+)" y="([\d.]+)">1<', image)}
    right = next(iter(axes.values()))
    left = float(re.search(r'class="axis" d="M([\d.]+)', image)[1])
    np.testing.assert_allclose((drawn[:, 0] - left) / (right - left), fpr, atol=2e-4)
    np.testing.assert_allclose((drawn[0, 1] - drawn[:, 1]) / np.ptp(drawn[:, 1]), tpr, atol=4e-4)
    Document(image)


def test_the_boxes_are_numpys_quartiles(rng):
    values = 9 + rng.lognormal(0, 1, 37)
    drawn = charts.whiskers([charts.Group("a", values, "good")], [], "x")
    image = svg.whiskers(drawn)
    median = float(re.search(r'median good" d="M([\d.]+)', image)[1])
    box = re.search(r'<rect class="box good" x="([\d.]+)" y="[\d.]+" width="([\d.]+)"', image)
    first, second, third = np.quantile(values, [0.25, 0.5, 0.75])
    share = (median - float(box[1])) / float(box[2])
    assert share == pytest.approx((second - first) / (third - first), abs=4e-3)
    reach = 1.5 * (third - first)
    beyond = (values < first - reach) | (values > third + reach)
    assert image.count("<circle") == beyond.sum() > 0


@pytest.mark.parametrize("values", [[5.0], [3.0, 3.0], [-1.0, 2.0], [1e-3, 5.0, 1e9]])
def test_charts_of_few_or_far_values(values):
    group = charts.Group("a", np.array(values), "good")
    bars = svg.histogram(charts.histogram([group], [], "x"))
    for image in (bars, svg.whiskers(charts.whiskers([group], [], "x"))):
        Document(image)
        assert "nan" not in image
    steps = re.search(r'class="bars good" points="([^"]*)"', bars)[1]
    tops = np.array([float(p.split(",")[1]) for p in steps.split()])[1:-1:2]
    heights = tops.max() - tops
    assert np.count_nonzero(heights > 1) == len(set(values))  # no value falls out of the bins


def test_the_curves_of_training_are_told_apart():
    columns = {"loss": [0.5, 0.25, 0.125], "validation_loss": [None, 0.25, 0.5]}
    columns |= {"critic<loss>": [1.0, np.nan, 2.0]}
    drawn = charts.training(pd.DataFrame({"epoch": [1, 2, 3], **columns}))
    image = svg.training(drawn)
    Document(image)
    found = re.findall(r'<polyline class="([^"]*)" points="([^"]*)"', image)
    assert [style for style, _ in found] == ["curve", "curve validation", "curve hue1"]
    assert [len(points.split()) for _, points in found] == [3, 2, 2]
    # halving goes down by equal steps: the axis is logarithmic
    heights = np.array([float(point.split(",")[1]) for point in found[0][1].split()])
    assert drawn.y.log
    assert np.diff(heights)[0] == pytest.approx(np.diff(heights)[1], abs=0.11)
    assert image.count("<circle") == 7
