"""COCO's and LabelMe's annotations as layouts: what is learned from, judged, and by which mask."""

import base64
import json

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import causes, judged, split_of

from cae_jax import data
from cae_jax.data import layouts
from cae_jax.data.layouts.found import Names
from cae_jax.types import DataError

BOX = [2, 3, 5, 2]  # rows 3 and 4
CATEGORIES = [{"id": 1, "name": "dent"}, {"id": 2, "name": "scratch"}, {"id": 3, "name": "OK"}]


def outline(top, bottom):
    return [0, top, 16, top, 16, bottom, 0, bottom]


def coco(path, names, *annotations):
    """Writes COCO's json: annotations as (index of the image, category, the rest)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    size = {"height": trees.SIDE, "width": trees.SIDE}
    images = [{"id": i, "file_name": name, **size} for i, name in enumerate(names)]
    found = [{"image_id": i, "category_id": kind, **rest} for i, kind, rest in annotations]
    content = {"info": {}, "images": images, "annotations": found, "categories": CATEGORIES}
    path.write_text(json.dumps(content))


def labelme(path, image, *shapes, **more):
    """Writes LabelMe's json: shapes as (label, type, points)."""
    found = [{"label": label, "shape_type": kind, "points": xy} for label, kind, xy in shapes]
    size = {"imageHeight": trees.SIDE, "imageWidth": trees.SIDE, "imageData": None}
    path.write_text(json.dumps({"shapes": found, "imagePath": image, **size, **more}))


def test_coco_without_a_split(tmp_path):
    root = trees.write(tmp_path / "part", *(f"images/{i}.png" for i in range(7)))
    column = {"size": [16, 16], "counts": [5, 2, 249]}  # rows 5 and 6 of the first column
    coco(
        root / "annotations" / "instances_default.json",
        [*(f"{i}.png" for i in range(6)), "gone.png"],
        (1, 1, {"segmentation": [outline(1, 3), outline(8, 9)], "bbox": BOX}),
        (2, 2, {"segmentation": column, "iscrowd": 1}),
        (3, 1, {"segmentation": [], "bbox": BOX}),
        (3, 2, {"segmentation": [outline(10, 11)]}),
        (4, 1, {}),  # named, not outlined
        (5, 3, {"bbox": BOX}),  # drawn as OK
    )
    split = split_of(root)
    assert (split.layout, split.train_paths) == ("coco", ("images/0.png", "images/5.png"))
    assert judged(split) == {
        "images/1.png": ("dent", [1, 2, 8]),
        "images/2.png": ("scratch", [5, 6]),
        "images/3.png": ("dent+scratch", [3, 4, 10]),
        "images/4.png": ("dent", None),
    }
    assert set(causes(split)) == {"gone.png", "images/4.png", "images/6.png"}
    assert "nobody knows whether it is good" in causes(split)["images/6.png"]
    assert any("no good test image: --test_fraction=0.2" in note for note in split.notes)
    assert data.categories("folder", str(tmp_path)) == data.categories("folder", str(root))


def test_coco_by_names_in_other_capitals(tmp_path):
    root = trees.write(tmp_path / "part", "IMG_0.PNG", "IMG_1.PNG")
    coco(root / "all.json", ["a/img_0.png", "a/img_1.png"], (1, 1, {"bbox": BOX}))
    assert judged(split_of(root)) == {"IMG_1.PNG": ("dent", [3, 4])}


@pytest.mark.parametrize("form", ["folders", "names", "valid alone"])
def test_coco_with_a_split(tmp_path, form):
    last = "valid" if form == "valid alone" else "test"
    for part in ("train", last):
        folder = f"{part}2017" if form == "names" else part
        trees.write(tmp_path, f"{folder}/0.png", f"{folder}/1.png")
        table = (
            "annotations/instances_" + folder if form == "names" else f"{part}/_annotations.coco"
        )
        coco(tmp_path / f"{table}.json", ["0.png", "1.png"], (1, 1, {"bbox": BOX}))
    split = split_of(tmp_path, layout="coco")
    first, second = ("train2017", "test2017") if form == "names" else ("train", last)
    assert split.train_paths == (f"{first}/0.png",)
    assert judged(split) == {f"{second}/0.png": ("good", []), f"{second}/1.png": ("dent", [3, 4])}
    assert causes(split) == {f"{first}/1.png": "defective, so it is not learned from"}
    assert split_of(tmp_path).layout == "coco"


def test_coco_of_defects_alone_beside_a_folder_of_good_ones_and_by_its_own_path(tmp_path):
    root = trees.write(tmp_path / "part", "good/0.png", "bad/1.png", "bad/2.png")
    coco(root / "result.json", ["C:\\data\\bad\\1.png"], (0, 1, {"bbox": BOX}))
    expected = {"bad/1.png": ("dent", [3, 4]), "bad/2.png": ("bad", None)}
    assert judged(split_of(root)) == expected
    found = layouts.find(root / "result.json")
    assert (found.layout, [item.path for item in found.test]) == ("coco", list(expected))
    trees.write(root, "=ground_truth/bad/1_mask.png")  # masks are more exact
    assert split_of(root).layout == "kinds"


