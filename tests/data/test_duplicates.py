"""Copies of a photograph are found, and kept on one side; products that look alike are neither."""

import dataclasses
import functools
import io
import itertools
import json
import pathlib
import time

import numpy as np
import pytest
from PIL import Image

from cae_jax import data
from cae_jax.data import duplicates, images, synthetic
from cae_jax.data.frame import Frame
from cae_jax.types import DataError

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data"
CATEGORIES = {"hazelnut": "hazelnut_toy", "cookie": "cookie", "screw": "mvtec_ad"}
# Photographs that lie twice in the real data, seen by eye.
TWICE = {
    "hazelnut": [],
    "cookie": [("train/good/normal-1.jpg", "train/good/normal-2.jpg")],
    "screw": [("train/good/053.png", "train/good/173.png")],
}


def photographs(n, side, seed=0, channels=1):
    """Different textures: noise of several scales, float32 [n, side, side, channels]."""
    rng = np.random.default_rng(seed)
    scales = [side // block for block in (16, 8, 4, 2)]
    total = np.zeros((n, side, side, channels))
    for size in scales:
        block = np.ones((1, side // size, side // size, 1))
        total += np.kron(rng.random((n, size, size, channels)), block) / len(scales)
    return total.astype(np.float32)


def recompressed(image, quality=75):
    buffer = io.BytesIO()
    Image.fromarray(np.uint8(np.rint(image[..., 0] * 255))).save(buffer, "JPEG", quality=quality)
    return images.decode(buffer.getvalue(), Frame(None, 1))


def noisy(image):
    noise = np.random.default_rng(3).normal(0, 0.01, image.shape)
    return np.clip(image + noise, 0, 1).astype(np.float32)


COPIES = {
    "brighter": lambda image: np.clip(image + np.float32(0.1), 0, 1),
    "darker": lambda image: image * np.float32(0.8),
    "recompressed": recompressed,
    "shifted right": lambda image: np.roll(image, 1, axis=1),
    "shifted down": lambda image: np.roll(image, 1, axis=0),
    "shifted both ways": lambda image: np.roll(image, (1, -1), axis=(0, 1)),
    "noisy": noisy,
}


def pairs_of(found):
    rows = zip(*(column.tolist() for column in found[:3]), strict=True)
    return sorted((i, j, "exact" if r > 1 else "near") for i, j, r in rows)


def test_exact_copies_are_found_in_every_part_and_at_every_size():
    for side, channels in ((24, 3), (64, 1), (100, 1)):
        x = np.random.default_rng(side).random((6, side, side, channels), np.float32)
        train, test = x[[0, 1, 2, 1]], x[[4, 0, 5, 1]]
        found = pairs_of(duplicates.find([train, test]))
        assert found == [(0, 5, "exact"), (1, 3, "exact"), (1, 7, "exact")]
        nudged = x[:1].copy()
        nudged[0, 3, 4, 0] += 0.2  # one pixel: no exact copy any more
        kinds = [kind for *_, kind in pairs_of(duplicates.find([x[:1], nudged]))]
        assert kinds == (["near"] if side >= 64 else [])


@pytest.mark.parametrize(
    ("side", "copy"),
    [(256, copy) for copy in COPIES]
    + [(side, copy) for side in (64, 128) for copy in COPIES if "shift" not in copy],
)
def test_a_changed_copy_is_found_and_nothing_else(side, copy):
    x = photographs(12, side)
    changed = np.stack([COPIES[copy](image) for image in x[[2, 7]]])
    found = duplicates.find([x, changed])
    assert pairs_of(found) == [(2, 12, "near"), (7, 13, "near")]
    assert (found.similarity >= duplicates.ALIKE).all()
    assert (found.similarity <= 1).all()


def test_fine_grain_is_compared_after_a_shift():
    """Of noise that changes from pixel to pixel, a fourth of a sketch goes with a shift by one."""
    x = np.random.default_rng(0).random((6, 256, 256, 1), np.float32)
    shifted = np.stack([np.roll(x[1], -1, axis=0), np.roll(x[4], 1, axis=1), np.roll(x[5], 9)])
    assert pairs_of(duplicates.find([x, shifted])) == [(1, 6, "near"), (4, 7, "near")]


def test_color_that_is_not_square():
    x = photographs(5, 128, channels=3)[:, :96]
    brighter = np.clip(x[3:4] + np.float32([0.1, 0.0, 0.05]), 0, 1)
    assert pairs_of(duplicates.find([x, brighter])) == [(3, 5, "near")]


def test_images_without_structure_are_no_near_duplicates():
    levels = np.linspace(0.01, 0.9, 7, dtype=np.float32)[:, None, None, None]
    flat = np.broadcast_to(levels, (7, 64, 64, 1))
    ramps = np.linspace(0, 1, 64, dtype=np.float32)[:, None] * levels
    rounded = levels + 1e-5 * photographs(1, 64)  # less than any file can hold
    for images_ in (flat, ramps, rounded):
        assert pairs_of(duplicates.find([images_])) == []
    assert pairs_of(duplicates.find([flat, flat[4:5]])) == [(4, 7, "exact")]


def test_what_all_images_share_makes_no_duplicates():
    """A black frame and a label on every picture, strong beside the products' own structure."""
    x = 0.4 + 0.2 * photographs(12, 128)
    x[:, :10] = x[:, -10:] = x[:, :, :10] = x[:, :, -10:] = 0
    label = np.random.default_rng(1).integers(0, 2, (8, 30))
    x[:, 20:36, 20:80] = np.kron(label, np.ones((2, 2)))[None, ..., None]
    assert pairs_of(duplicates.find([x])) == []
    brighter = COPIES["brighter"](x[4])[None]
    assert pairs_of(duplicates.find([x, brighter])) == [(4, 12, "near")]


@pytest.mark.parametrize("category", list(synthetic.CATEGORIES))
def test_synthetic_products_are_all_different(category):
    """As in the quickstart, no false warning."""
    size = 256 if category == "weave" else 128  # weave's are the most alike
    split = data.read("synthetic", None, category, Frame(size, 1), 0)
    held = data.hold_out(split, 0.1, 0)
    assert (held.duplicates, held.warnings) == ((), ())


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL}")
@pytest.mark.parametrize("category", CATEGORIES)
def test_real_products_are_told_from_copies(category):
    split = data.read("folder", str(REAL / CATEGORIES[category]), category, Frame(256, 1), 0)
    begin = time.perf_counter()
    held = data.hold_out(split, 0.1, 0)
    assert time.perf_counter() - begin < 8  # 1 s when nothing else runs
    assert [(d.like, d.path) for d in held.duplicates] == TWICE[category]
    changed = [COPIES[name](split.train[i]) for i, name in enumerate(COPIES)]
    found = duplicates.find([split.train[: len(COPIES)], np.stack(changed)])
    n = len(COPIES)
    assert set(pairs_of(found)) >= {(i, n + i, "near") for i in range(n)}


@functools.cache
def any_split():
    return data.read("synthetic", None, "weave", Frame(32, 1), 0)


def fold(train, test=None, kinds=None):
    """A split of these arrays."""
    split = any_split()
    test = train[:0] if test is None else test
    return dataclasses.replace(
        split,
        category="nut",
        train=train,
        train_paths=tuple(f"train/good/{i:03}.png" for i in range(len(train))),
        test=test,
        test_paths=tuple(f"test/good/{i:03}.png" for i in range(len(test))),
        kinds=("good",) * len(test),
    )


def as_before(n, fraction, seed):
    """The draw where nothing is repeated: `choice` alone."""
    drawn = np.random.default_rng(seed).choice(n, max(1, round(fraction * n)), replace=False)
    return sorted(drawn.tolist())


def places(paths):
    return [int(path[-7:-4]) for path in paths]


def test_without_duplicates_the_draw_is_the_seed_s_alone():
    split = fold(np.random.default_rng(0).random((30, 32, 32, 1), np.float32))
    for seed in range(20):
        for fraction in (0.05, 0.3, 0.7):
            held = data.hold_out(split, fraction, seed)
            assert places(held.validation_paths) == as_before(30, fraction, seed)
            assert held.warnings == split.warnings


@pytest.mark.parametrize("side", [32, 64])
def test_validation_shares_no_image_with_training(side):
    """30 images of which 12 are copies in groups of 2, 3 and 7, exact or brighter."""
    x = photographs(30, side)
    groups = [(0, 11), (4, 5, 29), (7, 8, 13, 17, 20, 21, 22)]
    for first, *others in groups:
        for j, other in enumerate(others):
            near = side >= 64 and j % 2
            x[other] = COPIES["brighter"](x[first]) if near else x[first]
    parted_before = 0
    for seed in range(40):
        held = data.hold_out(fold(x), 0.2, seed)
        chosen = set(places(held.validation_paths))
        assert len(chosen) == 6
        for group in groups:
            assert len(chosen & set(group)) in (0, len(group))
        before = set(as_before(30, 0.2, seed))
        parted = any(len(before & set(g)) not in (0, len(g)) for g in groups)
        parted_before += parted
        assert parted or chosen == before
        assert places(data.hold_out(fold(x), 0.2, seed).validation_paths) == sorted(chosen)
    assert parted_before > 10
    assert len(held.duplicates) == sum(len(group) - 1 for group in groups)


def test_when_every_image_is_repeated_the_smallest_group_is_held_out():
    x = photographs(3, 32)[[0, 0, 0, 1, 1, 2, 2, 2, 2]]
    held = data.hold_out(fold(x), 0.1, 0)
    assert places(held.validation_paths) == [3, 4]
    with pytest.raises(DataError, match="nut: all 3 training images are the same one"):
        data.hold_out(fold(x[:3]), 0.1, 0)
    assert len(data.hold_out(fold(x[:3]), 0, 0).train) == 3


def test_look_alikes_that_chain_through_most_images_are_the_product():
    """A film: each frame is a near copy of the next; exact copies still stay together."""
    x = photographs(1, 128).repeat(12, axis=0)
    for i in range(12):
        x[i] = np.clip(x[i] + np.float32(i / 50), 0, 1)
    x[11] = x[3]
    for seed in range(20):
        chosen = places(data.hold_out(fold(x), 0.25, seed).validation_paths)
        assert len(chosen) == 3
        assert len({3, 11} & set(chosen)) in (0, 2)


def test_what_repeats_is_reported_with_its_number_and_names():
    x = photographs(9, 64)
    test = np.stack([x[2], COPIES["brighter"](x[3]), *photographs(2, 64, seed=1)])
    test = np.concatenate([test, test[2:3], test[:1]])
    x[7] = x[6]
    held = data.hold_out(fold(x, test), 0.2, 0)
    rows = [(d.path, d.like, d.kind) for d in held.duplicates]
    assert rows == [
        ("train/good/007.png", "train/good/006.png", "exact"),
        ("test/good/000.png", "train/good/002.png", "exact"),
        ("test/good/001.png", "train/good/003.png", "near"),
        ("test/good/004.png", "test/good/002.png", "exact"),
        ("test/good/005.png", "train/good/002.png", "exact"),
    ]
    for found in held.duplicates:
        assert (1 if found.kind == "exact" else duplicates.ALIKE) <= found.similarity <= 1
    summary = data.summary(dataclasses.replace(held, masks=held.masks[:6], has_mask=[True] * 6))
    for words in (
        "nut: test images that repeat train images: 2 exactly, 1 nearly, such as "
        "'test/good/000.png' and 'train/good/002.png'",
        "nut: train images that repeat train images: 1 exactly, 0 nearly",
        "nut: test images that repeat test images: 1 exactly, 0 nearly",
        "duplicates.csv",
    ):
        assert words in summary
    assert json.dumps(held.duplicates)


def test_where_most_are_nearly_equal_only_exact_copies_are_told():
    """One part in a fixture: 70 pictures differ by noise alone, and their pairs are 2,415."""
    noise = np.random.default_rng(0).normal(0, 0.005, (70, 64, 64, 1))
    x = (0.2 + 0.6 * photographs(1, 64) + noise).astype(np.float32)
    x[9] = x[5]
    found = duplicates.find([x[:40], x[40:]])
    assert found.look_alike
    assert pairs_of(found) == [(5, 9, "exact")]
    held = data.hold_out(fold(x), 0.1, 0)
    assert any("most images are nearly equal" in warning for warning in held.warnings)
    assert not duplicates.find([photographs(70, 64)]).look_alike


@pytest.mark.parametrize("fixtures", [2, 4])
def test_several_fixtures_are_no_copies_and_none_is_held_out_whole(fixtures):
    """Of 72 or 24 pictures of parts in a few fixtures a tenth is held out, not a whole fixture."""
    for n in (72, 24 * fixtures // 2):
        x = (0.2 + 0.6 * photographs(fixtures, 64)).repeat(n // fixtures, axis=0)
        x = (x + np.random.default_rng(0).normal(0, 0.005, x.shape)).astype(np.float32)
        x[1] = x[0]
        held = data.hold_out(fold(x), 0.1, 0)
        assert len(held.validation_paths) == round(0.1 * n)
        assert len({0, 1} & set(places(held.validation_paths))) in (0, 2)
        assert duplicates.find([x]).look_alike == (n >= 64)


def test_many_images_are_compared_as_a_loop_over_pairs_does():
    """More than one chunk, some of them near: the same pairs and similarities as one by one."""
    x = photographs(75, 64)
    x = 0.5 * x + 0.5 * x[:1]  # alike in part, so that all are looked at twice
    x[70:] = 0.8 * x[[3, 20, 40, 41, 66]]
    x[70:, 59:] = 0.8 * x[:5, 59:]
    told = []
    found = duplicates.find([x[:50], x[50:]], told.append)
    wanted = {}
    for i, j in itertools.combinations(range(len(x)), 2):
        one, moved = duplicates._sketches(x[[j]])[0, 0], duplicates._sketches(x[[i]], (-1, 0, 1))
        similarity = (moved[:, 0] @ one).max()
        if similarity >= duplicates.ALIKE:
            wanted[i, j] = similarity
    ends = zip(found.first.tolist(), found.second.tolist(), strict=True)
    got = dict(zip(ends, found.similarity, strict=True))
    assert len(wanted) >= 5
    assert got.keys() == wanted.keys()
    for pair, similarity in wanted.items():
        np.testing.assert_allclose(got[pair], similarity, atol=1e-5)
    assert len(told) > 2
