"""A split of arrays: the values, labels and masks given, and what is refused by name."""

import numpy as np
import pytest

from cae_jax.data import arrays
from cae_jax.types import GOOD, DataError, UsageError

RNG = np.random.default_rng(0)
TRAIN = RNG.random((4, 6, 8), np.float32)
TEST = RNG.random((3, 6, 8), np.float32)


def split(train=TRAIN, test=TEST, labels=(0, 1, 0), **more):
    return arrays.split(train, test, labels, **more)


def test_what_is_given_is_what_there_is():
    masks = np.zeros((3, 6, 8), np.uint8)
    masks[1, 2:4, 5] = 255
    found = split(masks=masks, validation=TRAIN[:0], category="nut")
    assert (found.dataset, found.category) == ("arrays", "nut")
    assert found.train.dtype == np.float32
    np.testing.assert_array_equal(found.train, TRAIN[..., None])
    np.testing.assert_array_equal(found.test, TEST[..., None])
    assert found.kinds == (GOOD, "defect", GOOD)
    assert found.labels.tolist() == [0, 1, 0]
    np.testing.assert_array_equal(found.masks, masks > 0)
    assert found.has_mask.tolist() == [True, True, True]
    assert found.test_sizes == ((6, 8),) * 3
    assert found.train_paths[-1] == "train/good/000003"
    assert found.test_paths == ("test/000000", "test/000001", "test/000002")
    assert found.validation.shape == (0, 6, 8, 1)


@pytest.mark.parametrize(
    ("given", "values"),
    [
        (np.array([0, 51, 255], np.uint8), [0, 0.2, 1]),
        (np.array([0, 13107, 65535], np.uint16), [0, 0.2, 1]),
        (np.array([0, 13107, 65535], ">u2"), [0, 0.2, 1]),
        (np.array([0, 0.2, 1], np.float64), [0, 0.2, 1]),
        (np.array([0, 0.25, 1], np.float16), [0, 0.25, 1]),
    ],
)
def test_values_by_their_type(given, values):
    images = np.tile(given[:, None], (2, 1, 4))
    found = split(train=images, test=images[:1], labels=[0]).train
    np.testing.assert_allclose(found[0, :, 0, 0], values, rtol=1e-6)
    assert found.dtype == np.float32


def test_colour_and_lists_of_images():
    rgb = [np.full((6, 8, 3), value, np.uint8) for value in (0, 255)]
    assert split(train=rgb, test=rgb, labels=[False, True]).train.shape == (2, 6, 8, 3)


def test_kinds_by_name_and_a_defect_without_a_mask():
    masks = np.zeros((3, 6, 8, 1), bool)
    masks[2, 0, 0] = True
    found = split(labels=["good", "scratch", "hole"], masks=masks)
    assert found.kinds == ("good", "scratch", "hole")
    assert found.has_mask.tolist() == [True, False, True]
    assert split(labels=np.array([1, 0, 1])).has_mask.tolist() == [False, True, False]


def test_images_held_out_that_are_learned_from_are_told():
    other = RNG.random((2, 6, 8), np.float32)
    assert split(validation=other).warnings == ()
    found = split(validation=np.concatenate([other, TRAIN[:1]]))
    assert found.validation_paths[-1] == "validation/good/000002"
    assert found.warnings[0].startswith("1 of 3 validation images repeat one to learn from")


MASK = np.zeros((3, 6, 8), bool)


class Refuses:
    """As a tensor of PyTorch on a GPU, or whose gradient is asked for."""

    def __array__(self, *_, **__):
        raise RuntimeError("use detach() first")


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"train": TRAIN[0]}, r"train: must be \[n, H, W\] .* got \[6, 8\]"),
        ({"train": TRAIN[:0]}, "train: holds no image"),
        ({"train": np.zeros((2, 6, 8, 4))}, r"got \[2, 6, 8, 4\]"),
        ({"train": np.zeros((2, 6, 0))}, r"got \[2, 6, 0\]"),
        ({"train": np.full((2, 6, 8), 200.0)}, "image 0 is from 200 to 200, .* divide by 255"),
        ({"test": np.where(MASK, 0, -0.5)}, "test: image 0 is from -0.5 to -0.5, not 0 to 1$"),
        ({"test": np.full((3, 6, 8), np.nan)}, "test: image 0 is from nan"),
        ({"test": np.zeros((3, 6, 8), np.int32)}, "test: must be uint8, uint16 or .* got int32"),
        ({"test": np.zeros((3, 6, 8), bool)}, "got bool"),
        ({"test": TEST[:, :5]}, r"test: images are \[5, 8, 1\], those of train \[6, 8, 1\]"),
        ({"validation": np.zeros((1, 6, 8, 3))}, r"validation: images are \[6, 8, 3\]"),
        ({"labels": [0, 1]}, r"labels: must be 3, .* got \[2\]"),
        ({"labels": [0, 2, 1]}, "labels: image 1 has 2, not 0, 1 or the name"),
        ({"labels": [0, np.nan, 1]}, "labels: image 1 has nan"),
        ({"labels": ["good", "", "good"]}, "labels: image 1 has ''"),
        ({"labels": ["good", "a/b", "good"]}, "labels: image 1 has 'a/b'"),
        ({"masks": MASK[:2]}, r"masks: must be numbers \[3, 6, 8\], got bool \(2, 6, 8\)"),
        ({"masks": ~MASK}, "masks: image 0 is good by its label"),
        ({"category": "a/b"}, "category 'a/b': must be a folder's name"),
        ({"category": "all"}, "category 'all'"),
        ({"category": 5}, "category 5: must be a folder's name"),
        ({"train": [TRAIN[0], TRAIN[1, :5]]}, "train: must be of one shape, resize them"),
        ({"labels": [[0], [0, 1], 1]}, "labels: must be of one shape"),
        ({"test": Refuses()}, r"^test: Refuses gives no array: use detach\(\) first$"),
    ],
)
def test_what_cannot_be_is_named(bad, said):
    with pytest.raises(DataError, match=said):
        split(**bad)


@pytest.mark.parametrize("kind", ["u2", ">u2", "i4", "i8"])
def test_bits_that_are_named(kind):
    levels = RNG.integers(0, 4096, (4, 6, 8))
    found = split(levels.astype(kind), levels[:3].astype(kind), bit_depth=12)
    np.testing.assert_allclose(found.train[..., 0], levels / 4095, atol=1e-7)
    assert (found.bit_depth, found.warnings) == ("12", ())
    for odd in (4096, -4096) if kind[0] == "i" else (4096,):
        levels[1, 2, 3] = odd
        with pytest.raises(
            DataError, match=rf"^train: has a value of {odd}, and bit_depth=12 is 0 to"
        ):
            split(levels.astype(kind), TEST, bit_depth="12")
    with pytest.raises(UsageError, match="bit_depth=17: must be 8 to 16, or auto"):
        split(bit_depth=17)


def test_few_bits_are_said():
    levels = np.full((4, 6, 8), 1000, np.uint16)
    (said,) = split(levels, levels[:3]).warnings
    assert said.startswith("arrays: 7 images of 16 bits have no value above 1000")
    assert "--bit_depth=10 makes 1023 white" in said
    assert split(levels * 64, levels[:3]).warnings == ()
