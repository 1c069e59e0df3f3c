"""Losses against loops and against scikit-image."""

import jax
import numpy as np
import pytest
from skimage.metrics import structural_similarity

from cae_jax.methods import losses
from cae_jax.methods.options.autoencoder import LOSSES
from cae_jax.scoring import ssim
from cae_jax.scoring.options import Ssim
from cae_jax.types import UsageError

FLAT = Ssim(7, "flat", "printed")


@pytest.mark.parametrize("shape", [(3, 5, 7, 1), (2, 4, 3, 3)])
@pytest.mark.parametrize(("name", "power"), [("l2", 2), ("l1", 1)])
def test_l2_and_l1_are_means_over_a_patch(rng, name, power, shape):
    x, y = rng.random((2, *shape), np.float32)
    expected = []
    for a, b in zip(x, y, strict=True):
        errors = [abs(float(p) - float(q)) ** power for p, q in zip(a.flat, b.flat, strict=True)]
        expected.append(sum(errors) / len(errors))
    found = losses.loss(name)(x, y)
    assert found.shape == (shape[0],)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_do_not_broadcast(rng, name):
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 1\) and \(1, 4, 4, 1\)"):
        losses.loss(name)(rng.random((2, 4, 4, 1)), rng.random((1, 4, 4, 1)))


def test_ssim_is_the_mean_over_all_pixels(rng):
    x = rng.random((2, 13, 18, 3), np.float32)
    y = np.clip(x + 0.2 * rng.normal(size=x.shape), 0, 1).astype("f")
    expected = []
    for a, b in zip(x.astype(float), y.astype(float), strict=True):
        options = {"data_range": 1.0, "channel_axis": -1, "use_sample_covariance": False}
        options |= {"win_size": 7, "K1": 0.1, "K2": 0.03**0.5, "full": True}
        expected.append(1 - structural_similarity(a, b, **options)[1].mean())
    np.testing.assert_allclose(jax.jit(losses.loss("ssim", FLAT))(x, y), expected, atol=1e-5)
    together = expected + np.mean((x - y) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(jax.jit(losses.loss("l2_ssim", FLAT))(x, y), together, atol=1e-5)


def test_ms_ssim_and_its_mixture(rng):
    x = rng.random((2, 24, 30, 1), np.float32)
    y = np.clip(x + 0.2 * rng.normal(size=x.shape), 0, 1).astype("f")
    structure = np.array(jax.jit(losses.loss("ms_ssim", FLAT))(x, y))
    direct = jax.jit(lambda x, y: ssim.multi_scale(x, y, FLAT))(x, y)
    np.testing.assert_array_equal(structure, direct)
    # with the Gaussian of Zhao et al. 2017 over the absolute error, borders reflected
    weights = ssim.gaussian(8.0, 24)
    errors = np.array(ssim.blur(np.abs(x - y)[..., 0], weights, "reflect"))
    expected = 0.84 * structure + 0.16 * errors.mean(axis=(1, 2))
    np.testing.assert_allclose(jax.jit(losses.loss("ms_ssim_l1", FLAT))(x, y), expected, rtol=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_a_step_downhill_brings_a_patch_closer(rng, name):
    x, y = rng.random((2, 2, 12, 12, 1), np.float32)
    y = (0.5 * x + 0.5 * y).astype("f")

    @jax.jit
    def descent(y):
        value, pull = jax.vjp(lambda y: losses.loss(name)(y, x), y)
        return value, pull(jax.numpy.ones_like(value))[0]

    before, gradient = descent(y)
    after, _ = descent(y - 1e-3 * gradient / np.abs(gradient).max())
    assert np.all(before > 0)
    assert np.all(after < before)


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_by_a_loop(rng, gamma):
    logits = 3 * rng.normal(size=(2, 5, 4, 2)).astype("f")
    mask = rng.random((2, 5, 4)) > 0.7
    expected = np.zeros(2)
    for n, i, j in np.ndindex(2, 5, 4):
        good, bad = np.exp(logits[n, i, j].astype(float))
        p = (bad if mask[n, i, j] else good) / (good + bad)
        expected[n] -= (1 - p) ** gamma * np.log(p) / 20
    found = jax.jit(losses.focal)(logits, mask, gamma)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    sure = np.stack([-1e3 * mask, -1e3 * ~mask], axis=-1).astype("f")
    pull = jax.grad(lambda logits: losses.focal(logits, mask, 2.0).sum())
    assert np.isfinite(pull(sure)).all()
    assert np.isfinite(pull(-sure)).all()
    with pytest.raises(ValueError, match=r"\(2, 5, 4, 2\), got \(2, 5, 4\)"):
        losses.focal(logits[..., 0], mask)


def test_bad_names():
    with pytest.raises(UsageError, match="--loss 'ms-ssim': did you mean ms_ssim"):
        losses.loss("ms-ssim")
    with pytest.raises(UsageError, match="--ssim_window=4"):
        losses.loss("l2", Ssim(4))