def test_what_is_wrong_with_cocos_json_is_said(tmp_path):
    trees.write(tmp_path, "images/0.png", "other/0.png", "images/1.png")
    coco(tmp_path / "a.json", ["0.png"])
    with pytest.raises(DataError, match=r"a.json: 0.png could be .*images.0.png or .*other.0.png"):
        layouts.find(tmp_path)
    coco(tmp_path / "a.json", ["images/0.png", "1.png"], (1, 1, {"segmentation": [[1, 2, 3]]}))
    with pytest.raises(DataError, match=r"a.json: not COCO's json"):
        layouts.find(tmp_path)
    coco(tmp_path / "a.json", ["images/0.png", "1.png"], (1, 1, {"segmentation": [[0, 0, 1e9, 1]]}))
    with pytest.raises(DataError, match=r"a.json of images/1.png: a polygon that cannot be drawn"):
        split_of(tmp_path)
    coco(tmp_path / "train.json", ["images/0.png"])
    coco(tmp_path / "test.json", ["images/0.png"])
    with pytest.raises(DataError, match=r"images/0.png is for train, in another json for test"):
        layouts.find(tmp_path)
    (tmp_path / "a.json").write_text('{"images": [], "annotations": ')
    with pytest.raises(DataError, match=r"a.json: cannot be read"):
        layouts.find(tmp_path)


def test_labelme_beside_its_images(tmp_path):
    root = trees.write(tmp_path / "part", *(f"{i}.png" for i in range(5)))
    labelme(root / "1.json", "1.png", ("dent", "polygon", [(0, 2), (16, 2), (16, 4), (0, 4)]))
    labelme(
        root / "2.json",
        "..\\old\\2.png",
        ("scratch", "rectangle", [(9, 9), (3, 7)]),
        ("dent", "circle", [(8, 3), (8, 4.2)]),
        ("ok", "point", [(1, 15)]),
    )
    labelme(root / "3.json", "3.png")
    png = base64.b64encode((root / "4.png").read_bytes()).decode()
    (root / "4.png").unlink()
    labelme(root / "4.json", "4.png", ("dent", "linestrip", [(0, 5), (9, 5)]), imageData=png)
    labelme(root / "5.json", "5.png")
    split = split_of(root)
    assert (split.layout, split.train_paths) == ("labelme", ("0.png", "3.png"))
    assert judged(split) == {
        "1.png": ("dent", [2, 3]),
        "2.png": ("dent+scratch", [2, 3, 7, 8]),
        "4.json": ("dent", [5]),
    }
    level = np.unique(split.test[list(split.test_paths).index("4.json")])
    assert len(level) == 1  # the picture in it, of one gray
    assert any(note.startswith("1 images without a json") for note in split.notes)
    assert causes(split) == {}


def test_labelme_in_the_folders_of_mvtec_ad_and_of_kinds(tmp_path):
    dent = ("bump", "rectangle", [(2, 3), (7, 5)])
    root = trees.write(
        tmp_path / "a", "train/good/0.png", "test/good/0.png", "test/dent/0.png", "test/dent/1.png"
    )
    labelme(root / "test/dent/0.json", "0.png", dent)
    split = split_of(root)
    assert (split.layout, split.train_paths) == ("labelme", ("train/good/0.png",))
    assert judged(split) == {
        "test/dent/0.png": ("bump", [3, 4]),
        "test/dent/1.png": ("dent", None),
        "test/good/0.png": ("good", []),
    }
    kinds = trees.write(tmp_path / "b", "good/0.png", "torn/0.png")
    labelme(kinds / "torn/0.json", "0.png", dent)
    assert judged(split_of(kinds)) == {"torn/0.png": ("bump", [3, 4])}
    # two products beside each other are no category
    assert data.categories("folder", str(tmp_path)) == ("a", "b")
    assert layouts.layout_of(tmp_path, Names("labelme")) == ""


@pytest.mark.parametrize("kind", ["oriented_rectangle", "rotation", "quadrilateral"])
def test_four_corners_by_any_name(tmp_path, kind):
    trees.write(tmp_path, "0.png", "1.png")
    labelme(tmp_path / "1.json", "1.png", ("dent", kind, [(0, 3), (16, 3), (16, 5), (0, 5)]))
    assert judged(split_of(tmp_path)) == {"1.png": ("dent", [3, 4])}


def test_a_shape_that_labelme_does_not_have(tmp_path):
    trees.write(tmp_path, "0.png", "1.png")
    labelme(tmp_path / "1.json", "1.png", ("dent", "spline", [(1, 2)]))
    with pytest.raises(DataError, match=r"1.json: a shape 'spline'; known are circle, line"):
        layouts.find(tmp_path)
