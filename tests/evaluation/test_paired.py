"""Tests of two methods on the same images, against loops, scikit-learn and resampling."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from cae_jax.evaluation import paired, resampling

RNG = np.random.default_rng(2)
LABELS = np.array([0] * 25 + [1] * 35)
COMMON = RNG.normal(size=60) + 1.2 * LABELS
ONE = (COMMON + 0.3 * RNG.normal(size=60)).round(1)  # rounded: there are ties
OTHER = (COMMON + 0.9 * RNG.normal(size=60)).round(1)


def by_definition(one, other):
    """DeLong's covariances of the structural components, as the paper writes them."""
    x = [np.array(s)[LABELS == 1] for s in (one, other)]
    y = [np.array(s)[LABELS == 0] for s in (one, other)]
    psi = [[[1.0 if b > a else 0.5 if b == a else 0.0 for a in y[r]] for b in x[r]] for r in (0, 1)]
    v10 = [np.mean(p, axis=1) for p in psi]
    v01 = [np.mean(p, axis=0) for p in psi]
    s = np.cov(v10) / len(x[0]) + np.cov(v01) / len(y[0])
    difference = np.mean(psi[0]) - np.mean(psi[1])
    return difference, math.sqrt(s[0, 0] + s[1, 1] - 2 * s[0, 1])


def test_the_difference_is_delongs():
    found = paired.auroc_difference(LABELS, ONE, OTHER)
    difference, deviation = by_definition(ONE, OTHER)
    assert found.value == pytest.approx(difference, abs=1e-12)
    assert found.value == pytest.approx(roc_auc_score(LABELS, ONE) - roc_auc_score(LABELS, OTHER))
    assert found.p_value == pytest.approx(2 * stats.norm.sf(abs(difference) / deviation))
    assert (found.high - found.low) / 2 == pytest.approx(1.959964 * deviation, rel=1e-6)
    swapped = paired.auroc_difference(LABELS, OTHER, ONE)
    assert swapped.value == pytest.approx(-found.value)
    assert swapped.p_value == pytest.approx(found.p_value)


def test_its_interval_is_near_that_of_resampling():
    counts = resampling.draws(LABELS, 0, 4000)
    drawn = resampling.aurocs(LABELS, ONE, counts) - resampling.aurocs(LABELS, OTHER, counts)
    found = paired.auroc_difference(LABELS, ONE, OTHER)
    assert resampling.interval(drawn) == pytest.approx((found.low, found.high), abs=0.02)


def test_seeds_enter_by_their_mean():
    seeds = np.stack([ONE, OTHER, COMMON])
    found = paired.auroc_difference(LABELS, seeds, OTHER)
    each = [paired.auroc_difference(LABELS, s, OTHER).value for s in seeds]
    assert found.value == pytest.approx(np.mean(each))
    same = paired.auroc_difference(LABELS, np.stack([ONE, ONE]), OTHER)
    assert same == pytest.approx(paired.auroc_difference(LABELS, ONE, OTHER))


def test_chance_is_seen_as_often_as_it_should_be():
    """Of 400 pairs that are alike 5 % are below p = 0.05: between 8 and 36, to one in a million."""
    rng, below = np.random.default_rng(0), 0
    for _ in range(400):
        base = rng.normal(size=60) + LABELS
        one, other = base + rng.normal(size=(2, 60))
        below += paired.auroc_difference(LABELS, one, other).p_value < 0.05
    assert 8 <= below <= 40


def test_ends():
    alike = paired.auroc_difference(LABELS, ONE, 3 * ONE + 1)
    assert alike == (0, 0, 0, 1)
    apart = paired.auroc_difference(LABELS, LABELS, -LABELS)
    assert (apart.value, apart.p_value) == (1, 2 * 0.5 ** len(LABELS))
    assert np.isnan(apart[1:3]).all()
    four = paired.auroc_difference([0, 0, 1, 1], [1, 2, 3, 4], [4, 3, 2, 1])
    assert four.p_value == stats.binomtest(4, 4).pvalue == 0.125
    assert np.isnan(paired.auroc_difference([0, 0], [1, 2], [2, 1])).all()
    few = paired.auroc_difference([0, 1], [1, 2], [2, 1])
    assert few.value == 1
    assert np.isnan(few[1:]).all()
    for bad in (ONE[:-1], np.where(LABELS, np.nan, ONE)):
        with pytest.raises(ValueError, match="scores must be finite, one for each"):
            paired.auroc_difference(LABELS, bad, OTHER)


def exact(b, c):
    """Over all ways in which b + c images could have fallen to either, as likely ones."""
    n = b + c
    as_far = [k for k in range(n + 1) if abs(2 * k - n) >= abs(b - c)]
    return sum(math.comb(n, k) for k in as_far) / 2**n


@pytest.mark.parametrize(("b", "c"), [*itertools.product((0, 1, 6), (1, 4, 9)), (0, 0)])
def test_mcnemar(b, c):
    one = np.array([True] * b + [False] * c + [True] * 7 + [False] * 3)
    other = np.array([False] * b + [True] * c + [True] * 7 + [False] * 3)
    found = paired.mcnemar(one, other)
    assert found[:2] == (b, c)
    assert found.p_value == pytest.approx(exact(b, c))
    with pytest.raises(ValueError, match="of the same images"):
        paired.mcnemar(one, other[:-1])


def test_holm():
    """His example by hand: 4 x .01, 3 x .015, 2 x .03 against the one before, 1 x .04."""
    found = paired.holm([0.03, 0.01, 0.04, 0.015, np.nan])
    np.testing.assert_allclose(found, [0.06, 0.04, 0.06, 0.045, np.nan])
    assert paired.holm([0.6, 0.7]).tolist() == [1, 1]
    assert paired.holm([]).tolist() == []
