import math

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cae_jax import metrics


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
        assert metrics.good_accuracy(distances, threshold) == called_good / 53
        assert metrics.defect_accuracy(distances, threshold) == (53 - called_good) / 53
    assert math.isnan(metrics.good_accuracy([], 1.0))
    assert math.isnan(metrics.defect_accuracy([], 1.0))
    with pytest.raises(ValueError, match="defective distances must be finite"):
        metrics.defect_accuracy([np.nan], 1.0)
