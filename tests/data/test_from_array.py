"""Arrays judged like files: `images.from_array` against `images.decode` of the same pixels."""

import io

import jax.numpy as jnp
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
        (np.ones((9, 4, 5)), r"got \[9, 4, 5\]$"),
        (np.ones((3, 20, 40)), r"\[3, 20, 40\]; channels come last: .*transpose\(1, 2, 0\)"),
        (np.ones((1, 20, 40, 3)), r"one image is expected: pass its first"),
        (np.ones(5), r"got \[5\]"),
        (np.ones((4, 4), np.int64), "^an image array has integer pixels .int64. whose white is"),
        (np.ones((4, 4), np.uint32), "uint32"),
        (np.ones((4, 4), complex), "must be bool, uint8, uint16 or float, got complex128"),
        (np.full((4, 4), 255.0), "an image array has .* from 255 to 255; .*; divide by 255"),
        (np.full((4, 4), np.nan), "nan"),
        (np.ones((0, 4)), r"\[0, 4\]"),
        (np.ma.masked_less(np.eye(4), 1), "has 12 masked pixels"),
    ],
)
def test_what_is_no_image(array, words):
    with pytest.raises(DataError, match=words):
        images.from_array(array, Frame(8, 1))


def file_of(array):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("background", [None, (255, 0, 0), (255, 255, 255)])
@pytest.mark.parametrize("channels", [1, 3])
def test_alpha_equals_the_file(channels, background):
    rgba = np.random.default_rng(8).integers(0, 256, (9, 7, 4), dtype=np.uint8)
    frame = Frame((5, 6), channels, background=background)
    expected = images.decode(file_of(rgba), frame)
    np.testing.assert_array_equal(images.from_array(rgba, frame), expected)
    np.testing.assert_array_equal(images.from_any(Image.fromarray(rgba), frame), expected)
    bgra = rgba[..., [2, 1, 0, 3]]
    np.testing.assert_array_equal(images.from_any(bgra, frame, bgr=True), expected)
    gray = rgba[..., 2:]
    expected = images.decode(file_of(gray), frame)
    np.testing.assert_array_equal(images.from_array(gray, frame), expected)


def test_what_programs_hand_over():
    frame = Frame(None, 1)
    gray = np.random.default_rng(9).integers(0, 256, (9, 7), dtype=np.uint8)
    expected = gray[..., None] / np.float32(255)
    wide = gray.astype(np.uint16) * 257
    for same in (
        *(jnp.asarray(gray), gray[..., None], np.ma.array(gray), memoryview(file_of(gray))),
        *(io.BytesIO(file_of(gray)), Image.fromarray(gray), wide, wide.astype(">u2")),
        *((gray / 255).astype(kind) for kind in ("f8", ">f4")),
    ):
        np.testing.assert_allclose(images.from_any(same, frame), expected, atol=1e-7)
    half = images.from_any((gray / 255).astype(np.float16), frame)
    np.testing.assert_allclose(half, expected, atol=3e-4)
    np.testing.assert_array_equal(images.from_any(gray > 99, frame)[..., 0], gray > 99)
    with pytest.raises(
        DataError, match=r"a list is no image, .* numpy.array\(\.\.\., numpy.uint8\)"
    ):
        images.from_any(gray.tolist(), frame)


class Refuses:
    """As a tensor of PyTorch on a GPU, or whose gradient is asked for."""

    def __array__(self, *_, **__):
        raise RuntimeError("use detach() first")


def test_what_gives_no_array_is_said():
    with pytest.raises(DataError, match=r"^Refuses gives no array: use detach\(\) first$"):
        images.from_any(Refuses(), Frame(8))
    with pytest.raises(DataError, match="opened as text: open it with mode 'rb'"):
        images.from_any(io.StringIO("P5"), Frame(8))


def test_half_precision_of_jax():
    half = jnp.linspace(0, 1, 64, dtype=jnp.bfloat16).reshape(8, 8)
    wanted = np.asarray(half.astype(jnp.float32))
    np.testing.assert_array_equal(images.from_any(half, Frame(8))[..., 0], wanted)


@pytest.mark.parametrize("kind", ["u2", ">u2", "i2", "i4", "i8", "u4"])
def test_bits_that_the_frame_names(kind):
    levels = np.random.default_rng(10).integers(0, 1024, (9, 7)).astype(kind)
    frame = Frame(None, 1, bit_depth=10)
    np.testing.assert_allclose(images.from_array(levels, frame)[..., 0], levels / 1023, atol=1e-7)
    eight = levels.astype(np.uint8)  # 8 bits are 8
    np.testing.assert_allclose(images.from_array(eight, frame)[..., 0], eight / 255, atol=1e-7)
    levels[3, 4] = 1024
    with pytest.raises(DataError, match="an image array has a value of 1024, and --bit_depth=10"):
        images.from_array(levels, frame)
    deep = np.dstack([levels.clip(0, 1023)] * 3 + [levels * 0 + 1023])
    found = images.from_array(deep, Frame(None, 1, bit_depth=10, background=(0, 0, 0)))
    np.testing.assert_allclose(found[..., 0], deep[..., 0] / 1023, atol=1e-6)
