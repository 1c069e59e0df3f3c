"""Images kept as the whole numbers of their files: the same numbers, to the bit, in less memory."""

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from cae_jax import files
from cae_jax.data import arrays, duplicates, images
from cae_jax.data.frame import Area, Frame
from cae_jax.types import Counted, Levels

SIDE = 16


def png(values, mode=None):
    buffer = io.BytesIO()
    Image.fromarray(values, mode).save(buffer, "PNG")
    return buffer.getvalue()


def drawn(rng, n, top, dtype, *more):
    found = rng.integers(0, top, (n, SIDE, SIDE, *more), endpoint=True).astype(dtype)
    found.reshape(n, -1)[:, 0] = top
    return found


def every(top):
    """All values that there are, divided by NumPy before anything else."""
    return np.arange(top + 1).astype(np.float32) / np.float32(top)


@pytest.mark.parametrize(
    ("dtype", "bits", "channels"), [("u1", 8, 1), ("u1", 8, 3), ("u2", 16, 1), ("u2", 12, 1)]
)
@pytest.mark.parametrize("held", files.HELD)
def test_what_is_not_resized_is_kept_as_it_is(rng, dtype, bits, channels, held):
    values = drawn(rng, 5, 2**bits - 1, dtype, *(() if channels == 1 else (3,)))
    frame = Frame(SIDE, channels, bit_depth=0 if bits in (8, 16) else bits)
    found = images.decode_all([png(each) for each in values], frame, "error", held=held).pixels
    assert isinstance(found, Levels)
    assert found.values.nbytes == values.nbytes
    assert files.where(found) == ("disk" if held == "disk" else "memory")
    expected = every(2**bits - 1)[values].reshape(5, SIDE, SIDE, channels)
    for got, wanted in (
        (np.asarray(found), expected),
        (np.stack([*found]), expected),
        (found[3], expected[3]),
        (found[1:3], expected[1:3]),
        (found[np.array([4, 0])], expected[[4, 0]]),
        (found[expected[:, 0, 0, 0] > 2], expected[:0]),
        (files.rows(found, np.array([2, 1]))[:], expected[[2, 1]]),
        (files.joined([found, found[:0], found]), np.concatenate([expected, expected])),
        (files.joined([found, found])[:], np.concatenate([expected, expected])),
        (files.real(found), expected),
    ):
        assert got.dtype == np.float32
        np.testing.assert_array_equal(got, wanted)
    assert isinstance(files.joined([found, found]), Levels)
    assert (len(found), found.shape) == (5, expected.shape)
    np.testing.assert_array_equal(1 - found / 2, 1 - expected / 2)
    assert found.max(axis=None) == 1
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(found)), expected)


def test_a_part_of_a_file_is_kept_too(rng):
    (values,) = drawn(rng, 1, 255, "u1")
    frame = Frame((4, 6), roi=(3, 5, 6, 4))
    found = images.decode_all([png(values)], frame, "error").pixels
    assert isinstance(found, Levels)
    np.testing.assert_array_equal(found[0][..., 0], every(255)[values[5:9, 3:9]])


def test_what_cannot_be_whole_numbers_is_not(rng):
    """Of another size, partly masked, laid on a background, of another white than those before."""
    plain, wide = drawn(rng, 4, 255, "u1"), drawn(rng, 1, 65535, "u2")
    sources = [png(each) for each in plain]
    mask = np.ones((SIDE, SIDE), bool)
    mask[3:9] = False
    clear = png(np.stack([plain[0]] * 3 + [plain[1]], axis=-1))
    for frame, given in (
        (Frame(SIDE - 1), sources),
        (Frame(SIDE, areas=(Area("ignore", mask),)), sources),
        (Frame(SIDE, background=(9, 9, 9)), [clear, *sources]),
        (Frame(SIDE, background=(9, 9, 9)), [*sources, clear]),
        (Frame(SIDE), [*sources, png(wide[0])]),
        (Frame(SIDE), [png(wide[0]), *sources]),
    ):
        found = images.decode_all(given, frame, "error", held="disk").pixels
        assert isinstance(found, np.ndarray)
        assert files.where(found) == "disk"
        np.testing.assert_array_equal(found, [images.decode(each, frame) for each in given])


def test_images_left_out_leave_no_gap(rng):
    values = drawn(rng, 3, 255, "u1")
    sources = [b"", png(values[0]), b"no image", png(values[2])]
    found = images.decode_all(sources, Frame(SIDE), "skip")
    np.testing.assert_array_equal(found.pixels, every(255)[values[[0, 2]]][..., None])
    none = images.decode_all([b""], Frame(SIDE), "skip").pixels
    assert none.shape == (0, SIDE, SIDE, 1)


def test_what_counts_comes_with_the_images_asked_for(rng):
    values = drawn(rng, 3, 255, "u1", 1)
    counts = [rng.random((SIDE, SIDE)) > 0.5 for _ in values]
    found = Counted(Levels(values, 255), counts)
    expected = np.concatenate([every(255)[values], np.stack(counts)[..., None]], axis=-1)
    for index in (1, slice(1, 3), np.array([2, 0]), slice(0, 0)):
        np.testing.assert_array_equal(found[index], expected[index])
    assert (len(found), found.shape) == (3, expected.shape)
    np.testing.assert_array_equal(np.stack([*found]), expected)


def test_arrays_of_whole_numbers_are_copied(rng):
    """What their owner does with them later changes nothing."""
    train, test = drawn(rng, 3, 1023, "i8"), drawn(rng, 2, 1023, ">u2")
    split = arrays.split(train, test, [0, 1], bit_depth=10)
    expected = every(1023)[train][..., None]
    train[:] = 0
    np.testing.assert_array_equal(split.train, expected)
    np.testing.assert_array_equal(split.test, every(1023)[test][..., None])
    assert split.train.values.dtype == split.test.values.dtype == np.uint16


def test_duplicates_are_those_of_the_numbers(rng):
    values = rng.integers(0, 256, (40, 80, 80, 1)).astype(np.uint8)
    values[7], values[31] = values[3], np.clip(values[20].astype(int) + 2, 0, 255)
    parts = [Levels(values[:30], 255), Levels(values[30:], 255)]
    found = duplicates.find(parts)
    assert [*zip(found.first, found.second, strict=True)] == [(3, 7), (20, 31)]
    same = duplicates.find([each[:] for each in parts])
    np.testing.assert_array_equal(found.similarity, same.similarity)
