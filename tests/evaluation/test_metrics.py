import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score, roc_curve

from cae_jax.evaluation import metrics, verdict


@pytest.mark.parametrize("values", [3, 10, 100_000])
def test_auroc_equals_scikit_learn(values):
    rng = np.random.default_rng(values)
    for n in (2, 7, 151):
        labels = rng.permutation(np.arange(n) % 3 == 0).astype(int)
        scores = rng.integers(values, size=n) + 0.7 * labels * rng.integers(2, size=n)
        assert metrics.image_auroc(labels, scores) == pytest.approx(
            roc_auc_score(labels, scores), abs=1e-12
        )


def test_auroc_of_ties_order_and_one_class():
    assert metrics.image_auroc([0, 1, 0, 1, 1], np.full(5, 3.5)) == 0.5
    assert metrics.image_auroc([0, 0, 1], [1, 2, 3]) == 1.0
    assert metrics.image_auroc([True, True, False], [1, 2, 3]) == 0.0
    assert math.isnan(metrics.image_auroc([1, 1], [0.2, 0.3]))
    assert math.isnan(metrics.image_auroc([0], [0.2]))


@pytest.mark.parametrize(
    ("labels", "scores", "message"),
    [
        ([], [], "empty"),
        ([0, 1], [0.5, np.nan], "finite"),
        ([0, 1], [0.5, np.inf], "finite"),
        ([0, 1, 1], [0.5, 0.7], "shape"),
        ([[0, 1]], [[0.5, 0.7]], "one axis"),
        ([0, 2], [0.5, 0.7], "0 or 1"),
    ],
)
def test_auroc_refuses(labels, scores, message):
    with pytest.raises(ValueError, match=message):
        metrics.image_auroc(labels, scores)


def test_accuracies_count_the_threshold_itself_as_good():
    rng = np.random.default_rng(0)
    distances = rng.integers(12, size=53).astype(np.float32)
    for threshold in range(-1, 13):
        called_good = sum(1 for d in distances if d <= threshold)
        assert verdict.good_accuracy(distances, threshold) == called_good / 53
        assert verdict.defect_accuracy(distances, threshold) == (53 - called_good) / 53
    assert math.isnan(verdict.good_accuracy([], 1.0))
    assert math.isnan(verdict.defect_accuracy([], 1.0))
    with pytest.raises(ValueError, match="defective distances must be finite"):
        verdict.defect_accuracy([np.nan], 1.0)


def images(n, values, seed=0):
    """n labels and scores with `values` distinct values before the defect is added."""
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(n) % 3 == 0).astype(int)
    return labels, rng.integers(values, size=n) + 0.7 * labels * rng.integers(2, size=n)


@pytest.mark.parametrize("values", [1, 3, 10, 100_000])
@pytest.mark.parametrize("n", [2, 7, 151])
def test_curve_and_average_precision_equal_scikit_learn(n, values):
    labels, scores = images(n, values)
    fpr, tpr = metrics.roc_curve(labels, scores)
    want_fpr, want_tpr, _ = roc_curve(labels, scores, drop_intermediate=False)
    np.testing.assert_allclose(fpr, want_fpr, atol=1e-12)
    np.testing.assert_allclose(tpr, want_tpr, atol=1e-12)
    assert metrics.average_precision(labels, scores) == pytest.approx(
        average_precision_score(labels, scores), abs=1e-12
    )


@pytest.mark.parametrize("values", [1, 3, 10, 100_000])
@pytest.mark.parametrize("n", [2, 7, 151])
def test_f1_max_equals_trying_every_threshold(n, values):
    labels, scores = images(n, values)
    tried = [
        (f1_score(labels, scores > threshold, zero_division=0), threshold)
        for threshold in [-math.inf, *scores]
    ]
    f1, threshold = metrics.f1_max(labels, scores)
    assert f1 == pytest.approx(max(tried)[0], abs=1e-12)
    assert threshold == max(at for value, at in tried if value > f1 - 1e-12)


