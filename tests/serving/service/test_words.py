"""Sentences: what is said of a verdict, and of the scores of a line."""

import numpy as np
import page_app
import pytest
from scipy import stats

from cae_jax.serving.service import drift, words


@pytest.mark.parametrize(("defective", "at_least", "n", "said"), page_app.SENTENCES)
def test_what_is_said_of_a_part(defective, at_least, n, said):
    verdict = page_app.detector().score(page_app.image(0.5))
    verdict = verdict._replace(defective=defective, p_value=page_app.p_value(at_least, n))
    assert words.sentence(verdict, n) == said


@pytest.mark.parametrize(
    ("n", "low", "high"), [(1, 1, 1), (3, 1, 3), (19, 1, 19), (38, 1, 38), (39, 2, 38)]
)
def test_the_band(n, low, high, rng):
    assert drift.band(rng.permutation(n) + 1.0) == (low, high)
    assert drift.band([]) is None


def test_nine_good_images_in_ten_fall_into_the_band():
    for n in range(drift.FEWEST, 300):
        low, high = drift.band(np.arange(1.0, n + 1))
        assert (high - low) / (n + 1) >= 0.9  # ranks: a new image falls between any two alike


def test_drift_is_told_when_most_scores_leave_the_band():
    unseen = np.linspace(1, 2, 39)
    inside, above, below = 9 * [1.5], 11 * [2.5], 11 * [0.5]
    assert drift.sentence(inside + above, unseen).startswith("11 of the last 20 scores lie above")
    assert drift.sentence(below + inside, unseen).startswith("11 of the last 20 scores lie below")
    mixed = 6 * [0.5] + 5 * [2.5] + inside
    assert drift.sentence(mixed, unseen).startswith("11 of the last 20 scores lie outside")
    for quiet in (10 * [2.5] + 10 * [1.5], 19 * [2.5], inside + inside + 2 * [1.5] + 100 * [2.5]):
        assert drift.sentence(quiet, unseen) == ""
    assert drift.sentence(20 * [9.0], unseen[:18]) == ""


def test_good_parts_seldom_look_like_drift():
    """As the docstring says: of n exchangeable images 2 k lie outside, a beta-binomial count."""
    chances = []
    for n in range(drift.FEWEST, 300):
        k = max(1, (n + 1) // 20)
        chances.append(stats.betabinom.sf(drift.LAST // 2, drift.LAST, 2 * k, n + 1 - 2 * k))
    assert chances[0] == max(chances) < 0.0009
