"""Shapes drawn by hand: the pixels that they cover, and the data sets that have them."""

import base64
import io
import json

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage import draw

from cae_jax import data
from cae_jax.data import layouts, shapes
from cae_jax.data.frame import Frame
from cae_jax.types import DataError

HEIGHT, WIDTH = 40, 56


@pytest.mark.parametrize("seed", range(5))
def test_a_polygon_covers_the_pixels_whose_middle_is_in_it(seed):
    """Also where its edges cross, and where it reaches out of the image."""
    points = np.random.default_rng(seed).uniform(-8, 60, (7, 2))
    found = shapes.covered("polygon", points.tolist(), (HEIGHT, WIDTH))
    wanted = draw.polygon2mask((HEIGHT, WIDTH), points[:, ::-1] - 0.5)
    assert wanted.sum() > 100
    np.testing.assert_array_equal(found, wanted)


def test_a_small_polygon_is_not_lost():
    found = shapes.covered("polygon", [(3.6, 7.6), (3.9, 7.7), (3.8, 7.9)], (HEIGHT, WIDTH))
    np.testing.assert_array_equal(np.argwhere(found), [(7, 3)])


def test_other_shapes():
    size = HEIGHT, WIDTH
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    found = shapes.covered("rectangle", [(4, 6), (11, 10)], size)
    wanted = (x > 4) & (x < 11) & (y > 6) & (y < 10)
    np.testing.assert_array_equal(found, wanted)
    found = shapes.covered("circle", [(20.5, 20.5), (28.5, 20.5)], size)
    away = np.hypot(x - 20.5, y - 20.5)
    assert found[away < 7.4].all()
    assert not found[away > 8.6].any()
    found = shapes.covered("line", [(3.5, 2.5), (12.5, 2.5)], size)
    np.testing.assert_array_equal(np.argwhere(found), [(2, i) for i in range(3, 13)])
    np.testing.assert_array_equal(
        np.argwhere(shapes.covered("point", [(7.5, 8.5)], size)), [(8, 7)]
    )
    for kind, points in (("spline", [(1, 1)]), ("polygon", [(1, 1), (2, 2)]), ("circle", [(1, 1)])):
        with pytest.raises(ValueError, match=kind):
            shapes.covered(kind, points, size)


def packed(counts):
    """Run lengths as text, by pycocotools' description of it."""
    text = ""
    for i, count in enumerate(counts):
        value = count - counts[i - 2] if i > 2 else count
        more = True
        while more:
            code, value = value & 31, value >> 5
            more = value != (-1 if code & 16 else 0)
            text += chr((code | 32 if more else code) + 48)
    return text


@pytest.mark.parametrize("seed", range(3))
def test_run_lengths(seed):
    rng = np.random.default_rng(seed)
    mask = ndimage.uniform_filter(rng.random((HEIGHT, WIDTH)), 5) > 0.52
    flat = mask.T.ravel()  # column by column
    ends = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *ends, flat.size]).tolist()
    counts = [0, *counts] if flat[0] else counts
    assert len(counts) > 20
    np.testing.assert_array_equal(shapes.runs(counts, mask.shape), mask)
    np.testing.assert_array_equal(shapes.runs(packed(counts), mask.shape), mask)
    with pytest.raises(ValueError, match="run lengths of"):
        shapes.runs(counts[:-1], mask.shape)


def picture(path, level):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH), level, np.uint8)).save(path)


def box(x, y, width, height):
    return [x, y, x + width, y, x + width, y + height, x, y + height]


def coco(root, names, marks, file="_annotations.coco.json", first=0):
    """Writes a json: of each image (name, [(category, annotation)])."""
    categories = [{"id": 3, "name": "scratch"}, {"id": 5, "name": "OK"}, {"id": 9, "name": "hole"}]
    listed = [
        {"id": first + i, "file_name": name, "height": HEIGHT, "width": WIDTH}
        for i, name in enumerate(names)
    ]
    annotations = [
        {"id": i, "image_id": first + at, "category_id": category, **more}
        for i, (at, category, more) in enumerate(marks)
    ]
    root.mkdir(parents=True, exist_ok=True)
    content = {"images": listed, "annotations": annotations, "categories": categories}
    (root / file).write_text(json.dumps(content))


