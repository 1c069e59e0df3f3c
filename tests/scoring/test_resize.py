"""Resizing within a program, against Pillow's filter on float pixels."""

import jax
import numpy as np
import pytest
from PIL import Image

from cae_jax.scoring.resize import resize

F = np.float32


def of_pillow(image, side):
    bands = [Image.fromarray(np.ascontiguousarray(band)) for band in np.moveaxis(image, -1, 0)]
    size = (side, side)
    return np.stack([np.asarray(b.resize(size, Image.Resampling.BILINEAR)) for b in bands], -1)


@pytest.mark.parametrize(
    ("height", "width", "side"),
    [(40, 33, 101), (101, 77, 40), (13, 200, 40), (12, 12, 12), (1, 3, 5), (300, 499, 384)],
)
def test_it_is_pillows(height, width, side):
    images = np.random.default_rng(0).random((2, height, width, 3), F)
    found = jax.jit(resize, static_argnums=1)(images, side)
    wanted = np.stack([of_pillow(image, side) for image in images])
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


def test_an_image_of_that_size_stays_to_the_bit():
    image = np.random.default_rng(0).random((1, 30, 30, 1), F)
    np.testing.assert_array_equal(jax.jit(resize, static_argnums=1)(image, 30), image)


def test_it_is_exported_for_any_size():
    sides = jax.export.symbolic_shape("h, w")
    image = jax.ShapeDtypeStruct((1, *sides, 1), F)
    call = jax.export.export(jax.jit(lambda x: resize(x, 20)))(image)
    for size in ((31, 17), (20, 20), (5, 64)):
        image = np.random.default_rng(0).random((*size, 1), F)
        np.testing.assert_allclose(call.call(image[None])[0], of_pillow(image, 20), atol=1e-6)
