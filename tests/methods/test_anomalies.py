"""Anomalies made of good images: Perlin noise by a plain loop, what is changed and what is not."""

import math

import jax
import numpy as np
import pytest
from scipy import ndimage

from cae_jax.methods import anomalies
from cae_jax.methods.options.draem import TEXTURES

KEY = jax.random.key(5)
perlin = jax.jit(anomalies.perlin, static_argnums=(3, 4))


def by_loop(angles, scale, turn, height, width):
    """Perlin noise, pixel by pixel, in double precision."""
    found = np.zeros((height, width))
    for i in range(height):
        for j in range(width):
            down, right = (i + 0.5) / height - 0.5, (j + 0.5) / width - 0.5
            y = (math.cos(turn) * down + math.sin(turn) * right + 0.5) * scale[0]
            x = (math.cos(turn) * right - math.sin(turn) * down + 0.5) * scale[1]
            row, column = math.floor(y), math.floor(x)
            for m in (0, 1):
                for n in (0, 1):
                    a = float(angles[7 + row + m, 7 + column + n])
                    dy, dx = y - row - m, x - column - n
                    ramp = math.cos(a) * dy + math.sin(a) * dx
                    weight = 1.0
                    for d in (abs(dy), abs(dx)):
                        weight *= 1 - (6 * d**5 - 15 * d**4 + 10 * d**3)
                    found[i, j] += weight * ramp
    return math.sqrt(2) * found


@pytest.mark.parametrize(
    ("scale", "turn"), [((1, 1), 0.0), ((4, 2), 0.0), ((32, 8), 0.7), ((32, 32), -math.pi / 4)]
)
def test_perlin_by_a_loop(rng, scale, turn):
    angles = (2 * math.pi * rng.random((48, 48))).astype("f")
    found = perlin(angles, np.array(scale, "f"), turn, 11, 17)
    assert found.shape == (11, 17)
    np.testing.assert_allclose(found, by_loop(angles, scale, turn, 11, 17), atol=2e-4)


def test_noise_has_all_scales_and_both_signs():
    found = np.asarray(jax.jit(anomalies.noise, static_argnums=(1, 2, 3))(KEY, 80, 64, 64))
    assert np.abs(found).max() <= 1
    assert abs(found.mean()) < 0.05
    steps = np.abs(np.diff(found, axis=1)).mean(axis=(1, 2))  # a pixel is 1/64 to 1/2 of a cell
    assert steps.max() > 10 * steps.min()


@pytest.fixture(scope="module")
def made():
    images = np.random.default_rng(1).random((60, 16, 12, 3), np.float32)
    blend = jax.jit(anomalies.blend)
    return images, {name: blend(KEY, images, share) for name, share in TEXTURES.items()}


@pytest.mark.parametrize("texture", TEXTURES)
def test_the_mask_is_where_the_image_was_changed(made, texture):
    images, found = made
    changed, mask = (np.asarray(each) for each in found[texture])
    assert mask.dtype == bool
    np.testing.assert_array_equal((changed != images).any(axis=-1), mask)
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert 0.2 < mask.any(axis=(1, 2)).mean() < 0.6  # half of them, but for empty masks
    assert 0.005 < mask.mean() < 0.2


def test_the_image_shows_through_by_up_to_beta(made):
    """Of a texture without color, channels differ as the image's do, times beta."""
    images, found = made
    changed, mask = (np.asarray(each) for each in found["noise"])
    shares = []
    for image, after, where in zip(images, changed, mask, strict=True):
        if where.any():
            before, left = (x[where][:, 0] - x[where][:, 1] for x in (image, after))
            shares.append(np.median(left / before))
            np.testing.assert_allclose(left, shares[-1] * before, atol=1e-5)
            texture = (after - shares[-1] * image)[where] / (1 - shares[-1])
            assert texture.min() > -1e-4
            assert texture.max() < 0.75 + 1e-4
    assert min(shares) >= 0
    assert max(shares) <= 0.8
    assert np.std(shares) > 0.1


def test_noise_and_images_are_mixed(made):
    _, found = made
    each = {name: np.asarray(changed) for name, (changed, _) in found.items()}
    changed = np.asarray(found["both"][1]).any(axis=(1, 2))
    like = [
        [np.array_equal(one, other) for one, other in zip(each["both"], each[name], strict=True)]
        for name in ("images", "noise")
    ]
    share = np.array(like)[:, changed].mean(axis=1)
    assert share.sum() == 1
    assert 0.2 < share[0] < 0.8


def test_an_image_is_turned_and_shifted(rng):
    image = rng.random((9, 9, 2), np.float32)
    turned = jax.jit(anomalies._turned, static_argnums=3)
    quarter = turned(image, math.pi / 2, np.zeros(2, "f"), "reflect")
    np.testing.assert_allclose(quarter, np.rot90(image), atol=1e-5)
    rolled = turned(image, 0.0, np.array([2.0, 3.0], "f"), "wrap")
    np.testing.assert_allclose(rolled, np.roll(image, (-2, -3), (0, 1)), atol=1e-6)
    found = np.asarray(turned(image, 0.4, np.zeros(2, "f"), "reflect"))
    around = ndimage.rotate(image, math.degrees(0.4), (1, 0), False, order=1, mode="mirror")
    np.testing.assert_allclose(found[2:-2, 2:-2], around[2:-2, 2:-2], atol=1e-4)


def test_a_share_is_turned(rng):
    images = rng.random((40, 6, 6, 1), np.float32)
    turned = jax.jit(anomalies.turned)
    np.testing.assert_array_equal(turned(KEY, images, 0.0), images)
    some = np.asarray(turned(KEY, images, 0.3) != images).any(axis=(1, 2, 3))
    assert 0.1 < some.mean() < 0.5
    assert np.asarray(turned(KEY, images, 1.0) != images).any(axis=(1, 2, 3)).all()


def test_what_is_moved_stays_nowhere(rng):
    images = rng.random((8, 16, 16, 1), np.float32)
    found = np.asarray(jax.jit(anomalies.moved)(KEY, images))
    assert (np.abs(found - images) < 1e-3).mean() < 0.02
    assert found.min() >= 0
    assert found.max() <= 1


def test_colors_change_strongly_within_their_range(rng):
    images = rng.uniform(0.2, 0.8, (64, 5, 5, 3)).astype("f")
    recolored = jax.jit(anomalies.recolored)
    found = np.asarray(recolored(KEY, images))
    assert found.min() >= 0
    assert found.max() <= 1
    moved = np.abs(found - images).mean(axis=(1, 2, 3))
    assert np.median(moved) > 0.1
    assert (moved > 1e-3).mean() > 0.9
    others = images.copy()
    others[1:] = 0.5
    np.testing.assert_array_equal(recolored(KEY, others)[0], found[0])
