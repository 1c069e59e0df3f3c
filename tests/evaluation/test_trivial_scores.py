"""Trivial scores against scikit-learn, SciPy and plain loops; what is said of an AUROC."""

import tracemalloc

import numpy as np
import pytest
from scipy.spatial.distance import cdist
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


def thumbnail(image, side):
    """By loops over blocks, in float64."""
    gray = image.astype(float).mean(-1)
    h, w = (min(side, n) for n in gray.shape)
    rows, columns = (
        [n * i // k for i in range(k + 1)] for n, k in zip(gray.shape, (h, w), strict=True)
    )
    blocks = [gray[rows[i] : rows[i + 1], columns[j] : columns[j + 1]].mean()
              for i in range(h) for j in range(w)]  # fmt: skip
    return (blocks - np.mean(blocks)) / np.std(blocks)


@pytest.mark.parametrize("shape", [(64, 64, 1), (33, 70, 3), (5, 40, 1), (2, 3, 3)])
def test_nearest_thumbnail_by_loops(shape):
    rng = np.random.default_rng(sum(shape))
    train, test = (rng.random((n, *shape), np.float32) for n in (4, 3))
    found = trivial_scores.trivial_scores(train, test)["nearest_thumbnail"]
    small = [[thumbnail(image, 32) for image in images] for images in (train, test)]
    expected = [min(np.sqrt(((one - other) ** 2).sum()) for other in small[0]) for one in small[1]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_an_image_that_recurs_in_other_light_is_next_to_itself():
    rng = np.random.default_rng(7)
    train = 0.2 + 0.5 * rng.random((3, 40, 40, 1), np.float32)
    test = np.stack([0.6 * train[1] + 0.1, rng.random((40, 40, 1), np.float32), 0 * train[0] + 0.5])
    found = trivial_scores.trivial_scores(train, test)["nearest_thumbnail"]
    assert found[0] < 1e-2 * found[1]
    np.testing.assert_allclose(found[2], 32, rtol=1e-5)  # of nothing: the others' own length


@pytest.mark.parametrize(("m", "n"), [(1, 1), (7, 3), (6, 12), (5, 4)])
def test_nearest_in_chunks_is_scipy(m, n, monkeypatch):
    rng = np.random.default_rng(m)
    train, test = rng.random((n, 9), np.float32), rng.random((m, 9), np.float32)
    expected = cdist(test, train).min(1)
    for size in (4, 512):
        monkeypatch.setattr(trivial_scores, "_AT_ONCE", size)
        np.testing.assert_allclose(trivial_scores.nearest(train, test), expected, rtol=1e-6)


def test_memory_is_that_of_a_chunk():
    rng = np.random.default_rng(1)
    train, test = rng.random((3000, 3), np.float32), rng.random((2000, 3), np.float32)
    tracemalloc.start()
    trivial_scores.nearest(train, test)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12e6  # of 48 MB that all distances take


@pytest.mark.parametrize(
    ("auroc", "share", "words"),
    [
        (0.955, 0.3, "tiles recur: the nearest training image alone reaches 0.955"),
        (
            0.94,
            0.02,
            "the nearest training image alone reaches 0.940: large defects, or images that recur",
        ),
        (0.94, float("nan"), "the nearest training image alone reaches 0.940: large defects, or "
         "images that recur"),
        (0.89, 0.5, ""),
        (float("nan"), 0.5, ""),
    ],
)  # fmt: skip
def test_recurrence(auroc, share, words):
    assert trivial_scores.recurrence(auroc, share) == words


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


def test_light_scores_are_two_of_the_trivial_ones_of_images_as_they_are_seen(images):
    train, test = images
    found = trivial_scores.light_scores(train, test, lambda image: image / image.mean())
    seen = [np.stack([image / image.mean() for image in part]) for part in images]
    whole = trivial_scores.trivial_scores(*seen)
    assert whole.keys() == trivial_scores.trivial_scores(*images).keys()
    for name, values in trivial_scores.trivial_scores(*images, lambda x: x / x.mean()).items():
        np.testing.assert_allclose(values, whole[name], rtol=1e-4, atol=2e-6)
    np.testing.assert_array_equal(found["brightness"], 0)  # not the last digits of a float
    np.testing.assert_array_equal(found["contrast"], whole["contrast"])


def exposure_of(intensity, raw, even):
    both = {"none": {"brightness": raw}, "median": {"brightness": even}}
    return trivial_scores.exposure(intensity, both)


@pytest.mark.parametrize(
    ("intensity", "raw", "even", "words"),
    [
        ("none", 0.001, 0.42, "(AUROC 0.001), divided by their median it does not (0.420): trust "
         "the run with --intensity=median"),
        ("none", 0.95, 0.25, "(AUROC 0.950), divided by their median less so (0.250): trust the "
         "run with --intensity=median"),
        ("median", 0.05, 0.6, "it does not (0.600): trust this run"),
        ("mean_std", 0.05, 0.6, "it does not (0.600): trust this run"),
        ("none", 1.0, 0.02, "still does divided by their median (0.020): defects change it"),
        ("none", 0.89, 0.5, ""),
        ("none", 0.11, 0.5, ""),
        ("none", float("nan"), float("nan"), ""),
        ("none", None, None, ""),
    ],
)  # fmt: skip
def test_which_run_to_trust(intensity, raw, even, words):
    found = exposure_of(intensity, raw, even)
    assert found.startswith("brightness alone separates these images") == bool(words)
    assert found.endswith(words)
    assert "\n" not in found


def test_nothing_known_to_beat():
    assert trivial_scores.best({"pca": None, "contrast": float("nan")}) == ""
    assert trivial_scores.flag(0.7, {"pca": None}) == ""
    assert trivial_scores.flag(0.3, {"pca": 0.5}) == "below chance, does not beat pca (0.500)"
