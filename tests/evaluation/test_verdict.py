"""The verdict against loops over plain numbers: ties, infinities, nothing held out."""

import itertools
import math

import numpy as np
import pytest

from cae_jax.evaluation import thresholds, verdict
from cae_jax.types import UsageError


def point(rule="ceil", source="validation good", percent=90, threshold=1.0, **more):
    """An operating point as metrics.json has it."""
    return {"rule": rule, "source": source, "percent": percent, "threshold": threshold, **more}


def smallest_that_calls_good(distances, percent):
    """The first distance, from the smallest up, with that share at or below it; in integers."""
    for candidate in sorted(distances):
        below = sum(1 for d in distances if d <= candidate)
        if 100 * below >= percent * len(distances):
            return candidate
    raise AssertionError("nothing calls that many good")


def test_a_tie_with_the_threshold_is_good():
    distances = [1.0, 2.0, math.nextafter(2.0, 3.0), -math.inf, math.inf]
    assert verdict.exceeds(distances, 2.0).tolist() == [False, False, True, False, True]
    assert not verdict.exceeds(distances, math.inf).any()
    assert verdict.exceeds(distances, -math.inf).tolist() == [True, True, True, False, True]
    assert verdict.exceeds([], 2.0).shape == (0,)
    assert verdict.exceeds(3.0, 2.0).shape == ()


def test_float32_distances_are_compared_as_they_are():
    """0.1 in float32 lies above 0.1 in float64; a comparison in float32 would call them equal."""
    distance = np.array([0.1], np.float32)
    assert float(distance[0]) > 0.1
    assert verdict.exceeds(distance, 0.1).tolist() == [True]


@pytest.mark.parametrize("percent", [None, 1, 37, 70, 90, 100])
@pytest.mark.parametrize("n_held_out", [0, 1, 7, 40])
def test_judge_against_a_loop(rng, percent, n_held_out):
    good = rng.integers(0, 12, 23).astype(float)  # with ties
    held_out = rng.integers(0, 12, n_held_out).astype(float)
    judge = verdict.judge(good, held_out, [], percent)
    if n_held_out:
        wanted = smallest_that_calls_good(held_out.tolist(), percent or 90)
        assert judge.threshold.source == thresholds.VALIDATION_GOOD
        assert not judge.threshold.leaks
    else:
        wanted = smallest_that_calls_good(good.tolist(), percent or 70)
        assert judge.threshold.source == thresholds.TEST_GOOD
        assert judge.threshold.leaks
    assert judge.threshold.value == wanted
    assert judge.threshold.n == (n_held_out or 23)
    assert judge.map_threshold == math.inf
    asked = [wanted, wanted - 1, wanted + 1, 5.5]
    assert judge.defective(asked).tolist() == [d > wanted for d in asked]


@pytest.mark.parametrize("source", thresholds.UNSEEN)
def test_a_rate_that_was_asked_for_counts_unless_a_percent_is(rng, source):
    good, unseen = rng.random(5), rng.integers(0, 50, 30).astype(float)
    for rate, k in ((0.1, 28), (0.05, 30), (0.01, 30)):  # ceil(31 * .9), ceil(31 * .95), the last
        judge = verdict.judge(good, unseen, [], None, source, rate)
        at = judge.threshold
        assert (at.rule, at.source, at.rate) == ("false_alarms", source, rate)
        assert at.value == sorted(unseen)[k - 1]
        other = verdict.judge(good, unseen, [], 70, source, rate).threshold
        assert (other.rule, other.source, other.percent) == ("ceil", source, 70)
    without = verdict.judge(good, unseen[:0], [], None, source, 0.1).threshold
    assert (without.rule, without.source, without.percent) == ("ceil", "test good", 70)


def test_p_values_count_ties_as_at_least():
    held_out = [3.0, 1.0, 2.0, 2.0]
    judge = verdict.judge(np.empty(0), np.array(held_out), [])
    asked = [0.0, 2.0, 2.5, 9.0]
    wanted = [(1 + sum(1 for h in held_out if h >= d)) / 5 for d in asked]
    assert judge.p_values(asked).tolist() == wanted == [1.0, 0.8, 0.4, 0.2]
    without = verdict.judge(np.array([1.0, 2.0]), np.empty(0), [])
    assert np.isnan(without.p_values(asked)).all()


