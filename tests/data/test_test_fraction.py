"""Good images that are held out for the test, of data that does not say which are."""

import csv
import json

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import judged, split_of

from cae_jax import data
from cae_jax.data import layouts, listing
from cae_jax.data.layouts.found import Names
from cae_jax.types import GOOD, DataError

N = 10


def kinds(root):
    return trees.write(root, *(f"OK/{i}.png" for i in range(N)), "dent/0.png", "=mask/0_mask.png")


def listed(root, **more):
    trees.write(root, *(f"{i}.png" for i in range(N + 1)))
    rows = [{"path": f"{i}.png", "label": "dent" if i == N else "ok"} | more for i in range(N + 1)]
    with open(root / "images.csv", "w", newline="") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)
    return root


def coco(root):
    trees.write(root, *(f"images/{i}.png" for i in range(N + 1)))
    found = {
        "images": [
            {"id": i, "file_name": f"{i}.png", "height": 16, "width": 16} for i in range(11)
        ],
        "annotations": [{"image_id": N, "category_id": 1, "bbox": [2, 3, 4, 5]}],
        "categories": [{"id": 1, "name": "dent"}],
    }
    (root / "annotations.json").write_text(json.dumps(found))
    return root


def labelme(root):
    trees.write(root, *(f"{i}.png" for i in range(N + 1)))
    for i in range(N + 1):
        shape = {"label": "dent", "shape_type": "rectangle", "points": [[2, 3], [6, 8]]}
        record = {"version": "5", "shapes": [shape] * (i == N), "imagePath": f"{i}.png"}
        record |= {"imageHeight": 16, "imageWidth": 16, "imageData": None}
        (root / f"{i}.json").write_text(json.dumps(record))
    return root


def visa(root):
    return trees.write(
        root,
        *(f"Data/Images/Normal/{i}.png" for i in range(N)),
        *("Data/Images/Anomaly/0.png", "=Data/Masks/Anomaly/0.png"),
    )


def real_iad(root):
    return trees.write(
        root, *(f"OK/S0001/{i}.png" for i in range(N)), "NG/HS/S0002/0.jpg", "=NG/HS/S0002/0.png"
    )


UNDIVIDED = [kinds, listed, coco, labelme, visa, real_iad]


@pytest.mark.parametrize("write", UNDIVIDED)
def test_a_share_of_good_images_is_judged(tmp_path, write):
    root = write(tmp_path / "part")
    before, after = layouts.find(root), layouts.find(root, Names(test_fraction=0.3))
    assert before.layout == after.layout == write.__name__
    assert (len(before.train), [item.kind for item in before.test].count(GOOD)) == (N, 0)
    assert "no good test image: --test_fraction=0.2 holds some out" in before.notes
    good = [item for item in after.test if item.kind == GOOD]
    assert (len(after.train), len(good), len(after.test)) == (7, 3, 4)
    assert sorted([*after.train, *good]) == sorted(before.train)
    assert [item for item in after.test if item.kind != GOOD] == list(before.test)
    for part in (after.train, after.test):
        assert [item.path for item in part] == sorted(item.path for item in part)
    assert "3 of 10 good images are held out for the test (--test_fraction=0.3)" in after.notes
    assert not any("no good test image" in note for note in after.notes)


def test_which_depends_on_their_number_alone_and_grows(tmp_path):
    root, other = kinds(tmp_path / "a"), kinds(tmp_path / "b")
    for path in (other / "OK").iterdir():
        path.rename(path.with_name(f"x{path.name}"))
    found = {}
    for fraction in (0.01, 0.2, 0.5, 0.9):
        split = split_of(root, test_fraction=fraction)
        held = {path for path, (kind, _) in judged(split).items() if kind == GOOD}
        assert held.isdisjoint(split.train_paths)
        found[fraction] = held
        renamed = layouts.find(other, Names(test_fraction=fraction)).test
        names = {item.path.replace("/x", "/") for item in renamed if item.kind == GOOD}
        assert names == held
        counts = listing.count("folder", str(root), "a", Names(test_fraction=fraction))
        assert counts[:2] == (len(split.train), len(split.test))
    assert [len(held) for held in found.values()] == [1, 2, 5, 9]
    assert found[0.01] < found[0.2] < found[0.5] < found[0.9]
    split = split_of(root, test_fraction=0.2)
    order = [f"OK/{i}.png" for i in np.random.default_rng(N).permutation(N)[:2]]
    assert judged(split) == {"dent/0.png": ("dent", [3])} | dict.fromkeys(order, (GOOD, []))
    for path, pixels in zip(split.test_paths, split.test, strict=True):
        if path.startswith("OK"):  # trees.write gives each its own level
            assert pixels.mean() * 255 == pytest.approx(10 + 7 * int(path[3]), abs=1e-3)
    assert data.fingerprint(split) != data.fingerprint(split_of(root))


def test_data_that_says_what_is_for_the_test_keeps_it(tmp_path):
    divided = listed(tmp_path / "divided", split="train")
    trees.write(tmp_path / "usual", "train/good/0.png", "train/good/1.png", "test/dent/2.png")
    alone = trees.write(tmp_path / "alone", "0.png", "1.png")
    for root, said in (
        (divided, "no defective image"),
        (tmp_path / "usual", "says what is for the test"),
        (alone, "no defective image"),
    ):
        before, after = layouts.find(root), layouts.find(root, Names(test_fraction=0.5))
        assert (after.train, after.test) == (before.train, before.test)
        assert any("--test_fraction is not used" in note and said in note for note in after.notes)
        assert not any("test_fraction" in note for note in before.notes)


def test_one_image_is_left_to_learn_from_at_least(tmp_path):
    root = trees.write(tmp_path / "part", "good/0.png", "dent/1.png")
    with pytest.raises(DataError, match=r"1 good image, of which --test_fraction=0.1 .* none is"):
        layouts.find(root, Names(test_fraction=0.1))
