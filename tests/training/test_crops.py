"""Crops turned, shifted and mirrored: against SciPy and NumPy, and the ranges they are drawn in."""

import math
import re

import jax
import numpy as np
import pytest
from scipy import ndimage

from cae_jax.training import crops
from cae_jax.training.schedule import KINDS
from cae_jax.types import Levels, UsageError

SHAPE = (3, 30, 41, 2)  # of images; crops of 8 and 9 pixels
SHAKEN = ("texture", "object", "object_mirror")
# fmt: off
MVTEC_AD = [
    "bottle", "cable", "capsule", "carpet", "grid", "hazelnut", "leather", "metal_nut", "pill",
    "screw", "tile", "toothbrush", "transistor", "wood", "zipper",
]
# fmt: on


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(5).random(SHAPE, np.float32)


cut = jax.jit(crops.cut, static_argnums=2)


def corners(crops: np.ndarray, patch_size: int) -> np.ndarray:
    """Where the four corner pixels of crops lie, [n, 4, 2] of (row, column)."""
    half = (patch_size - 1) / 2
    found = []
    for _, row, column, angle, flip in crops.astype(np.float64):
        center = complex(row + half, column + half)
        turn = complex(math.cos(angle), -math.sin(angle))
        ends = [complex(a, flip * b) for a in (-half, half) for b in (-half, half)]
        found.append([((center + turn * end).real, (center + turn * end).imag) for end in ends])
    return np.array(found)


def test_a_plain_crop_is_slicing(images):
    where = np.array([[0, 0, 0], [2, 22, 33], [1, 2, 7], [2, 22, 33]], np.int32)
    expected = [images[i, row : row + 8, column : column + 8] for i, row, column in where]
    np.testing.assert_array_equal(cut(images, where, 8), expected)


def test_plain_draws_are_numpys():
    """Runs made before there was another kind are made again by it."""
    found = crops.draw(SHAPE, 9, 50, (7, 0), "none")
    expected = np.random.default_rng((7, 0)).integers(0, (3, 22, 33), (50, 3), np.int32)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, expected)


def test_without_angle_and_flip_it_is_the_plain_crop(images):
    where = crops.draw(SHAPE, 9, 6, (1,), "none")
    still = np.concatenate([where, np.zeros((6, 1)), np.ones((6, 1))], axis=1).astype(np.float32)
    np.testing.assert_array_equal(cut(images, still, 9), cut(images, where, 9))


@pytest.mark.parametrize("size", [8, 9])
def test_quarter_turns_and_mirrors(images, size):
    quarters = [(k, flip) for k in range(4) for flip in (1, -1)]
    crops = [(1, 5, 20, k * math.pi / 2, flip) for k, flip in quarters]
    plain = images[1, 5 : 5 + size, 20 : 20 + size]
    expected = [np.rot90(plain, k)[:, ::flip] for k, flip in quarters]
    np.testing.assert_allclose(cut(images, np.array(crops, "f"), size), expected, atol=2e-6)


@pytest.mark.parametrize(("kind", "side"), [("texture", 9), ("texture", 30), ("object_mirror", 30)])
def test_sampling_is_scipys(images, kind, side):
    """Also beyond the border, where crops as large as the image reach."""
    drawn = crops.draw(SHAPE, side, 7, (3, 4), kind)
    found = cut(images, drawn, side)
    half = (side - 1) / 2
    for crop, patch in zip(drawn, found, strict=True):
        i, row, column, angle, flip = crop.astype(np.float64)
        cos, sin = math.cos(angle), math.sin(angle)
        matrix = np.array([[cos, flip * sin], [-sin, flip * cos]])
        offset = np.array([row, column]) + half - matrix @ [half, half]
        for channel in range(2):
            expected = ndimage.affine_transform(
                *(images[int(i), :, :, channel], matrix, offset, (side, side)),
                order=1,
                mode="reflect",
            )
            np.testing.assert_allclose(patch[:, :, channel], expected, rtol=0, atol=1e-5)
    assert (corners(drawn, side).min() < 0) == (side == 30)