def test_f1_max_may_call_everything_defective():
    assert metrics.f1_max([1, 0, 1, 1], [1.5, 2, 3, 4]) == (6 / 7, -math.inf)
    assert metrics.f1_max([1, 0, 0, 1], [3, 1, 2, 4]) == (1.0, 2.0)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_one_class_has_no_metrics(labels):
    scores = [0.4, 0.1, 0.3]
    assert [len(axis) for axis in metrics.roc_curve(labels, scores)] == [0, 0]
    assert math.isnan(metrics.average_precision(labels, scores))
    assert all(map(math.isnan, metrics.f1_max(labels, scores)))
    assert all(map(math.isnan, metrics.auroc_interval(labels, scores)))


@pytest.mark.parametrize(("k", "n"), [(0, 1), (0, 40), (1, 7), (29, 32), (32, 32)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_binomial_interval_leaves_half_the_rest_on_either_side(k, n, level):
    def chance(seen, share):
        return sum(math.comb(n, i) * share**i * (1 - share) ** (n - i) for i in seen)

    low, high = metrics.binomial_interval(k, n, level)
    assert 0 <= low <= k / n <= high <= 1
    tail = (1 - level) / 2
    if k > 0:
        assert chance(range(k, n + 1), low) == pytest.approx(tail, rel=1e-6)
    else:
        assert low == 0
    if k < n:
        assert chance(range(k + 1), high) == pytest.approx(tail, rel=1e-6)
    else:
        assert high == 1


def test_intervals_refuse_and_have_no_answer_for_nothing():
    assert all(map(math.isnan, metrics.binomial_interval(0, 0)))
    for k, n in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="k must be in"):
            metrics.binomial_interval(k, n)
    for level in (0, 1, math.nan):
        with pytest.raises(ValueError, match="level"):
            metrics.binomial_interval(1, 3, level)
        with pytest.raises(ValueError, match="level"):
            metrics.auroc_interval([0, 1], [1, 2], level=level)
    with pytest.raises(ValueError, match="resamples"):
        metrics.auroc_interval([0, 1], [1, 2], resamples=0)
    with pytest.raises(ValueError, match="finite"):
        metrics.auroc_interval([0, 1], [1, np.nan])


@pytest.mark.parametrize(("n", "values"), [(60, 4), (200, 100_000)])
def test_auroc_interval_equals_drawing_images_one_by_one(n, values):
    labels, scores = images(n, values, seed=n)
    good, defective = scores[labels == 0], scores[labels == 1]
    rng = np.random.default_rng(1)
    areas = []
    for _ in range(2000):
        drawn = [rng.choice(x, x.size)[:, None] for x in (good, defective)]
        wins, ties = drawn[1] > drawn[0].T, drawn[1] == drawn[0].T
        areas.append(wins.mean() + ties.mean() / 2)
    interval = metrics.auroc_interval(labels, scores)
    assert interval == pytest.approx(np.quantile(areas, [0.025, 0.975]), abs=0.012)
    narrow = metrics.auroc_interval(labels, scores, level=0.5)
    assert narrow == pytest.approx(np.quantile(areas, [0.25, 0.75]), abs=0.012)
    assert interval[0] < narrow[0] < metrics.image_auroc(labels, scores) < narrow[1] < interval[1]


def test_auroc_interval_depends_on_its_seed_alone():
    labels, scores = images(80, 1000)
    order = np.random.default_rng(3).permutation(80)
    assert metrics.auroc_interval(labels, scores) == metrics.auroc_interval(labels, scores)
    assert metrics.auroc_interval(labels, scores, 1) != metrics.auroc_interval(labels, scores)
    shuffled = metrics.auroc_interval(labels[order], scores[order])
    assert shuffled == metrics.auroc_interval(labels, scores)
    assert metrics.auroc_interval([0, 0, 1], [1, 2, 3]) == (1.0, 1.0)
