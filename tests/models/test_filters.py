"""The filter bank against SciPy's filters, and a plain sum over each kernel."""

import re

import jax
import numpy as np
import pytest
from scipy import ndimage

from cae_jax.models import filters
from cae_jax.models.filters import derivatives, gabor


@pytest.fixture(scope="module")
def extract():
    return jax.jit(filters.extract, static_argnums=2)


def by_scipy(image, sigma, order):
    return ndimage.gaussian_filter(image.astype(float), sigma, order=order, mode="reflect")


@pytest.mark.parametrize("shape", [(37, 53), (130, 9), (64, 64)])
@pytest.mark.parametrize(("sigma", "step"), [(1, 1), (2, 2), (4, 4), (8, 8), (8, 4), (1.3, 3)])
def test_derivatives_are_those_of_scipy(rng, shape, sigma, step):
    images = rng.random((2, *shape), np.float32)
    found = jax.jit(derivatives, static_argnums=(1, 2))(images, sigma, step)
    assert set(found) == {(0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0)}
    for order, responses in found.items():
        expected = [by_scipy(image, sigma, order)[::step, ::step] for image in images]
        np.testing.assert_allclose(responses, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("wavelength", "step"), [(4, 2), (8, 4), (8, 1)])
def test_gabor_filters_are_those_of_the_formula(rng, wavelength, step):
    image = rng.random((41, 30), np.float32)
    found = gabor(image[None], wavelength, step)
    sigma = 0.56 * wavelength
    radius = int(4 * sigma + 0.5)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    weights = np.exp(-(x**2 + y**2) / (2 * sigma**2))
    weights /= weights.sum()
    constant = 2 * np.exp(-((2 * np.pi * 0.56) ** 2) / 2)
    for angle, (even, odd) in zip(np.deg2rad(filters.ANGLES), found, strict=True):
        phase = 2 * np.pi / wavelength * (x * np.cos(angle) + y * np.sin(angle))
        for response, wave in ((even, 2 * np.cos(phase) - constant), (odd, 2 * np.sin(phase))):
            kernel = weights * wave
            expected = ndimage.correlate(image.astype(float), kernel, mode="reflect")
            np.testing.assert_allclose(response[0], expected[::step, ::step], atol=1e-5)


