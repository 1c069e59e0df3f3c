"""What the charts show, against NumPy's quartiles and loops over plain numbers."""

import math

import numpy as np
import pandas as pd
import pytest

from cae_jax.evaluation import summary, thresholds
from cae_jax.evaluation.scores import scores_frame
from cae_jax.reports import charts, rules
from cae_jax.reports.rules import Mark


def group(values, name="a", style="good"):
    return charts.Group(name, np.asarray(values, float), style)


def test_heat_maps_share_one_scale():
    residual = np.array([[0, 0.35, 0.7], [0.9, np.nan, np.inf]], np.float32)
    colors = charts.heat(residual, 0.7)
    np.testing.assert_array_equal(colors[0], charts.RAMP[[0, 128, 255]])
    np.testing.assert_array_equal(colors[1], charts.RAMP[[255, 255, 255]])
    luma = charts.RAMP @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) > -0.5).all()  # dark to light: it reads in print too
    assert luma[-1] - luma[0] > 200


def test_heat_raises_the_share_to_a_power():
    residual = np.array([[0.0, 0.25, 1.0, 4.0]])
    colors = charts.heat(residual, 1.0, 0.5)
    wanted = [round(255 * min(1.0, math.sqrt(v))) for v in residual[0]]
    np.testing.assert_array_equal(colors[0], charts.RAMP[wanted])
    np.testing.assert_array_equal(charts.heat(residual, math.nan), charts.heat(residual, 1.0))
    np.testing.assert_array_equal(charts.heat(residual, 0.0), charts.heat(residual, 1.0))


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_the_histogram_counts_every_image_once(rng, scale):
    few, many = rng.gamma(3, size=7), scale * rng.gamma(3, size=90)
    drawn = charts.histogram([group(few), group([], "none"), group(many)], [], "x")
    assert drawn.x.log == (max(*few, *many) > 30 * min(*few, *many))
    assert [each.distances.size for each in drawn.groups] == [7, 90]
    steps = np.diff(np.log(drawn.edges) if drawn.x.log else drawn.edges)
    np.testing.assert_allclose(steps, steps[0])
    for values, shares in zip((few, many), drawn.shares, strict=True):
        counted = [0] * charts.BINS
        for value in values:
            bins = [i for i in range(charts.BINS) if value >= drawn.edges[i]]
            counted[bins[-1]] += 1
        np.testing.assert_allclose(shares, np.array(counted) / len(values))
    assert drawn.edges[0] == min(*few, *many)
    assert drawn.edges[-1] == max(*few, *many)


@pytest.mark.parametrize(
    ("values", "log", "low", "high"),
    [
        ([5.0], False, 2.5, 7.5),
        ([0.0], False, -0.5, 0.5),
        ([3.0, 3.0], False, 1.5, 4.5),
        ([-1.0, 2.0], False, -1.0, 2.0),
        ([0.0, 1e9], False, 0.0, 1e9),
        ([1.0, 30.0], False, 1.0, 30.0),
        ([1.0, 30.1], True, 1.0, 30.1),
    ],
)
def test_both_charts_decide_an_axis_alike(values, log, low, high):
    for describe in (charts.histogram, charts.whiskers):
        assert describe([group(values)], [], "x").x == charts.Axis("x", low, high, log)
        assert describe([group([])], [], "x") is None
        assert describe([], [], "x") is None


def test_boxes_are_numpys_quartiles(rng):
    values = 9 + rng.lognormal(0, 1, 37)
    box, empty = charts.whiskers([group(values), group([])], [], "x").boxes
    quartiles = np.quantile(values, [0.25, 0.5, 0.75])
    assert [box.first, box.median, box.third] == quartiles.tolist()
    reach = 1.5 * (quartiles[2] - quartiles[0])
    inside = [v for v in values if quartiles[0] - reach <= v <= quartiles[2] + reach]
    assert (box.low, box.high) == (min(inside), max(inside))
    assert sorted(box.beyond) == sorted(set(values) - set(inside))
    assert box.beyond.size > 0
    assert np.isnan([empty.low, empty.first, empty.median, empty.third, empty.high]).all()
    assert empty.beyond.size == 0


def test_marks_outside_are_left_out():
    marks = [Mark("a", 1.0, "leaks"), Mark("b", 5.0, "honest"), Mark("c", 5.1, "oracle")]
    for describe in (charts.histogram, charts.whiskers):
        assert describe([group([1.0, 5.0])], marks, "x").marks == tuple(marks[:2])


