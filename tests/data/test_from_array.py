"""Arrays judged like files: `images.from_array` against `images.decode` of the same pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from cae_jax.data import images
from cae_jax.data.frame import Frame
from cae_jax.types import DataError


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(31, 45), (31, 45, 3)])
def test_8_bit_equals_the_file(shape, channels):
    array = np.random.default_rng(5).integers(0, 256, shape, dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(array).save(file, "png")
    expected = images.decode(file.getvalue(), Frame((20, 24), channels))
    np.testing.assert_allclose(
        images.from_array(array, Frame((20, 24), channels)), expected, atol=1e-6
    )


def test_16_bit_and_float_are_scaled_by_their_range():
    array = np.random.default_rng(6).integers(0, 65536, (9, 7), dtype=np.uint16)
    found = images.from_array(array, Frame(None, 1))
    np.testing.assert_array_equal(found[..., 0], array.astype(np.float32) / np.float32(65535))
    np.testing.assert_array_equal(
        images.from_array(found.astype(np.float64), Frame(None, 1)), found
    )


def test_luma_of_float_color():
    array = np.random.default_rng(7).random((5, 6, 3))
    luma = array @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(images.from_array(array, Frame(None, 1))[..., 0], luma, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.ones((3, 4, 2)), r"\(3, 4, 2\)"),
        (np.ones(5), r"\(5, 1\)|\(5,\)"),
        (np.ones((4, 4), np.int64), "int64"),
        (np.full((4, 4), 255.0), "255"),
        (np.full((4, 4), np.nan), "nan"),
        (np.ones((0, 4)), r"\(0, 4, 1\)"),
    ],
)
def test_what_is_no_image(array, words):
    with pytest.raises(DataError, match=words):
        images.from_array(array, Frame(8, 1))
