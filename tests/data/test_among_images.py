"""Masks and defective images that lie among others: taken for what they are, or asked about."""

import layout_trees as trees
import numpy as np
import pytest
from layout_trees import causes, judged, split_of
from PIL import Image

from cae_jax.types import DataError


def test_masks_that_have_their_images_names(tmp_path):
    root = trees.write(
        tmp_path / "set", "ok/0.jpg", "ok/1.jpg", "=ok/0.png", "bad/7.jpg", "=bad/7.png"
    )
    split = split_of(root)
    assert split.train_paths == ("ok/0.jpg", "ok/1.jpg")
    assert judged(split)["bad/7.jpg"] == ("bad", [3])
    assert causes(split) == {"ok/0.png": "mask of a good image"}
    with pytest.raises(
        DataError, match=r"ok: 0.png is called like 0.jpg beside it, as its mask mi"
    ):
        split_of(root / "ok")


@pytest.mark.parametrize("good", ["train/good", "train"])
def test_masks_are_not_learned_from(tmp_path, good):
    root = trees.write(tmp_path / "set", f"{good}/0.png", f"{good}/1.png", f"={good}/x/1_label.png")
    with pytest.raises(DataError, match=r"x/1_label.png is named like the mask of another image: "):
        split_of(root)


def test_a_second_mask_of_kolektor_is_no_image(tmp_path):
    root = trees.write(tmp_path / "set", "train/0.png", "train/1.png", "test/2.png", "test/3.png")
    for path in ("train/0_GT.png", "train/0_GT (copy).png", "test/2_GT.png", "test/9_GT.png"):
        trees.mask(root / path, *([5] if "2" in path else []))
    split = split_of(root)
    assert split.train_paths == ("train/0.png", "train/1.png")
    assert judged(split) == {"test/2.png": ("defect", [5]), "test/3.png": ("good", [])}
    assert set(causes(split)) == {"train/0_GT (copy).png", "test/9_GT.png"}
    assert any("train: 1 images without a mask are taken for good" in note for note in split.notes)


@pytest.mark.parametrize("mask", ["bad/1_mask.png", "bad/masks/1.png", "bad/gt/1_gt.png"])
@pytest.mark.parametrize("layout", ["kinds", "mvtec_ad"])
def test_masks_beside_the_images_of_a_kind(tmp_path, mask, layout):
    train, test = ("ok", "") if layout == "kinds" else ("train/ok", "test/")
    root = trees.write(tmp_path / "set", f"{train}/0.png", f"{train}/2.png", f"{test}bad/1.png")
    trees.mask(root / f"{test}{mask}", 4)
    if test:
        trees.write(root, "test/ok/7.png", "=test/ok/7_mask.png")
    split = split_of(root)
    assert (split.layout, len(split.train)) == (layout, 2)
    wanted = {f"{test}bad/1.png": ("bad", [4])}
    assert judged(split) == wanted | ({"test/ok/7.png": ("good", [])} if test else {})
    assert any("1 files are taken for masks of images beside them" in note for note in split.notes)
    assert set(causes(split)) == ({"test/ok/7_mask.png"} if test else set())


@pytest.mark.parametrize("mask", ["bad_mask/1.png", "mask_bad/1.png", "Bad-GT/1_gt.png"])
@pytest.mark.parametrize("layout", ["kinds", "mvtec_ad"])
def test_a_folder_of_masks_beside_its_images_folder_is_no_kind(tmp_path, mask, layout):
    train, test = ("ok", "") if layout == "kinds" else ("train/ok", "test/")
    root = trees.write(tmp_path / "set", f"{train}/0.png", f"{train}/2.png", f"{test}bad/1.png")
    trees.mask(root / f"{test}{mask}", 4)
    trees.write(root, f"{test}bad_label/1.png", f"{test}bad_gt/9.png")  # kinds, by their files
    split = split_of(root)
    assert (split.layout, len(split.train)) == (layout, 2)
    assert judged(split) == {
        f"{test}bad/1.png": ("bad", [4]),
        f"{test}bad_label/1.png": ("bad_label", None),
        f"{test}bad_gt/9.png": ("bad_gt", None),
    }
    assert any("is taken for masks of" in note for note in split.notes)


@pytest.mark.parametrize("layout", ["kinds", "mvtec_ad"])
def test_a_kind_may_be_called_as_masks_are_where_these_lie_elsewhere(tmp_path, layout):
    """A scratch of the product and one of its label, numbered alike."""
    train, test, truth = ("ok", "", "masks") if layout == "kinds" else ("train/ok", "test/", "gt")
    root = trees.write(tmp_path / "set", f"{train}/0.png")
    for kind, row in (("scratch", 4), ("scratch_label", 5)):
        trees.write(root, f"{test}{kind}/1.png")
        trees.mask(root / f"{truth}/{kind}/1.png", row)
    split = split_of(root)
    assert split.layout == layout
    assert judged(split) == {
        f"{test}scratch/1.png": ("scratch", [4]),
        f"{test}scratch_label/1.png": ("scratch_label", [5]),
    }