def test_the_mask_is_what_lies_above_the_maps_threshold(rng):
    residual = rng.random((9, 11)).astype(np.float32)
    residual[4, 5] = 0.5
    held_out = np.array([1.0])
    points = [point(), point("min_area", percent=None, threshold=0.5), point("min_area")]
    judge = verdict.judge(np.empty(0), held_out, points)
    assert judge.map_threshold == 0.5  # the first
    wanted = [[float(v) > 0.5 for v in row] for row in residual]
    assert judge.mask(residual, 0).tolist() == wanted
    assert not judge.mask(residual, 0)[4, 5]
    # opened by a disc of diameter 2, a box of 2 x 2: what no such box of defects covers is gone
    opened = np.zeros((9, 11), bool)
    for y in range(8):
        for x in range(10):
            if np.array(wanted)[y : y + 2, x : x + 2].all():
                opened[y : y + 2, x : x + 2] = True
    np.testing.assert_array_equal(judge.mask(residual, 2), opened)
    assert not verdict.judge(np.empty(0), held_out, []).mask(residual, 0).any()
    never = [point("min_area", percent=None, threshold="inf")]
    assert verdict.judge(np.empty(0), held_out, never).map_threshold == math.inf


@pytest.mark.parametrize("percent", [0, 101, -5, 90.0, True, "90"])
def test_a_bad_percent_is_refused(percent):
    with pytest.raises(UsageError, match="integer from 1 to 100"):
        verdict.judge(np.array([1.0]), np.array([1.0]), [], percent)


def test_no_good_image_is_refused():
    with pytest.raises(ValueError, match="at least one good distance"):
        verdict.judge(np.empty(0), np.empty(0), [])
    with pytest.raises(ValueError, match="finite"):
        verdict.judge(np.empty(0), np.array([1.0, math.nan]), [])


@pytest.mark.parametrize(
    ("written", "read"),
    [(3, 3.0), (-2.5, -2.5), ("inf", math.inf), ("-inf", -math.inf), (math.inf, math.inf)],
)
def test_value(written, read):
    assert verdict.value({"threshold": written}) == read


@pytest.mark.parametrize("written", [None, "3", "nan", True, [1.0], {}])
def test_what_is_no_value(written):
    assert math.isnan(verdict.value({"threshold": written}))
    assert math.isnan(verdict.value({}))


def test_find_takes_the_first_finite_one():
    points = [
        point(threshold="inf"),
        point(threshold=None),
        point(threshold=2.0),
        point(threshold=3.0),
        point("f1_best", "labelled test", None, 4.0),
        point(percent=80, threshold=5.0),
        {"strange": 1},
    ]
    assert verdict.find(points, "ceil", "validation good", 90) is points[2]
    assert verdict.find(points, "ceil", None, 90) is points[2]
    assert verdict.find(points, "f1_best", None, None) is points[4]
    assert verdict.find(points, "ceil", "test good", 90) is None
    assert verdict.find(points, "ceil", None, 70) is None
    assert verdict.find([], "ceil", None, 90) is None


def test_the_leak_free_point_counts_where_it_is_finite():
    leaky = point(source="test good", percent=70, threshold=7.0)
    honest = point(threshold=9.0)
    others = [point(percent=80), point("conformal"), point("exclusive", "test good", 70)]
    assert verdict.counting([*others, leaky, honest]) is honest
    assert verdict.counting([*others, leaky, point(threshold="inf")]) is leaky
    assert verdict.counting([*others, leaky]) is leaky
    assert verdict.counting(others) is None
    assert verdict.counting([]) is None


def test_the_point_that_counts_is_the_judges(rng):
    """The two doors, a finished run's metrics.json and its scores, lead to one threshold."""
    good, held_out = rng.gamma(2, size=31), rng.gamma(2, size=17)
    every = itertools.product((held_out, held_out[:0]), thresholds.UNSEEN, (0.0, 0.2, 0.01))
    for unseen, source, rate in every:
        found = verdict.operating_points(good, 3 + good, unseen, source, rate)
        points = [
            point(at.rule, at.source, at.percent, at.value) for at in (p.threshold for p in found)
        ]
        counts = verdict.judge(good, unseen, points, None, source, rate).threshold
        chosen = verdict.counting(points)
        assert verdict.value(chosen) == counts.value
        assert (chosen["rule"], chosen["source"], chosen["percent"]) in verdict.COUNTS


def test_words():
    labels, distances = [0, 0, 1, 1, 0, 1], [1.0, 3.0, 1.0, 3.0, 2.0, 2.0]
    wanted = []
    for label, distance in zip(labels, distances, strict=True):
        if (distance > 2.0) == (label == 1):
            wanted.append("right")
        else:
            wanted.append("missed" if label else "false alarm")
    assert verdict.words(labels, distances, 2.0) == wanted
    assert set(wanted) == {"right", "missed", "false alarm"}
    assert verdict.words([], [], 2.0) == []
    assert verdict.words([0, 1], [1.0, 1.0], math.inf) == ["right", "missed"]
    with pytest.raises(ValueError, match="zip"):
        verdict.words([0], [1.0, 2.0], 2.0)
