"""How many false alarms a threshold of good images is to be expected to give."""

import math

import numpy as np
import pytest

from cae_jax.evaluation import thresholds


@pytest.mark.parametrize(("k", "n"), [(28, 31), (1, 1), (3, 3), (90, 99)])
def test_the_alarm_rate_to_expect(k, n):
    """Of uniform distances a threshold's rate is 1 minus it."""
    rates = 1 - np.sort(np.random.default_rng(0).random((20000, n)), axis=1)[:, k - 1]
    mean, low, high = thresholds.alarm_rate(k, n)
    assert mean == (n + 1 - k) / (n + 1)
    assert rates.mean() == pytest.approx(mean, abs=4 * rates.std() / len(rates) ** 0.5)
    assert np.mean(rates < low) == pytest.approx(0.025, abs=0.005)
    assert np.mean(rates > high) == pytest.approx(0.025, abs=0.005)
    for wrong in ((0, n), (n + 1, n)):
        with pytest.raises(ValueError, match="k must be"):
            thresholds.alarm_rate(*wrong)
    with pytest.raises(ValueError, match="level"):
        thresholds.alarm_rate(k, n, level=1)


@pytest.mark.parametrize("n", [1, 3, 19, 31, 100])
def test_a_threshold_knows_which_distance_it_is(n):
    good = np.random.default_rng(n).permutation(n) + 1.0  # the k-th smallest is k
    found = [thresholds.from_good(good, p, r) for p in (70, 90, 100) for r in thresholds.RULES]
    found += [thresholds.conformal(good, alpha) for alpha in (5, 10)]
    found += [thresholds.conformal_at(good, rate) for rate in (0.1, 0.125, 0.003)]
    found += [thresholds.false_alarms(good, rate) for rate in (0.01, 0.1, 0.5)]
    for threshold in found:
        assert threshold.rank == (None if math.isinf(threshold.value) else threshold.value)
    assert thresholds.oracle_f1(good, good + 0.5).rank is None
