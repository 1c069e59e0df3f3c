"""Ranks and tests over data sets, against Demsar's paper, SciPy and loops."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from cae_jax.evaluation import ranking

# Table 5(a) of Demsar, JMLR 7, 2006: critical values of the two-tailed Nemenyi test, k = 2 to 10.
DEMSAR = {
    0.05: (1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164),
    0.10: (1.645, 2.052, 2.291, 2.459, 2.589, 2.693, 2.780, 2.855, 2.920),
}
# Table 6: AUCs of four variants of C4.5 on 14 data sets. In the last but one the paper prints .975
# twice and ranks the two apart: .9751 keeps its order.
C45 = np.array([
    (.763, .768, .771, .798), (.599, .591, .590, .569), (.954, .971, .968, .967),
    (.628, .661, .654, .657), (.882, .888, .886, .898), (.936, .931, .916, .931),
    (.661, .668, .609, .685), (.583, .583, .563, .625), (.775, .838, .866, .875),
    (1.0, 1.0, 1.0, 1.0), (.940, .962, .965, .962), (.619, .666, .614, .669),
    (.972, .981, .9751, .975), (.957, .978, .946, .970),
])  # fmt: skip


@pytest.mark.parametrize("alpha", DEMSAR)
def test_critical_values_are_those_of_the_paper(alpha):
    for k, q in zip(range(2, 11), DEMSAR[alpha], strict=True):
        found = ranking.critical_difference(k, 17, alpha) / math.sqrt(k * (k + 1) / (6 * 17))
        assert found == pytest.approx(q, abs=1e-3)  # not all are rounded to the nearest


def test_the_paper_s_example_of_four_classifiers():
    """Sec. 3.2.4: Friedman's 9.28, and a critical difference of 1.25 at 5 % hand in hand."""
    found = ranking.compare(C45)
    np.testing.assert_allclose(found.mean, [3.143, 2.0, 2.893, 1.964], atol=6e-4)
    n, k = C45.shape
    # the paper's formula, which corrects no ties
    plain = 12 * n / (k * (k + 1)) * (np.sum(found.mean**2) - k * (k + 1) ** 2 / 4)
    assert plain == pytest.approx(9.28, abs=0.01)
    assert found.statistic == pytest.approx(stats.friedmanchisquare(*C45.T).statistic)
    assert found.p_value == pytest.approx(stats.chi2.sf(found.statistic, k - 1))
    assert found.critical == pytest.approx(1.25, abs=0.005)


def test_ranks_are_those_of_a_loop(rng):
    values = rng.integers(0, 4, (7, 5)) / 4
    found = ranking.compare(values)
    for row, ranks in zip(values, found.ranks, strict=True):
        for value, rank in zip(row, ranks, strict=True):
            assert rank == 1 + np.sum(row > value) + (np.sum(row == value) - 1) / 2
    noise = ranking.compare(values + 1e-12 * rng.random(values.shape))
    np.testing.assert_array_equal(noise.ranks, found.ranks)


def test_where_the_tests_cannot_be_had():
    two = ranking.compare([[0.9, 0.8], [0.7, 0.6]])
    assert math.isnan(two.p_value)
    assert two.critical == pytest.approx(1.96 / math.sqrt(2), abs=1e-3)
    one = ranking.compare([[0.9]])
    assert math.isnan(one.critical)
    assert not one.possible
    same = ranking.compare(np.ones((4, 3)))
    assert (same.statistic, same.p_value) == (0, 1)
    for bad in ([], [[]], [1.0], [[0.5, math.nan]]):
        with pytest.raises(ValueError, match="finite"):
            ranking.compare(bad)
    with pytest.raises(ValueError, match="k=1"):
        ranking.critical_difference(1, 5)


def test_whether_a_difference_is_possible_at_all():
    """Over 3 data sets none of 4 methods can be told apart; over 14 they can."""
    best_first = np.tile([4.0, 3.0, 2.0, 1.0], (3, 1))
    few = ranking.compare(best_first)
    assert np.ptp(few.mean) == 3
    assert not ranking.compare(best_first[:2]).possible
    assert few.possible == (few.critical <= 3)
    assert ranking.compare(C45).possible


def test_groups_are_the_longest_runs(rng):
    for _ in range(50):
        ranks, critical = np.sort(rng.uniform(1, 6, 6)), rng.uniform(0.2, 4)
        runs = {
            (i, j) for i, j in itertools.combinations(range(6), 2) if ranks[j] - ranks[i] < critical
        }
        longest = [
            (i, j)
            for i, j in sorted(runs)
            if not any(a <= i and j <= b and (a, b) != (i, j) for a, b in runs)
        ]
        assert ranking.groups(ranks.tolist(), critical) == longest
