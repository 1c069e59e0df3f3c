"""Images made even by a statistic of their own, and the scoring call that does so: NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cae_jax.scoring import intensity, scorer
from cae_jax.scoring.intensity import all_even, even, light
from cae_jax.scoring.median import median
from cae_jax.scoring.options import INTENSITIES
from cae_jax.scoring.residuals import Reduction
from cae_jax.types import Evidence, UsageError, with_counts


def numpy_even(image, name):
    if name == "median":
        return image / np.median(image)
    return 0.45 + (image - image.mean()) * 0.225 / image.std()


@pytest.mark.parametrize("n", [1, 2, 9, 30])
def test_median(rng, n):
    values = rng.random((n, 3, 5), np.float32)
    np.testing.assert_allclose(jax.jit(median)(values), np.median(values, axis=0), rtol=1e-6)


@pytest.mark.parametrize("name", INTENSITIES[1:])
@pytest.mark.parametrize("shape", [(5, 7, 3), (4, 6, 1)])
def test_an_image_is_made_even_by_itself_and_as_bright_again(rng, name, shape):
    images = (0.1 + 0.3 * rng.random((3, *shape))).astype("f")
    found = jax.jit(even, static_argnums=1)(images, name)
    np.testing.assert_allclose(
        found, [numpy_even(x.astype(float), name) for x in images], rtol=1e-5
    )
    np.testing.assert_allclose(found, even(2 * images, name), rtol=1e-5)
    np.testing.assert_allclose(light(images, name).into(found), images, rtol=1e-5)


def test_nothing_is_clipped(rng):
    dark = np.full((1, 4, 4, 1), 0.1, np.float32)
    dark[0, 0, 0] = 1
    assert float(even(dark, "median").max()) == pytest.approx(10)


def test_none_is_the_same_array(rng):
    images = rng.random((2, 4, 4, 1), np.float32)
    assert even(images, "none") is all_even(images, "none") is images


@pytest.mark.parametrize("name", INTENSITIES)
def test_a_black_image_stays_finite(name):
    assert np.isfinite(even(jnp.zeros((1, 4, 4, 1)), name)).all()


def test_another_name():
    with pytest.raises(UsageError, match="unknown --intensity 'mean'"):
        even(np.ones((1, 2, 2, 1), np.float32), "mean")


@pytest.mark.parametrize("n", [0, 1, 2, 5, 7])
def test_all_images_in_chunks(rng, n, monkeypatch):
    monkeypatch.setattr(intensity, "_AT_ONCE", 2)
    images = 0.1 + rng.random((n, 5, 4, 1), np.float32)
    found = all_even(images, "mean_std")
    expected = [numpy_even(image.astype(float), "mean_std") for image in images]
    np.testing.assert_allclose(found, np.reshape(expected, images.shape), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", INTENSITIES[1:])
@pytest.mark.parametrize("channels", [1, 3])
def test_what_does_not_count_is_in_no_statistic(rng, name, channels):
    """In learning as in the scoring call, of odd and even numbers of pixels."""
    images = 0.1 + 0.3 * rng.random((4, 6, 5, channels), np.float32)
    counts = rng.random((4, 6, 5)) < 0.3
    counts[0], counts[1, :, 0] = False, True
    counts[0, 2, 1:4] = True
    wanted = np.zeros_like(images)
    for image, inside, each in zip(images, counts, wanted, strict=True):
        some = image[inside].astype(float)
        by = {"median": (0, 1 / np.median(some), 0), "mean_std": (some.mean(), 0, 0.45)}[name]
        center, scale, base = by
        each[:] = base + (image - center) * (scale or 0.225 / some.std())
    seen = with_counts(images, counts)
    np.testing.assert_allclose(all_even(images, name, seen), wanted, rtol=1e-4, atol=1e-5)
    call = scorer.scorer(inspect, Reduction(("a",)), name, channels=channels)
    found = call({}, seen).residuals["a"]
    np.testing.assert_allclose(found[counts], wanted[..., 0][counts], rtol=1e-4, atol=1e-5)


def inspect(variables, images):
    """Half the image as its reconstruction, and the sum of an image for a number."""
    return Evidence({"a": images[..., 0]}, {"a": images.sum((1, 2, 3))}, images / 2)


def test_the_scoring_call_makes_images_even_and_gives_reconstructions_as_bright(rng):
    images = rng.random((3, 6, 5, 1), np.float32)
    call = scorer.scorer(inspect, Reduction(("a",)), "median")
    found = call({}, images)
    scale = 1 / np.median(images, axis=(1, 2, 3), keepdims=True)
    np.testing.assert_allclose(found.residuals["a"], (images * scale)[..., 0], rtol=1e-5)
    np.testing.assert_allclose(found.distances["a"], (images * scale).sum((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found.reconstruction, images / 2, rtol=1e-5)
    plain = scorer.scorer(inspect, Reduction(("a",)))({}, images)
    np.testing.assert_array_equal(plain.residuals["a"], images[..., 0])