@pytest.mark.parametrize(("i", "angle"), [*enumerate(filters.ANGLES)])
def test_a_wave_has_its_own_amplitude_along_its_own_angle_alone(i, angle):
    y, x = np.mgrid[:96, :96]
    a = np.deg2rad(angle)
    image = 0.5 + 0.2 * np.cos(2 * np.pi / 8 * (x * np.cos(a) + y * np.sin(a)) + 0.3)
    moduli = [np.hypot(*pair)[0, 40:56, 40:56] for pair in gabor(image[None].astype("f"), 8)]
    np.testing.assert_allclose(moduli[i], 0.2, rtol=2e-3)
    others = [m.max() for j, m in enumerate(moduli) if j != i]
    assert max(others) < 0.03


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("stride", filters.STRIDES)
@pytest.mark.parametrize("shape", [(37, 53), (64, 40)])
def test_features(rng, extract, shape, stride, channels):
    """Every feature once more, from SciPy's derivatives, averaged in loops over the grid."""
    image = rng.random((*shape, channels), np.float32)
    found = np.asarray(extract({}, image[None], stride)["filters"][0])
    names = filters.names(channels)
    assert found.shape == (-(-shape[0] // stride), -(-shape[1] // stride), len(names))
    for name in names:
        expected = feature(name, image.astype(float), stride)
        np.testing.assert_allclose(found[..., names.index(name)], expected, atol=1e-4, err_msg=name)


def feature(name, image, stride):
    """The feature of that name at every point of the grid."""
    kind, size = name.rsplit(", ", 1)[0], float(name.split()[-1])
    gray = image.mean(axis=-1)
    step = min(int(size) if "sigma" in name else int(size) // 2, stride)
    width = max(size if "sigma" in name else size / 2, stride / 2)
    if kind.startswith("wave"):
        i = filters.ANGLES.index(int(kind.split()[1]))
        response = np.hypot(*gabor(gray[None].astype("f"), size)[i])[0]
    elif " of " in kind:
        pair = kind.split()[-1]
        r, g, b = np.moveaxis(image, -1, 0)
        color = (r - g) / 2**0.5 if pair == "R-G" else (r + g - 2 * b) / 6**0.5
        response = by_scipy(color, size, 0)
        if kind.startswith("gradient"):
            response = size * np.hypot(by_scipy(color, size, (0, 1)), by_scipy(color, size, (1, 0)))
    else:
        x, y = size * by_scipy(gray, size, (0, 1)), size * by_scipy(gray, size, (1, 0))
        xx, xy, yy = (size**2 * by_scipy(gray, size, o) for o in ((0, 2), (1, 1), (2, 0)))
        a = np.deg2rad(float(kind.split()[1])) if kind.startswith("bar") else 0
        c, s = np.cos(a), np.sin(a)
        response = {
            "mean": by_scipy(gray, size, 0),
            "light": np.maximum(-xx - yy, 0),
            "dark": np.maximum(xx + yy, 0),
            **{"edge right": np.maximum(x, 0), "edge left": np.maximum(-x, 0)},
            **{"edge down": np.maximum(y, 0), "edge up": np.maximum(-y, 0)},
        }.get(kind, np.abs(c**2 * xx + 2 * c * s * xy + s**2 * yy))
    return averaged(response, step, stride, width)


def averaged(response, step, stride, width):
    """Gaussian means around the centers of equal cells, of every `step`-th response."""
    height, breadth = response.shape
    h, w = -(-height // stride), -(-breadth // stride)
    y, x = np.mgrid[0:height:step, 0:breadth:step]
    found = np.zeros((h, w))
    for i, j in np.ndindex(h, w):
        at = (i + 0.5) * height / h - 0.5, (j + 0.5) * breadth / w - 0.5
        weights = np.exp(-((y - at[0]) ** 2 + (x - at[1]) ** 2) / (2 * width**2))
        found[i, j] = (weights * response[::step, ::step]).sum() / weights.sum()
    return found


def test_an_image_and_its_mirror_have_mirrored_features(rng, extract):
    """Points stand in the middle of their cells: none is nearer to one border."""
    image = rng.random((1, 64, 64, 1), np.float32)
    names = filters.names(1)
    plain = extract({}, image, 8)["filters"]
    mirrored = extract({}, image[:, ::-1, ::-1], 8)["filters"][:, ::-1, ::-1]
    for name in ("mean, sigma 1", "light, sigma 1", "bar 0, sigma 1"):
        i = names.index(name)
        np.testing.assert_allclose(plain[..., i], mirrored[..., i], atol=1e-5)


def test_a_flat_image_has_a_mean_alone(extract):
    found = np.asarray(extract({}, np.full((1, 48, 48, 3), 0.7, np.float32), 8)["filters"])
    for i, name in enumerate(filters.names(3)):
        level = 0.7 if name.startswith("mean, ") else 0
        # SciPy's second derivative, which ends at four sigma, does not quite sum to 0
        np.testing.assert_allclose(found[..., i], level, atol=2e-3, err_msg=name)


def test_gray_as_colour_has_the_same_features_and_no_opponents(rng, extract):
    gray = rng.random((1, 40, 32, 1), np.float32)
    colour = np.asarray(extract({}, np.repeat(gray, 3, axis=-1), 8)["filters"])
    np.testing.assert_allclose(colour[..., :56], extract({}, gray, 8)["filters"], atol=1e-5)
    np.testing.assert_allclose(colour[..., 56:], 0, atol=1e-6)


def test_an_image_has_the_same_features_in_any_batch(rng, extract):
    images = rng.random((3, 40, 48, 1), np.float32)
    whole = extract({}, images, 4)["filters"]
    np.testing.assert_allclose(whole[1:2], extract({}, images[1:2], 4)["filters"], atol=1e-6)


def test_names_are_as_many_as_features():
    for channels, number in ((1, 56), (3, 72)):
        names = filters.names(channels)
        assert len(set(names)) == len(names) == number


@pytest.mark.parametrize(
    ("shape", "stride", "message"),
    [
        ((8, 8, 1), 8, "images must be [B, H, W, 1 or 3], got (8, 8, 1)"),
        ((1, 8, 8, 2), 8, "images must be [B, H, W, 1 or 3], got (1, 8, 8, 2)"),
        ((1, 8, 8, 1), 2, "stride=2: must be one of (4, 8)"),
    ],
)
def test_bad_arguments(shape, stride, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        filters.extract({}, np.zeros(shape, np.float32), stride)
