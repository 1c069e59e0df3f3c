"""Multi-scale gradient magnitude similarity against plain loops."""

import jax
import numpy as np
import pytest

from cae_jax.scoring import msgms

dissimilarity = jax.jit(msgms.dissimilarity)


def lost(x, y):
    """1 - GMS of one channel [H, W], pixel by pixel."""
    height, width = x.shape
    found = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            magnitudes = []
            for image in (x, y):
                down = right = 0.0
                for m in (-1, 0, 1):
                    for n in (-1, 0, 1):
                        row, column = np.clip(i + m, 0, height - 1), np.clip(j + n, 0, width - 1)
                        down += m * image[row, column] / 3
                        right += n * image[row, column] / 3
                magnitudes.append(np.hypot(down, right))
            a, b = magnitudes
            found[i, j] = 1 - (2 * a * b + 0.0026) / (a * a + b * b + 0.0026)
    return found


def halved(x):
    """2x2 means; the last pixel of an odd side counts twice."""
    height, width = x.shape
    found = np.zeros((-(-height // 2), -(-width // 2)))
    for i in range(2 * found.shape[0]):
        for j in range(2 * found.shape[1]):
            found[i // 2, j // 2] += x[min(i, height - 1), min(j, width - 1)] / 4
    return found


def enlarged(x, times, height, width):
    """Bilinear between the centers of pixels, the edge's going on."""
    found = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            at = [(k + 0.5) / times - 0.5 for k in (i, j)]
            first = [int(np.floor(k)) for k in at]
            for m in (0, 1):
                for n in (0, 1):
                    weight = 1.0
                    for k, start, step in zip(at, first, (m, n), strict=True):
                        weight *= 1 - abs(k - (start + step))
                    row = np.clip(first[0] + m, 0, x.shape[0] - 1)
                    column = np.clip(first[1] + n, 0, x.shape[1] - 1)
                    found[i, j] += weight * x[row, column]
    return found


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    x = rng.random((2, 13, 18, 3), np.float32)
    return x, np.clip(x + 0.2 * rng.normal(size=x.shape), 0, 1).astype("f")


def test_the_map_and_the_loss_by_loops(pair):
    x, y = pair
    each = []  # [image, scale]: the channels' mean
    for a, b in zip(x.astype(float), y.astype(float), strict=True):
        scales = [(a, b)]
        for _ in range(3):
            scales.append(
                tuple(
                    np.stack([halved(image[..., c]) for c in range(3)], axis=-1)
                    for image in scales[-1]
                )
            )
        each.append(
            [np.mean([lost(p[..., c], q[..., c]) for c in range(3)], axis=0) for p, q in scales]
        )
    maps = [sum(enlarged(m, 2**s, 13, 18) for s, m in enumerate(ms)) / 4 for ms in each]
    found = dissimilarity(x, y)
    assert found.shape == (2, 13, 18)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, maps, atol=1e-5)
    means = [np.mean([m.mean() for m in ms]) for ms in each]
    np.testing.assert_allclose(jax.jit(msgms.loss)(x, y), means, atol=1e-5)


def test_equal_images_have_no_difference(pair):
    x, y = pair
    np.testing.assert_array_equal(dissimilarity(x, x), 0)
    np.testing.assert_array_equal(dissimilarity(x, 0 * x + 0.5)[:, 0, 0] > 0, True)
    np.testing.assert_allclose(dissimilarity(x, y), dissimilarity(y, x), atol=1e-6)


def test_the_gradient_is_finite_where_images_are_flat(pair):
    x, _ = pair
    flat = np.full_like(x, 0.3)
    slope = jax.jit(jax.grad(lambda y, x: msgms.loss(x, y).sum()))
    assert np.isfinite(slope(flat, x)).all()
    assert np.isfinite(slope(x, flat)).all()
    np.testing.assert_array_equal(slope(flat, flat), 0)


def test_shapes_that_differ_are_refused(pair):
    x, y = pair
    with pytest.raises(ValueError, match=r"\(2, 13, 18, 3\) and \(1, 13, 18, 3\)"):
        msgms.dissimilarity(x, y[:1])
