"""Trivial scores against scikit-learn's PCA and plain statistics; the flags on an AUROC."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from cae_jax.evaluation import trivial_scores


@pytest.fixture
def images():
    rng = np.random.default_rng(4)
    return rng.random((9, 12, 10, 3), dtype=np.float32), rng.random(
        (5, 12, 10, 3), dtype=np.float32
    )


def test_statistics(images):
    train, test = images
    found = trivial_scores.trivial_scores(train, test)
    for name, statistic in (("brightness", np.mean), ("contrast", lambda x: np.std(x.mean(-1)))):
        center = np.mean([statistic(image) for image in train])
        expected = [abs(statistic(image) - center) for image in test]
        np.testing.assert_allclose(found[name], expected, rtol=1e-3, atol=1e-6)
    mean = np.mean(train, axis=0)
    np.testing.assert_allclose(
        found["mean_image"], [((x - mean) ** 2).sum() for x in test], rtol=1e-5
    )
    assert all(values.shape == (5,) for values in found.values())


def test_gradient_energy_by_loops():
    rng = np.random.default_rng(5)
    train, test = (rng.random((n, 5, 4, 1)).astype(np.float32) for n in (3, 2))

    def energy(image):
        p = np.pad(image, 1, "symmetric")
        kernel = np.outer([1, 2, 1], [-1, 0, 1])
        total = 0.0
        for k in (kernel, kernel.T):
            for r in range(image.shape[0]):
                for c in range(image.shape[1]):
                    total += np.sum(p[r : r + 3, c : c + 3] * k) ** 2
        return total / image.size

    center = np.mean([energy(x[..., 0]) for x in train])
    expected = [abs(energy(x[..., 0]) - center) for x in test]
    found = trivial_scores.trivial_scores(train, test)["gradient_energy"]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_pca_equals_scikit_learn(images):
    train, test = images
    flat, other = (x.mean(-1).reshape(len(x), -1).astype(np.float64) for x in images)
    pca = PCA(4, svd_solver="full").fit(flat)  # half of 9 images
    expected = ((other - pca.inverse_transform(pca.transform(other))) ** 2).sum(1)
    np.testing.assert_allclose(
        trivial_scores.trivial_scores(train, test)["pca"], expected, rtol=1e-6
    )


def test_pca_of_one_training_image_is_the_distance_to_it():
    rng = np.random.default_rng(6)
    train, test = rng.random((1, 8, 8, 1)), rng.random((3, 8, 8, 1))
    expected = ((test - train) ** 2).sum((1, 2, 3))
    np.testing.assert_allclose(trivial_scores.trivial_scores(train, test)["pca"], expected)


@pytest.mark.parametrize(
    ("auroc", "words"),
    [
        (0.95, ""),
        (0.9, "does not beat pca (0.900)"),
        (
            0.4,
            "below chance, as contrast is (0.300): good test images stand out by it, "
            "does not beat pca (0.900)",
        ),
        (float("nan"), "no AUROC: one class has no images"),
        (None, "no AUROC: one class has no images"),
    ],
)
def test_flag(auroc, words):
    trivial = {"contrast": 0.3, "pca": 0.9, "brightness": None}
    assert trivial_scores.flag(auroc, trivial) == words


def test_nothing_known_to_beat():
    assert trivial_scores.best({"pca": None, "contrast": float("nan")}) == ""
    assert trivial_scores.flag(0.7, {"pca": None}) == ""
    assert trivial_scores.flag(0.3, {"pca": 0.5}) == "below chance, does not beat pca (0.500)"