@pytest.mark.parametrize(
    "mask",
    ["ground_truth/test/bad/1_mask.png", "ground_truth/bad_mask/1.png", "labels/bad/1.png"],
)
def test_masks_in_folders_called_otherwise(tmp_path, mask):
    root = trees.write(tmp_path / "set", "train/good/0.png", "test/good/1.png", "test/bad/1.png")
    trees.mask(root / mask, 4)
    split = split_of(root)
    assert judged(split) == {"test/bad/1.png": ("bad", [4]), "test/good/1.png": ("good", [])}
    assert any("labels is ground_truth" in note for note in split.notes) == ("labels" in mask)


def test_val_is_judged_where_there_is_no_test(tmp_path):
    root = trees.write(tmp_path / "set", "train/good/0.png", "val/good/1.png", "val/bad/1.png")
    trees.mask(root / "ground_truth/bad/1_mask.png", 4)
    split = split_of(root)
    assert split.train_paths == ("train/good/0.png",)
    assert judged(split) == {"val/bad/1.png": ("bad", [4]), "val/good/1.png": ("good", [])}
    trees.write(root, "test/good/7.png")
    assert split_of(root).train_paths == ("train/good/0.png", "val/good/1.png")


@pytest.mark.parametrize(
    ("one", "other"), [("damaged", "undamaged"), ("crack", "no_crack"), ("Cracked", "Non-Cracked")]
)
def test_a_word_and_its_opposite_are_two_kinds(tmp_path, one, other):
    root = trees.write(tmp_path / "set", f"{one}/0.png", f"{other}/1.png", f"{other}/2.png")
    if other == "undamaged":
        assert judged(split_of(root)) == {"damaged/0.png": ("damaged", None)}
    else:
        with pytest.raises(DataError, match=r"which of them is good\? --good_name=no"):
            split_of(root)


def test_depth_cameras_points_are_no_images(tmp_path):
    root = trees.write(
        tmp_path / "cookie",
        *("train/good/rgb/0.png", "train/good/rgb/1.png", "test/good/rgb/0.png"),
        *("test/crack/rgb/0.png", "=test/crack/gt/0.png"),
    )
    trees.mask(root / "test/good/gt/0.png")
    for folder in ("train/good", "test/good", "test/crack"):
        (root / folder / "xyz").mkdir()
        Image.fromarray(np.full((16, 16), 0.3, np.float32)).save(root / folder / "xyz/0.tiff")
    split = split_of(root)
    assert split.train_paths == ("train/good/rgb/0.png", "train/good/rgb/1.png")
    assert judged(split) == {
        "test/crack/rgb/0.png": ("crack", [3]),
        "test/good/rgb/0.png": ("good", []),
    }


def test_a_folder_of_any_name_is_good_where_train_and_test_have_it(tmp_path):
    root = trees.write(
        tmp_path / "set", *(f"{part}/0/{i}.png" for part in ("train", "test") for i in "12")
    )
    trees.write(root, "test/1/3.png")
    split = split_of(root)
    assert sorted(split.kinds) == ["1", "good", "good"]
    assert "train/0 is taken for good images" in split.notes


def test_folders_that_train_and_test_share_are_asked_about(tmp_path):
    root = trees.write(
        tmp_path / "set",
        *(
            f"{part}/{kind}/{i}.png"
            for part in ("train", "test")
            for kind in ("def", "fine")
            for i in "12"
        ),
    )
    with pytest.raises(DataError, match=r"train: holds def, fine, and so does test: which of them"):
        split_of(root)
    assert sorted(split_of(root, good_name="fine").kinds) == ["def", "def", "good", "good"]


@pytest.mark.parametrize(
    ("paths", "match"),
    [
        (("OK_0.png", "OK_1.png", "NG_2.png"), "NG_2.png is named as a defective image is, others"),
        (("a/0.png", "a/part.defect-3.png"), r"a/part.defect-3.png is named as a defective image"),
        (("positive/0.png", "negative/0.png"), r"which of them is good. --good_name=positive; if"),
    ],
)
def test_names_that_tell_of_two_kinds_are_asked_about(tmp_path, paths, match):
    root = trees.write(tmp_path / "set", *paths)
    with pytest.raises(DataError, match=match):
        split_of(root)
    assert len(split_of(root, layout="good_images").train) == len(paths)


def test_a_word_in_all_names_tells_nothing(tmp_path):
    assert len(split_of(trees.write(tmp_path / "set", "ng_0.png", "ng_1.png")).train) == 2
