"""Drift is the Kolmogorov-Smirnov statistic, as SciPy has it."""

import math

import numpy as np
import pytest
from scipy import stats

from cae_jax.evaluation import drift


@pytest.mark.parametrize(("n", "m", "shift"), [(1, 1, 0), (28, 300, 0), (40, 7, 1), (5, 50, -3)])
def test_the_statistic_is_scipys(rng, n, m, shift):
    unseen, recent = rng.normal(0, 1, n), rng.normal(shift, 1, m)
    recent[0] = unseen[0]  # a tie
    wanted = stats.ks_2samp(unseen, recent).statistic
    assert drift.statistic(unseen, recent) == pytest.approx(wanted, abs=1e-12)


def test_the_limit_is_exceeded_one_time_in_a_hundred():
    n, m = 200, 300
    wanted = stats.kstwobign.isf(0.01) * math.sqrt((n + m) / (n * m))
    assert drift.limit(n, m) == pytest.approx(wanted, rel=1e-3)


def test_nothing_is_said_without_images():
    assert math.isnan(drift.statistic([], [1.0]))
    assert math.isnan(drift.statistic([1.0], []))
    assert math.isnan(drift.limit(0, 5))
    with pytest.raises(ValueError, match="finite"):
        drift.statistic([1.0], [np.nan])