def losses(**columns):
    return pd.DataFrame({"epoch": [1, 2, 3], **columns})


def test_training_of_one_loss():
    drawn = charts.training(losses(loss=[0.4, 0.2, 0.1], validation_loss=[None, 0.3, np.nan]), "l2")
    assert [(c.name, c.hue, c.dashed) for c in drawn.curves] == [
        ("loss", 0, False),
        ("validation_loss", 0, True),
    ]
    assert drawn.curves[1].epochs.tolist() == [2]
    assert drawn.curves[1].values.tolist() == [0.3]
    assert drawn.x == charts.Axis("epoch", 1, 3)
    assert drawn.y == charts.Axis("loss (l2)", 0.1 / 1.1, 0.4 * 1.1, log=True)
    assert charts.training(losses(loss=[0.4, 0.3, 0.25])).y == charts.Axis("loss", 0.0, 0.4)


def test_training_of_several_losses():
    """Those of an adversarial method: negative ones, and a column of text."""
    drawn = charts.training(
        losses(
            phase=["gan", "gan", "encoder"],
            critic_loss=[-1.0, -2.0, np.nan],
            generator_loss=[1, 2, 3],
            validation_generator_loss=[4.0, 5.0, 6.0],
            encoder_loss=[np.nan, np.nan, 0.5],
            empty=[np.nan] * 3,
        )
    )
    assert [(c.name, c.hue, c.dashed) for c in drawn.curves] == [
        ("critic_loss", 0, False),
        ("generator_loss", 1, False),
        ("validation_generator_loss", 1, True),
        ("encoder_loss", 2, False),
    ]
    assert drawn.y == charts.Axis("loss", -2.0, 6.0, log=False)
    assert charts.training(losses(accuracy=[1, 2, 3])).y.label == "value"


def test_training_draws_six_curves_at_most():
    drawn = charts.training(losses(**{f"loss_{i}": [1, 2, 3] for i in range(9)}))
    assert [curve.name for curve in drawn.curves] == [f"loss_{i}" for i in range(6)]
    assert {curve.hue for curve in drawn.curves} == set(range(charts.CURVES))


def test_no_training_no_chart():
    nothing = [losses(), losses(a=["x"] * 3), losses(a=[np.nan] * 3), pd.DataFrame({"loss": [1]})]
    nothing += [losses(loss=[1, 2, 3])[:0], pd.DataFrame([])]
    assert [charts.training(history) for history in nothing] == [None] * len(nothing)


def test_of_run(rng):
    kinds = ["good"] * 9 + ["crack"] * 5 + ["b\udcff"] * 4
    splits = ["validation"] * 4 + ["test"] * 14
    labels = [int(kind != "good") for kind in kinds]
    distances = rng.gamma(2, size=18)
    frame = scores_frame([str(i) for i in range(18)], labels, kinds, splits, distances)
    metrics = summary.summarize(frame) | {"distance": "l2", "loss": "ssim"}
    drawn = charts.of_run(frame, metrics, losses(loss=[1, 2, 3]))
    assert [(g.name, g.style, g.distances.tolist()) for g in drawn.histogram.groups] == [
        ("validation good", "validation", distances[:4].tolist()),
        ("test good", "good", distances[4:9].tolist()),
        ("defective", "defective", distances[9:].tolist()),
    ]
    assert [(b.group.name, b.group.distances.tolist()) for b in drawn.whiskers.boxes[2:]] == [
        ("b\udcff", distances[14:].tolist()),
        ("crack", distances[9:14].tolist()),
    ]
    assert drawn.whiskers.x == drawn.histogram.x
    assert drawn.whiskers.marks == drawn.histogram.marks == tuple(rules.marks(metrics))
    values = [mark.value for mark in drawn.histogram.marks]
    assert values[0] == sorted(distances[:4])[3]  # the leak-free threshold that counts
    assert values[1] == thresholds.from_good(distances[4:9], 70).value  # conformal: too few images
    assert [mark.style for mark in drawn.histogram.marks] == ["honest", "leaks", "oracle"]
    assert drawn.histogram.x.label == "distance l2"
    assert drawn.training.y.label == "loss (ssim)"
    empty = scores_frame([], [], [], [], [])
    assert charts.of_run(empty, {}, None) == (None, None, None)