def read(root):
    return data.read("folder", str(root), root.name, Frame((HEIGHT, WIDTH), 1), 0)


def test_coco(tmp_path):
    root = tmp_path / "plate"
    names = [f"{i}.png" for i in range(6)]
    for i, name in enumerate(names):
        picture(root / "images" / name, 20 + 30 * i)
    picture(root / "images" / "extra.png", 250)
    marks = [
        (3, 3, {"segmentation": [box(4, 6, 7, 4)], "bbox": [0, 0, 1, 1]}),
        (4, 9, {"bbox": [10, 12, 5, 3]}),
        (4, 3, {"segmentation": {"counts": [0, 2, HEIGHT * WIDTH - 2], "size": [HEIGHT, WIDTH]}}),
        (5, 5, {"bbox": [0, 0, 9, 9]}),  # what is called OK is no defect
    ]
    coco(root, names, marks)
    split = read(root)
    assert split.layout == "coco"
    assert split.train_paths == tuple(f"images/{i}.png" for i in (0, 1, 2, 5))
    assert split.test_paths == ("images/3.png", "images/4.png")
    assert split.kinds == ("scratch", "hole and scratch")
    wanted = np.zeros((2, HEIGHT, WIDTH), bool)
    wanted[0, 6:10, 4:11] = wanted[1, 12:15, 10:15] = wanted[1, :2, 0] = True
    np.testing.assert_array_equal(split.masks, wanted)
    assert dict(split.left_out)["images/extra.png"] == "not in the annotations"


def test_coco_with_a_part_each(tmp_path):
    root = tmp_path / "plate"
    for i in range(3):
        picture(root / "train" / f"{i}.png", 20 + 30 * i)
        picture(root / "val" / f"{i}.png", 30 + 30 * i)
    mark = (2, 3, {"bbox": [10, 12, 5, 3]})
    coco(root / "annotations", ["0.png", "1.png", "2.png"], [mark], "instances_train.json")
    coco(root / "annotations", ["0.png", "1.png", "2.png"], [mark], "instances_val.json", 50)
    split = read(root)
    assert split.train_paths == ("train/0.png", "train/1.png")
    assert split.test_paths == ("val/0.png", "val/1.png", "val/2.png")
    assert split.kinds == ("good", "good", "scratch")
    assert split.masks.sum(axis=(1, 2)).tolist() == [0, 0, 15]
    assert "defective" in dict(split.left_out)["train/2.png"]
    (root / "val/1.png").unlink()
    with pytest.raises(DataError, match=r"instances_val\.json: 1\.png: no such image"):
        layouts.find(root)


def test_labelme(tmp_path):
    root = tmp_path / "bolt"
    for i in range(5):
        picture(root / f"{i}.jpg", 20 + 30 * i)
    own = np.zeros((3, 4), np.uint8)
    own[1:] = 255
    png = io.BytesIO()
    Image.fromarray(own).save(png, "PNG")
    text = base64.b64encode(png.getvalue()).decode()
    corners = [[4, 6], [11, 10]]
    of = {
        1: [{"label": "dent", "points": corners, "shape_type": "rectangle"}],
        3: [{"label": "rust", "points": [[20, 10], [23, 12]], "shape_type": "mask", "mask": text}],
        4: [],
    }
    for i, marks in of.items():
        content = {"shapes": marks, "imagePath": f"{i}.jpg", "imageData": None}
        content |= {"imageHeight": HEIGHT, "imageWidth": WIDTH}
        (root / f"{i}.json").write_text(json.dumps(content))
    split = read(root)
    assert split.layout == "labelme"
    assert split.train_paths == ("0.jpg", "2.jpg", "4.jpg")
    assert (split.test_paths, split.kinds) == (("1.jpg", "3.jpg"), ("dent", "rust"))
    wanted = np.zeros((2, HEIGHT, WIDTH), bool)
    wanted[0, 6:10, 4:11] = wanted[1, 11:13, 20:24] = True
    np.testing.assert_array_equal(split.masks, wanted)
    assert not split.left_out
    (root / "1.json").write_text('{"shapes": [{"label": "dent"}], "imagePath": "1.jpg"}')
    with pytest.raises(DataError, match=r"1\.json: cannot be read as LabelMe's shapes: no 'image"):
        layouts.find(root)
