"""Several categories as one."""

import numpy as np
import pytest

from cae_jax import data
from cae_jax.data import joint, synthetic
from cae_jax.types import Duplicate, LeftOut, UsageError


def test_images_masks_paths_and_kinds_are_those_of_each():
    parts = [data.hold_out(synthetic.read(name, 32, 1, 0), 0.1, 0) for name in ("grain", "tablet")]
    parts[1].__dict__["left_out"] = (LeftOut("test/x.txt", "no image"),)
    parts[0].__dict__["duplicates"] = (Duplicate("test/good/1.png", "train/good/2.png", "near", 1),)
    parts[0].__dict__["warnings"] = ("grain: few",)
    found, n = joint.join(parts), len(parts[0].test)
    assert found.category == "grain+tablet"
    for field in ("train", "validation", "test", "masks", "has_mask"):
        each = [getattr(part, field) for part in parts]
        np.testing.assert_array_equal(getattr(found, field), np.concatenate(each))
    np.testing.assert_array_equal(found.labels, [*parts[0].labels, *parts[1].labels])
    for field in ("train_paths", "validation_paths", "test_paths"):
        paths = getattr(found, field)
        assert list(paths) == sorted(f"{p.category}/{x}" for p in parts for x in getattr(p, field))
    for i, (kind, path) in enumerate(zip(found.kinds, found.test_paths, strict=True)):
        own = (parts[0].kinds + parts[1].kinds)[i]
        category = "grain" if i < n else "tablet"
        assert kind == ("good" if own == "good" else f"{category}/{own}")
        assert path.startswith(f"{category}/test/{own}/")
    assert len(found.test_sizes) == len(found.test)
    assert found.left_out == (LeftOut("tablet/test/x.txt", "no image"),)
    twice = found.duplicates[0]
    assert (twice.path, twice.like) == ("grain/test/good/1.png", "grain/train/good/2.png")
    assert found.warnings == ("grain: few",)
    assert data.fingerprint(found) != data.fingerprint(joint.join(parts[::-1]))


def test_a_name_is_the_same_in_any_order_and_gives_the_categories():
    assert joint.name(["b", "a", "a-c"]) == joint.name(["a", "a-c", "b"]) == "a-c+a+b"
    assert joint.names("a-c+a+b") == ("a-c", "a", "b")
    assert joint.names(" b, a") == ("b", "a")


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["a"], "--joint: takes several categories, got a alone"),
        (["a", "b+c"], "'b\\+c' has a \\+ in its name"),
        ([f"{i:050}" for i in range(5)], "5 categories have too long a name"),
    ],
)
def test_a_name_that_cannot_be(names, words):
    with pytest.raises(UsageError, match=words):
        joint.name(names)