def test_a_textures_turned_crop_stays_in_the_image():
    drawn = crops.draw(SHAPE, 9, 4000, (2,), "texture")
    assert drawn.dtype == np.float32
    assert set(drawn[:, 4]) == {1}
    ends = corners(drawn, 9)
    for axis, last in enumerate((29, 40)):
        assert -1e-4 < ends[:, :, axis].min() < 0.2
        assert last - 0.2 < ends[:, :, axis].max() < last + 1e-4
    quarters = np.bincount((drawn[:, 3] // (math.pi / 2)).astype(int))
    assert len(quarters) == 4
    assert np.abs(quarters - 1000).max() < 5 * math.sqrt(1000)
    assert np.abs(np.bincount(drawn[:, 0].astype(int)) - 4000 / 3).max() < 5 * math.sqrt(4000 / 3)


def test_a_texture_too_narrow_to_turn_in_is_turned_about_its_middle():
    """Along the axis on which it does not fit."""
    drawn = crops.draw(SHAPE, 28, 500, (2,), "texture")
    ends = corners(drawn, 28)
    fits = np.ptp(ends[:, :, 0], axis=1) <= 29
    assert 0 < fits.sum() < 500
    np.testing.assert_allclose(ends[~fits][:, :, 0].mean(axis=1), 14.5, atol=1e-4)
    assert np.ptp(ends[~fits][:, :, 1].mean(axis=1)) > 1


@pytest.mark.parametrize("kind", ["object", "object_mirror"])
@pytest.mark.parametrize("side", [30, 9])
def test_the_ranges_of_objects(kind, side):
    """A twentieth of 30 and of 41 pixels beyond the plain corners, 10 degrees to either side."""
    _, *where, angle, flip = crops.draw(SHAPE, side, 3000, (2,), kind).T
    for found, low, high in (
        (where[0], -1.5, 30 - side + 1.5),
        (where[1], -2.05, 41 - side + 2.05),
        (np.degrees(angle), -10, 10),
    ):
        near = (high - low) / 100
        assert low - 1e-5 <= found.min() < low + near
        assert high - near < found.max() <= high + 1e-5
        assert abs(found.mean() - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * 3000)
    if kind == "object":
        assert set(flip) == {1}
    else:
        assert set(flip) == {1, -1}
        assert abs(flip.mean()) < 5 / math.sqrt(3000)


@pytest.mark.parametrize("kind", SHAKEN)
def test_crops_come_from_their_key(kind):
    one, again, other = (crops.draw(SHAPE, 9, 50, key, kind) for key in [(1, 0), (1, 0), (1, 1)])
    np.testing.assert_array_equal(one, again)
    assert (one[:, 1:4] != other[:, 1:4]).all(axis=1).sum() > 45


def test_every_category_of_mvtec_ad_has_a_kind_and_a_reason():
    assert sorted(crops.CATEGORIES) == MVTEC_AD
    kinds = {name: crops.kind_for("auto", name) for name in MVTEC_AD}
    textures = {name for name, kind in kinds.items() if kind == "texture"}
    assert textures == {"carpet", "grid", "leather", "tile", "wood"}
    mirrored = {name for name, kind in kinds.items() if kind == "object_mirror"}
    assert mirrored == {"bottle", "hazelnut", "toothbrush", "zipper"}
    assert all(len(choice.reason) > 10 for choice in crops.CATEGORIES.values())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_asked_for_holds_for_any_category(kind):
    assert crops.kind_for(kind, "no such category") == kind


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("auto", "not 'bolt': pass one of none, texture, object, object_mirror"),
        ("textur", "unknown --augment 'textur': did you mean texture?"),
    ],
)
def test_what_no_kind_can_be_found_for(asked, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        crops.kind_for(asked, "bolt")


def test_an_unknown_kind_is_a_programmers_mistake():
    with pytest.raises(ValueError, match=r"kind must be one of none, .*, got 'auto'"):
        crops.draw(SHAPE, 9, 5, (1,), "auto")


@pytest.mark.parametrize(("dtype", "white"), [("u1", 255), ("u2", 65535), ("u2", 4095)])
def test_whole_numbers_on_the_device_are_the_quotients_of_the_host(dtype, white):
    """A compiled program may multiply by a reciprocal, which rounds otherwise."""
    top = np.iinfo(dtype).max if white > 255 else white
    values = np.resize(np.arange(top + 1), SHAPE).astype(dtype)
    placed = crops.levels(Levels(values, white))
    where = crops.draw(SHAPE, 9, 40, (3,), "none")
    expected = cut(values.astype(np.float32) / np.float32(white), where, 9)
    assert expected.dtype == np.float32
    np.testing.assert_array_equal(cut(jax.device_put(placed), where, 9), expected)
