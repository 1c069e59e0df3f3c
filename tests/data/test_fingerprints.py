"""What is other about images, named, and the files that they are in."""

import dataclasses
import os

import numpy as np
import pytest

from cae_jax.data import fingerprints
from cae_jax.types import Split


@pytest.fixture
def split(rng):
    images = rng.random((7, 4, 4, 1), np.float32)
    return Split(
        *("folder", "nut", images[:3], ("c", "a", "b"), images[3:4], ("d",)),
        test=images[4:],
        test_paths=("x", "y", "z"),
        kinds=("good", "good", "bent"),
        masks=np.zeros((3, 4, 4), bool),
        has_mask=np.ones(3, bool),
        test_sizes=((4, 4),) * 3,
    )


def test_a_difference_is_named_by_part_and_path(split):
    before = fingerprints.of_each(split)
    assert before["path"].tolist() == [*"xyz", *"abcd"]
    held_otherwise = dataclasses.replace(
        *(split,),
        train=np.concatenate([split.train[:2], split.validation]),
        train_paths=("c", "a", "d"),
        validation=split.train[2:],
        validation_paths=("b",),
    )
    assert fingerprints.changes(before, fingerprints.of_each(held_otherwise)) == ""
    more = dataclasses.replace(split, train_paths=("c", "a", "e"))
    said = fingerprints.changes(before, fingerprints.of_each(more))
    assert said == "1 training image more (e), 1 training image less (b)"
    masks = split.masks.copy()
    masks[2, 0, 0] = True
    test = split.test.copy()
    test[0] *= 0.5
    other = fingerprints.of_each(dataclasses.replace(split, test=test, masks=masks))
    said = fingerprints.changes(before, other)
    assert said == "2 test images with other pixels or another mask (x, z)"
    kinds = fingerprints.of_each(dataclasses.replace(split, kinds=("good", "bent", "bent")))
    assert "1 test image with" in fingerprints.changes(before, kinds)


def test_many_are_named_by_the_first(split):
    none = dataclasses.replace(split, test=split.test[:0], test_paths=(), kinds=())
    none = dataclasses.replace(none, masks=split.masks[:0], has_mask=split.has_mask[:0])
    five = np.concatenate([split.test, split.test[:2]])
    paths, bad = tuple("vwxyz"), ("good",) * 5
    many = dataclasses.replace(split, test=five, test_paths=paths, kinds=bad)
    many = dataclasses.replace(many, masks=np.zeros((5, 4, 4), bool), has_mask=np.ones(5, bool))
    said = fingerprints.changes(*map(fingerprints.of_each, (none, many)))
    assert said == "5 test images more (v, w, x, ...)"


def test_files_are_known_by_name_size_and_time_wherever_they_lie(tmp_path):
    before = tmp_path / "before"
    (before / "nut" / "good").mkdir(parents=True)
    for name in ("nut/good/1.png", "nut/good/2.png", "list.csv"):
        (before / name).write_bytes(b"1")
        os.utime(before / name, ns=(10**18, 10**18))
    (before / "nut" / "round").symlink_to(before / "nut")  # in a circle
    whole = fingerprints.of_files(before)
    after = tmp_path / "after"
    before.rename(after)
    (after / "nut" / "round").unlink()
    (after / "nut" / "round").symlink_to(after / "nut")
    assert fingerprints.of_files(after) == whole
    (after / "runs").mkdir()
    (after / "runs" / "3.png").touch()
    assert fingerprints.of_files(after, [after / "runs"]) == whole
    assert fingerprints.of_files(after) != whole
    os.utime(after / "list.csv", ns=(10**18, 10**18 + 1))
    assert fingerprints.of_files(after, [after / "runs"]) != whole
