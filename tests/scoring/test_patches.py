"""Patches out and back again, against loops over pixels."""

import functools
import re

import jax
import numpy as np
import pytest

from cae_jax.scoring import patches
from cae_jax.types import UsageError

# height, width, patch size, stride
CASES = [
    (13, 17, 5, 3),
    (16, 16, 8, 8),
    (9, 11, 9, 4),
    (8, 5, 5, 1),
    (11, 10, 4, 4),
    (6, 5, 1, 1),
    (31, 22, 16, 7),
]

extract = jax.jit(patches.extract, static_argnums=(1, 2))
merge = jax.jit(patches.merge, static_argnums=(1, 2, 3))


def window_starts(size: int, stride: int) -> list[int]:
    return [start for start in range(size) if start % stride == 0]


def loop_extract(images: np.ndarray, patch_size: int, stride: int) -> np.ndarray:
    batch, height, width, channels = images.shape
    rows, columns = window_starts(height, stride), window_starts(width, stride)
    out = np.empty((batch, len(rows), len(columns), patch_size, patch_size, channels), np.float32)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            for y in range(patch_size):
                for x in range(patch_size):
                    at = min(row + y, height - 1), min(column + x, width - 1)
                    out[:, i, j, y, x] = images[:, at[0], at[1]]
    return out


def loop_merge(cut: np.ndarray, height: int, width: int, stride: int) -> np.ndarray:
    size = cut.shape[3]
    sums = np.zeros((cut.shape[0], height, width, cut.shape[-1]))
    hits = loop_counts(height, width, size, stride)
    for i, row in enumerate(window_starts(height, stride)):
        for j, column in enumerate(window_starts(width, stride)):
            y, x = min(size, height - row), min(size, width - column)
            sums[:, row : row + y, column : column + x] += cut[:, i, j, :y, :x]
    return sums / hits[:, :, None]


@functools.cache
def loop_counts(height: int, width: int, patch_size: int, stride: int) -> np.ndarray:
    hits = np.zeros((height, width))
    for row in window_starts(height, stride):
        for column in window_starts(width, stride):
            hits[row : row + patch_size, column : column + patch_size] += 1
    return hits


@pytest.mark.parametrize(("height", "width", "patch_size", "stride"), CASES)
def test_extract(rng, height, width, patch_size, stride):
    images = rng.random((2, height, width, 3), np.float32)
    found = extract(images, patch_size, stride)
    np.testing.assert_array_equal(found, loop_extract(images, patch_size, stride))


@pytest.mark.parametrize(("height", "width", "patch_size", "stride"), CASES)
def test_merge(rng, height, width, patch_size, stride):
    grid = len(window_starts(height, stride)), len(window_starts(width, stride))
    cut = rng.random((2, *grid, patch_size, patch_size, 3), np.float32)
    found = merge(cut, height, width, stride)
    expected = loop_merge(cut, height, width, stride)
    assert found.shape == (2, height, width, 3)
    np.testing.assert_allclose(found, expected, rtol=2e-6)


@pytest.mark.parametrize(("height", "width", "patch_size", "stride"), CASES)
def test_merge_undoes_extract(rng, height, width, patch_size, stride):
    images = rng.random((2, height, width, 3), np.float32)
    again = merge(extract(images, patch_size, stride), height, width, stride)
    np.testing.assert_allclose(again, images, rtol=1e-6)


@pytest.mark.parametrize(("height", "width", "patch_size", "stride"), [*CASES, (256, 256, 128, 30)])
def test_counts(height, width, patch_size, stride):
    found = patches.counts(height, width, patch_size, stride)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, loop_counts(height, width, patch_size, stride))


def test_the_windows_of_the_thesis():
    """Specification 2.0: starts 0, 30 ... 240, 81 windows, coverage 1..5 along an axis."""
    assert patches.starts(256, 30) == (0, 30, 60, 90, 120, 150, 180, 210, 240)
    along = patches.counts(256, 256, 128, 30)[0]  # the first row is covered once from above
    assert set(along) == {1, 2, 3, 4, 5}
    assert np.flatnonzero(along == 1).tolist() == list(range(30))
    assert jax.eval_shape(
        lambda images: patches.extract(images, 128, 30), np.ones((2, 256, 256, 1), np.float32)
    ).shape == (2, 9, 9, 128, 128, 1)


@pytest.mark.parametrize(
    ("image_size", "patch_size", "stride", "message"),
    [
        (64, 65, 8, "--patch_size=65 is outside 1..64 (--image_size=64)"),
        (64, 0, 8, "--patch_size=0 is outside 1..64"),
        (64, 32, 33, "--stride=33 is outside 1..32 (--patch_size=32)"),
        (64, 32, 0, "--stride=0 is outside 1..32"),
    ],
)
def test_sizes_that_cannot_work(image_size, patch_size, stride, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        patches.check_sizes(image_size, patch_size, stride)


@pytest.mark.parametrize("sides", [(1, 1, 1), (64, 64, 64), (64, 64, 1), (64, 1, 1)])
def test_sizes_that_just_work(sides):
    assert patches.check_sizes(*sides) is None


def test_extract_checks_the_shorter_side(rng):
    with pytest.raises(UsageError, match=r"outside 1\.\.12"):
        patches.extract(rng.random((1, 40, 12, 1), np.float32), 16, 4)


def test_merge_checks_the_grid(rng):
    cut = rng.random((1, 3, 4, 5, 5, 1), np.float32)
    with pytest.raises(ValueError, match="9x9 images at stride 3 have 3x3 patches, got 3x4"):
        patches.merge(cut, 9, 9, 3)
