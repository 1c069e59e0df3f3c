"""Bootstraps against drawing the images one by one, and against `metrics.auroc_interval`."""

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from cae_jax.evaluation import metrics, resampling


@pytest.fixture
def scored(rng):
    labels = rng.permutation([0] * 9 + [1] * 14)
    scores = (labels + rng.normal(0, 1.2, labels.size)).round(1)  # with ties
    return labels, scores


def test_a_resample_keeps_both_classes_as_large_as_they_are(scored):
    labels, _ = scored
    counts = resampling.draws(labels, 3, 500)
    assert counts.shape == (500, 23)
    assert (counts[:, labels == 0].sum(axis=1) == 9).all()
    assert (counts[:, labels == 1].sum(axis=1) == 14).all()
    # 500 resamples: the mean of a count is 1, its deviation about 1, that of the mean 0.045
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.2)
    np.testing.assert_array_equal(counts, resampling.draws(labels, 3, 500))
    assert (counts != resampling.draws(labels, 4, 500)).any()


def test_numbers_are_those_of_the_images_drawn(scored):
    labels, scores = scored
    counts = resampling.draws(labels, 0, 40)
    right = (scores > 0.4) == labels
    found = resampling.aurocs(labels, scores, counts)
    accuracies = resampling.balanced_accuracies(labels, right, counts)
    for count, auroc, accuracy in zip(counts, found, accuracies, strict=True):
        drawn = np.repeat(np.arange(labels.size), count)
        assert auroc == pytest.approx(roc_auc_score(labels[drawn], scores[drawn]))
        wanted = balanced_accuracy_score(labels[drawn], scores[drawn] > 0.4)
        assert accuracy == pytest.approx(wanted)


def test_the_interval_is_like_that_of_a_run(scored):
    labels, scores = scored
    found = resampling.interval(
        resampling.aurocs(labels, scores, resampling.draws(labels, 1, 20_000))
    )
    np.testing.assert_allclose(
        found, metrics.auroc_interval(labels, scores, 2, resamples=20_000), atol=0.01
    )


def test_one_class_has_no_number():
    labels, counts = np.ones(5, int), resampling.draws(np.ones(5, int), 0, 7)
    assert np.isnan(resampling.aurocs(labels, np.arange(5), counts)).all()
    assert np.isnan(resampling.balanced_accuracies(labels, labels, counts)).all()
    assert np.isnan(resampling.interval(np.full(7, np.nan))).all()
    with pytest.raises(ValueError, match="resamples"):
        resampling.draws(labels, 0, 0)
