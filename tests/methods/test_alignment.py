"""Phase correlation against motions that SciPy made, and scikit-image's."""

import functools
import math

import jax
import numpy as np
import pytest
from scipy import ndimage
from skimage.registration import phase_cross_correlation

from cae_jax.methods import alignment
from cae_jax.methods.alignment import Motion

SHAPE = (48, 44)
RIGID = jax.jit(functools.partial(alignment.found, mode="rigid"))
SHIFT = jax.jit(functools.partial(alignment.found, mode="translation"))


def product(seed=0):
    """A few soft blots on even ground: nothing repeats, and nothing is at the border."""
    rng, image = np.random.default_rng(seed), np.zeros(SHAPE)
    for at in rng.uniform(12, 32, (14, 2)):
        image[tuple(at.astype(int))] = rng.uniform(0.5, 1)
    image[30:34, 14:30] = 0.4
    return (0.2 + 4 * ndimage.gaussian_filter(image, 1.2)).astype("f")


def moved(image, turn, shift):
    """What is at q in the image is at center + R (q - center) + shift in what comes back."""
    center = (np.array(image.shape) - 1) / 2
    r = np.array([[math.cos(turn), -math.sin(turn)], [math.sin(turn), math.cos(turn)]])
    start = center - r.T @ (center + shift)
    return ndimage.affine_transform(image, r.T, start, order=3, mode="nearest").astype("f")


@pytest.mark.parametrize("shift", [(0, 0), (3, -2), (2.4, 1.3), (-5.7, 6.2)])
def test_a_shift_is_found_to_a_tenth_of_a_pixel(shift):
    fixed = product()
    moving = moved(fixed, 0, np.array(shift, float))
    # neither brightness nor contrast matters
    turn, found = SHIFT(fixed[..., None], (0.5 * moving + 0.3)[..., None])
    assert turn == 0
    np.testing.assert_allclose(found, shift, atol=0.1)
    theirs = phase_cross_correlation(moving, fixed, upsample_factor=20, normalization=None)[0]
    np.testing.assert_allclose(found, theirs, atol=0.15)


@pytest.mark.parametrize("degrees", [0, 7.3, -48, 90, 133, 180, -171.5])
def test_a_turn_and_a_shift_are_found_together(degrees):
    fixed, shift = product(), np.array([2.6, -1.7])
    found = RIGID(fixed[..., None], moved(fixed, math.radians(degrees), shift)[..., None])
    off = math.degrees(found.angle) - degrees
    assert abs((off + 180) % 360 - 180) < 0.5
    np.testing.assert_allclose(found.shift, shift, atol=0.15)


def test_images_without_anything_in_common_stay(rng):
    """And even ones, whose spectra are nothing at all."""
    for image in (rng.random((*SHAPE, 1), np.float32), np.full((*SHAPE, 1), 0.5, np.float32)):
        found = RIGID(image, image)
        np.testing.assert_allclose(found.shift, 0, atol=1e-3)
        np.testing.assert_allclose(np.sin(found.angle), 0, atol=1e-3)


def test_images_are_moved_as_scipy_does_it_and_back(rng):
    image = rng.random((9, 12, 3), np.float32)
    motion = Motion(np.float32(0.4), np.float32([1.3, -2.1]))
    there, inside = alignment.moved_there(image, motion)
    back, told = alignment.moved_back(image, motion)
    center = (np.array([9, 12]) - 1) / 2
    r = np.array([[math.cos(0.4), -math.sin(0.4)], [math.sin(0.4), math.cos(0.4)]])
    for found, counts, matrix, offset in (
        (there, inside, r.T, center - r.T @ (center + motion.shift)),
        (back, told, r, center - r @ center + motion.shift),
    ):
        for c in range(3):
            expected = ndimage.affine_transform(
                image[..., c].astype(float), matrix, offset, order=1, mode="nearest"
            )
            np.testing.assert_allclose(found[..., c], expected, atol=1e-4)
        for at in np.ndindex(9, 12):
            y, x = matrix @ np.array(at) + offset
            assert counts[at] == (-0.5 < y < 8.5 and -0.5 < x < 11.5)
    assert 0.3 < np.mean(inside) < 0.95
