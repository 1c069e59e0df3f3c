"""SSIM against scikit-image, and against its formula written out with SciPy's filters."""

import jax
import numpy as np
import pytest
from scipy import ndimage
from skimage.metrics import structural_similarity

from cae_jax.scoring import ssim
from cae_jax.scoring.options import Ssim
from cae_jax.types import UsageError

dissimilarity = jax.jit(ssim.dissimilarity, static_argnames=("settings", "border"))
multi_scale = jax.jit(ssim.multi_scale, static_argnames="settings")
C1_C2 = {"wang": (1e-4, 9e-4), "printed": (0.01, 0.03)}


def pair(rng, kind: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Images float32 [N, H, W, C] in [0, 1] of a kind that SSIM is hard to compute for."""
    x, noise = rng.random(shape), rng.normal(size=shape)
    if kind == "near 1":
        x = 0.98 + 0.002 * noise
    if kind == "two levels":  # a white and a black half, both of low contrast
        x = 0.98 + 0.002 * noise
        x[:, :, : shape[2] // 2] -= 0.96
    y = {
        "random": rng.random(shape),
        "close": x + 0.001 * noise,
        "saturated": np.clip(4 * x - 1.5, 0, 1),
        "near 1": x + 0.001 * rng.normal(size=shape),
        "two levels": x + 0.01 * rng.normal(size=shape),
    }[kind]
    return np.clip(x, 0, 1).astype("f"), np.clip(y, 0, 1).astype("f")


@pytest.mark.parametrize(
    ("settings", "shape"),
    [
        (Ssim(), (2, 13, 29, 1)),
        (Ssim(11, "flat", "printed"), (2, 13, 29, 3)),
        (Ssim(7, "gaussian", "printed"), (1, 24, 9, 3)),
        (Ssim(7, "flat"), (1, 64, 64, 1)),
    ],
)
def test_dissimilarity_is_that_of_scikit_image(rng, settings, shape):
    c1, c2 = C1_C2[settings.constants]
    options = {"K1": c1**0.5, "K2": c2**0.5, "win_size": settings.window, "channel_axis": -1}
    options |= {"data_range": 1.0, "use_sample_covariance": False, "full": True}
    if settings.weights == "gaussian":
        options |= {"gaussian_weights": True, "sigma": 1.5 * settings.window / 11}
    for kind in ("random", "close", "saturated", "near 1", "two levels"):
        x, y = pair(rng, kind, shape)
        found = dissimilarity(x, y, settings)
        assert (found.shape, found.dtype) == (shape[:3], np.float32)
        for i in range(len(x)):
            a, b = x[i].astype(float), y[i].astype(float)
            expected = 1 - structural_similarity(a, b, **options)[1].mean(axis=-1)
            np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-5, err_msg=kind)


def formula(x, y, settings: Ssim, mode: str) -> tuple[np.ndarray, np.ndarray]:
    """Luminance and contrast-structure of float64 [H, W] images, as the paper writes them."""

    def mean(z):
        if settings.weights == "flat":
            return ndimage.uniform_filter(z, settings.window, mode=mode)
        sigma, radius = 1.5 * settings.window / 11, settings.window // 2
        return ndimage.gaussian_filter(z, sigma, mode=mode, radius=radius)

    (c1, c2), mx, my = C1_C2[settings.constants], mean(x), mean(y)
    covariance = mean(x * y) - mx * my
    variances = mean(x * x) - mx**2 + mean(y * y) - my**2
    return (2 * mx * my + c1) / (mx**2 + my**2 + c1), (2 * covariance + c2) / (variances + c2)


@pytest.mark.parametrize("border", ["reflect", "edge", "crop"])
@pytest.mark.parametrize("shape", [(2, 5, 3, 3), (1, 1, 1, 1), (1, 17, 30, 1)])
@pytest.mark.parametrize("weights", ["gaussian", "flat"])
def test_dissimilarity_at_borders_and_of_images_below_the_window(rng, weights, shape, border):
    x, y = rng.random((2, *shape), np.float32)
    settings = Ssim(11, weights)
    found = dissimilarity(x, y, settings, border)
    mode = {"reflect": "reflect", "edge": "nearest", "crop": "constant"}[border]
    for i in range(shape[0]):
        channels = range(shape[3])
        pairs = [(x[i, ..., c].astype(float), y[i, ..., c].astype(float)) for c in channels]
        expected = 1 - np.mean(
            [np.prod(formula(*p, settings, mode), axis=0) for p in pairs], axis=0
        )
        if border == "crop":
            inside = np.zeros(shape[1:3], bool)
            inside[5:-5, 5:-5] = True
            expected = np.where(inside, expected, 0)
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-5)


def halved(x: np.ndarray) -> np.ndarray:
    """2x2 means of [H, W]; an odd last row or column is dropped."""
    rows, columns = (n // 2 for n in x.shape)
    blocks = [x[a : 2 * rows : 2, b : 2 * columns : 2] for a in (0, 1) for b in (0, 1)]
    return np.mean(blocks, axis=0)


@pytest.mark.parametrize(
    ("shape", "settings", "n"),
    [
        ((1, 128, 128, 1), Ssim(), 5),
        ((1, 88, 91, 1), Ssim(11, "flat", "printed"), 5),
        ((2, 45, 87, 3), Ssim(), 4),
        ((1, 12, 300, 1), Ssim(7), 2),
        ((1, 2, 3, 1), Ssim(), 1),
    ],
)
def test_multi_scale(rng, shape, settings, n):
    x = ndimage.gaussian_filter(rng.random(shape), (0, 2, 2, 0))
    y = np.clip(x + 0.05 * rng.normal(size=shape), 0, 1)
    weights = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])
    weights = weights[:n] * weights.sum() / weights[:n].sum()
    expected = np.zeros(shape[0])
    for i, c in np.ndindex(shape[0], shape[3]):
        a, b, product = x[i, ..., c], y[i, ..., c], 1.0
        for scale, weight in enumerate(weights):
            luminance, structure = formula(a, b, settings, "reflect")
            last = scale == n - 1
            product *= np.mean(luminance * structure if last else structure) ** weight
            a, b = halved(a), halved(b)
        expected[i] += (1 - product) / shape[3]
    found = multi_scale(x.astype("f"), y.astype("f"), settings)
    assert np.all((expected > 1e-3) & (expected < 0.9))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("function", [ssim.dissimilarity, ssim.multi_scale])
def test_equal_images_differ_by_nothing(rng, function):
    x = rng.random((4, 13, 29, 3), np.float32)
    x[1:] = np.array([0, 1, 0.3])[:, None, None, None]  # nothing varies in these

    @jax.jit
    def value_and_gradients(a, b):
        value, pull = jax.vjp(function, a, b)
        return value, pull(jax.numpy.ones_like(value))

    value, gradients = value_and_gradients(x, x)
    assert np.all(value == 0)
    assert np.all(np.array(gradients) == 0)


def test_multi_scale_of_a_negative_is_1_with_a_finite_gradient(rng):
    x = rng.random((1, 24, 24, 1), np.float32)
    of = jax.jit(jax.value_and_grad(lambda a, b: ssim.multi_scale(a, b)[0]))
    value, gradient = of(x, 1 - x)
    assert value == 1
    assert np.all(gradient == 0)
    value, gradient = of(x, np.full_like(x, 0.5))  # nothing covaries: still a slope to go down
    assert 0 < value < 1
    assert np.isfinite(gradient).all()
    assert np.any(gradient != 0)


def test_gradient_is_the_slope_of_the_formula(rng):
    x, y, along = rng.random((3, 13, 9))

    def value(t):
        return 1 - np.prod(formula(x + t * along, y, Ssim(), "reflect"), axis=0).mean()

    slope = (value(1e-5) - value(-1e-5)) / 2e-5
    x, y = (z[None, ..., None].astype("f") for z in (x, y))
    gradient = jax.jit(jax.grad(lambda a: ssim.dissimilarity(a, y).mean()))(x)
    np.testing.assert_allclose(np.sum(gradient[0, ..., 0] * along), slope, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (Ssim(window=10), "--ssim_window=10: must be odd"),
        (Ssim(window=1), "--ssim_window=1: must be odd and at least 3"),
        (Ssim(weights="gausian"), "--ssim_weights 'gausian': did you mean gaussian"),
        (Ssim(constants="wong"), "--ssim_constants 'wong': did you mean wang"),
    ],
)
def test_bad_settings(rng, settings, message):
    with pytest.raises(UsageError, match=message):
        ssim.check(settings)
    with pytest.raises(UsageError, match=message):
        ssim.dissimilarity(*rng.random((2, 1, 4, 4, 1)), settings)


def test_bad_arguments(rng):
    x = rng.random((2, 4, 4, 1), np.float32)
    with pytest.raises(ValueError, match=r"\(2, 4, 4, 1\) and \(1, 4, 4, 1\)"):
        ssim.dissimilarity(x, x[:1])
    with pytest.raises(ValueError, match=r"\(2, 4, 4\)"):
        ssim.dissimilarity(x[..., 0], x[..., 0])
    with pytest.raises(UsageError, match="unknown border 'edges': did you mean edge"):
        ssim.dissimilarity(x, x, border="edges")
