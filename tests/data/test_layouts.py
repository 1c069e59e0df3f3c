"""Every layout by a tiny tree of it: what is learned from, what is judged, by which mask."""

import dataclasses
import json
import os

import layout_trees as trees
import pytest
from layout_trees import causes, judged, split_of

from cae_jax import data
from cae_jax.data import joint, layouts
from cae_jax.data.frame import Frame
from cae_jax.data.layouts.found import Names
from cae_jax.types import DataError, UsageError

TRAIN = ("train/good/0.png", "train/good/1.png")


@pytest.mark.parametrize("word", ["good", "Good", "OK", "ok", "normal", "Defect-free", "io"])
def test_good_images_by_any_usual_name(tmp_path, word):
    root = trees.write(
        tmp_path / "part",
        *(f"train/{word}/0.png", f"train/{word}/1.png"),
        *(f"test/{word}/2.png", "test/scratch/2.png"),
    )
    split = split_of(root)
    assert split.train_paths == (f"train/{word}/0.png", f"train/{word}/1.png")
    assert sorted(split.kinds) == ["good", "scratch"]
    assert any(f"test/{word} is taken for good" in note for note in split.notes) == (word != "good")
    assert data.categories("folder", str(tmp_path)) == data.categories("folder", str(root))


def test_a_good_name_of_ones_own(tmp_path):
    root = trees.write(tmp_path, "train/Gut/0.png", "test/Gut/1.png", "test/OK/2.png")
    assert judged(split_of(root, good_name="Gut")) == {
        "test/Gut/1.png": ("good", []),
        "test/OK/2.png": ("OK", None),
    }
    with pytest.raises(DataError, match=r"train: no folder Guut, it holds Gut; .*--good_name=NAME"):
        split_of(root, good_name="Guut")


def test_two_folders_that_could_be_good_are_asked_about(tmp_path):
    root = trees.write(tmp_path, *TRAIN, "test/OK/2.png", "test/good/1.png")
    with pytest.raises(DataError, match=r"test: holds OK and good: which of them.*--good_name=OK"):
        split_of(root)
    assert judged(split_of(root, good_name="good"))["test/OK/2.png"] == ("OK", None)


def test_no_good_folder_in_test_is_asked_about(tmp_path):
    split = split_of(trees.write(tmp_path, *TRAIN, "test/gut/1.png", "test/dent/2.png"))
    assert split.kinds == ("dent", "gut")
    assert any("no folder of good images among dent, gut" in note for note in split.notes)


@pytest.mark.parametrize(
    "name",
    ["{}_mask.png", "{}_MASK.PNG", "{}_gt.png", "{}-mask.bmp", "{}_label.png", "mask_{}.png",
     "{}.png", "{}.jpg.png", "{}_ground_truth.tif", "{}.mask.png"],
)  # fmt: skip
@pytest.mark.parametrize("folder", ["ground_truth/dent", "ground_truth", "masks/dent"])
def test_masks_by_any_usual_name_and_place(tmp_path, name, folder):
    root = trees.write(tmp_path, *TRAIN, "test/dent/a7.png", "test/dent/b7.png", "test/good/a7.png")
    trees.mask(root / folder / name.format("a7"), 2, 5)
    trees.mask(root / folder / name.format("b7"), 9)
    split = split_of(root)
    assert judged(split) == {
        "test/dent/a7.png": ("dent", [2, 5]),
        "test/dent/b7.png": ("dent", [9]),
        "test/good/a7.png": ("good", []),
    }
    assert split.left_out == ()


def test_several_masks_of_an_image_and_one_of_none(tmp_path):
    root = trees.write(tmp_path, *TRAIN, "test/dent/0.png", "=ground_truth/dent/9_mask.png")
    trees.mask(root / "ground_truth/dent/0_mask_1.png", 2)
    trees.mask(root / "ground_truth/dent/0_mask(2).png", 6)
    split = split_of(root)
    assert judged(split) == {"test/dent/0.png": ("dent", [2, 6])}
    assert "mask without an image" in causes(split)["ground_truth/dent/9_mask.png"]


def test_masks_by_a_pattern_of_ones_own(tmp_path):
    root = trees.write(tmp_path, *TRAIN, "test/dent/0.png", "=ground_truth/dent/defect 0 seen.png")
    assert judged(split_of(root))["test/dent/0.png"] == ("dent", None)
    pattern = "defect {stem} seen"
    assert judged(split_of(root, mask_pattern=pattern))["test/dent/0.png"] == ("dent", [3])
    for wrong in ("*_seg", "masks/{stem}"):
        with pytest.raises(UsageError, match=r"mask_pattern=.*\{stem\}"):
            split_of(root, mask_pattern=wrong)


def test_a_mask_in_one_folder_for_all_kinds_needs_one_image_of_its_name(tmp_path):
    root = trees.write(
        tmp_path, *TRAIN, "test/dent/0.png", "test/bent/0.png", "=ground_truth/0_mask.png"
    )
    split = split_of(root)
    assert judged(split) == {"test/bent/0.png": ("bent", None), "test/dent/0.png": ("dent", None)}
    assert "mask without an image" in causes(split)["ground_truth/0_mask.png"]


def test_folders_in_folders(tmp_path):
    root = trees.write(
        tmp_path,
        *("train/good/day1/0.png", "train/good/day2/0.png", "test/dent/cam1/0.png"),
        *("test/dent/cam2/0.png", "=ground_truth/dent/cam2/0_mask.png"),
    )
    os.symlink(root / "train", root / "train" / "good" / "day2" / "round")
    split = split_of(root)
    assert split.train_paths == ("train/good/day1/0.png", "train/good/day2/0.png")
    assert judged(split) == {
        "test/dent/cam1/0.png": ("dent", None),
        "test/dent/cam2/0.png": ("dent", [3]),
    }


@pytest.mark.parametrize(
    ("image", "kind", "mask", "value"),
    [("000.png", "scratches", "000_mask.png", 255), ("000.JPG", "bad", "000.png", 1)],
    ids=["MVTec AD and MPDD", "VisA split for one class"],
)
def test_mvtec_ad_and_data_sets_that_are_laid_out_so(tmp_path, image, kind, mask, value):
    root = trees.write(
        tmp_path / "part", f"train/good/{image}", f"test/good/{image}", f"test/{kind}/{image}"
    )
    trees.mask(root / "ground_truth" / kind / mask, 2, 5, value=value)
    split = split_of(root)
    assert (split.layout, split.train_paths) == ("mvtec_ad", (f"train/good/{image}",))
    assert judged(split) == {
        f"test/good/{image}": ("good", []),
        f"test/{kind}/{image}": (kind, [2, 5]),
    }
    assert split.left_out == ()


def test_btad(tmp_path):
    root = trees.write(
        tmp_path / "01",
        *("train/ok/0.bmp", "test/ok/1.bmp", "test/ko/2.bmp", "=ground_truth/ko/2.png"),
    )
    split = split_of(root)
    assert split.layout == "btad"
    assert judged(split) == {"test/ko/2.bmp": ("ko", [3]), "test/ok/1.bmp": ("good", [])}


def test_mvtec_ad_2(tmp_path):
    root = trees.write(
        tmp_path / "can",
        *(*TRAIN, "validation/good/2.png", "test_public/good/3.png", "test_public/bad/4.png"),
        *("=test_public/ground_truth/bad/4_mask.png", "test_private/5.png"),
        "test_private_mixed/6.png",
    )
    split = split_of(root)
    assert split.layout == "mvtec_ad_2"
    assert split.train_paths == (*TRAIN, "validation/good/2.png")
    assert judged(split) == {
        "test_public/bad/4.png": ("bad", [3]),
        "test_public/good/3.png": ("good", []),
    }
    assert causes(split)["test_private"] == "1 images whose truth is not published"


def test_mvtec_loco(tmp_path):
    root = trees.write(
        tmp_path / "box",
        *(*TRAIN, "validation/good/0.png", "test/good/0.png"),
        *("test/logical_anomalies/0.png", "test/structural_anomalies/0.png"),
    )
    trees.mask(root / "ground_truth/logical_anomalies/0/000.png", 2, value=236)
    trees.mask(root / "ground_truth/logical_anomalies/0/001.png", 8, value=241)
    trees.mask(root / "ground_truth/structural_anomalies/0/000.png", 11, value=255)
    split = split_of(root)
    assert split.layout == "mvtec_loco"
    assert judged(split) == {
        "test/good/0.png": ("good", []),
        "test/logical_anomalies/0.png": ("logical_anomalies", [2, 8]),
        "test/structural_anomalies/0.png": ("structural_anomalies", [11]),
    }
    assert split.regions == {}
    assert any("no defects_config.json: sPRO is not computed" in note for note in split.notes)


def test_kinds_beside_each_other(tmp_path):
    root = trees.write(
        tmp_path / "part",
        *("OK/0.png", "OK/1.png", "scratch/2.png", "NG/dent/3.png", "=mask/2_mask.png"),
    )
    split = split_of(root)
    assert split.layout == "kinds"
    assert split.train_paths == ("OK/0.png", "OK/1.png")
    assert judged(split) == {"NG/dent/3.png": ("dent", None), "scratch/2.png": ("scratch", [3])}
    other = split_of(trees.write(tmp_path / "b", "fine/0.png", "torn/1.png"), good_name="fine")
    assert judged(other) == {"torn/1.png": ("torn", None)}


def test_good_images_alone_flat_and_nested(tmp_path):
    flat = split_of(trees.write(tmp_path / "flat", "1.png", "0.png"))
    assert (flat.category, flat.layout) == ("flat", "good_images")
    assert (flat.train_paths, flat.test_paths, flat.warnings) == (("0.png", "1.png"), (), ())
    nested = trees.write(tmp_path / "nested", "a/0.png", "b/c/1.png")
    trees.gray(nested / "runs" / "seed_0" / "picture.png", 3)
    (nested / "runs" / "seed_0" / "flags.txt").write_text("")
    split = split_of(nested)
    assert split.train_paths == ("a/0.png", "b/c/1.png")
    assert causes(split)["runs/seed_0"].startswith("results")
    assert any("2 folders (a, b) are learned as one" in note for note in split.notes)
    assert data.resolve("folder", str(nested), ["b"]) == ("b",)  # one of them alone
    found = layouts.find(layouts.locate(nested, "b"))
    assert [item.path for item in found.train] == ["c/1.png"]


@pytest.mark.parametrize(
    ("paths", "match"),
    [
        (("0.png", "NG/1.png"), "1 images lie in NG.*--layout=good_images"),
        (("fine/0.png", "defects/1.png"), "1 images lie in .*fine.*--good_name=fine"),
        (
            ("fine/0.png", "test/good/1.png"),
            "test, and no train/good .*1 images lie in .*fine: if.*call it train$",
        ),
        (("Test/Good/0.png", "Test/Scratch/1.png"), "Test, and no train/good .*learn from$"),
        (("0.png", "=0_mask.png"), "0_mask.png is named like the mask of another image"),
        (("images/0.png", "=masks/0.png"), "1 images lie in masks"),
        (("train/bad/0.png", "test/good/0.png"), "train: no folder of good images, it holds bad"),
    ],
)
def test_what_may_not_all_be_good_is_not_learned_from(tmp_path, paths, match):
    root = trees.write(tmp_path / "part", *paths)
    with pytest.raises(DataError, match=match):
        split_of(root)
    assert len(split_of(root, layout="good_images").train) == len(paths)


def test_train_without_a_good_folder_and_a_test_that_nobody_has_sorted(tmp_path):
    split = split_of(trees.write(tmp_path, "train/a/0.png", "train/1.png", "test/2.png"))
    assert split.train_paths == ("train/1.png", "train/a/0.png")
    assert split.test_paths == ()
    assert any("nobody knows which are good; experiments.score" in note for note in split.notes)
    assert any("all 2 images are learned from" in note for note in split.notes)


def test_categories_beside_each_other_and_one_level_deeper(tmp_path):
    for name in ("a", "b"):
        trees.write(tmp_path / "set" / name, *TRAIN)
    trees.write(tmp_path / "set" / "c", "0.png")
    assert data.categories("folder", str(tmp_path / "set")) == ("a", "b")
    assert data.resolve("folder", str(tmp_path / "set"), ["c"]) == ("c",)
    with pytest.raises(DataError, match=r"but .*set does: a, b; --data_dir=.*set"):
        data.categories("folder", str(tmp_path))


def test_a_layout_that_is_asked_for(tmp_path):
    root = trees.write(tmp_path / "part", *TRAIN, "test/good/2.png")
    assert split_of(root, layout="mvtec_ad").layout == "mvtec_ad"
    with pytest.raises(UsageError, match=r"--layout=btad: .*part is not laid out so"):
        layouts.find(root, Names("btad"))
    with pytest.raises(UsageError, match="--layout 'visaa'"):
        layouts.find(root, Names("visaa"))


def test_a_split_of_several_says_the_layouts_of_all(tmp_path):
    trees.write(tmp_path / "a", *TRAIN, "test/good/0.png")
    trees.write(tmp_path / "b", "train/ok/0.png", "test/ok/0.png", "test/ko/0.png")
    one, two = (
        dataclasses.replace(
            data.read("folder", str(tmp_path), name, Frame(trees.SIDE), 0), groups=()
        )
        for name in "ab"
    )
    joined = joint.join([one, two])
    assert joined.layout == "btad+mvtec_ad"
    assert "b: train/ok is taken for good images" in joined.notes


NORMAL, ANOMALY = "Data/Images/Normal", "Data/Images/Anomaly"


@pytest.mark.parametrize("with_split", [True, False])
def test_visa_as_it_is_downloaded(tmp_path, with_split):
    root = trees.write(
        tmp_path / "visa" / "candle",
        *(f"{NORMAL}/0000.JPG", f"{NORMAL}/0001.JPG", f"{ANOMALY}/000.JPG", f"{ANOMALY}/001.JPG"),
    )
    trees.mask(root / "Data/Masks/Anomaly/000.png", 4, value=1)
    (root / "image_anno.csv").write_text(
        "image,label,mask\n"
        f'candle/{ANOMALY}/000.JPG,"wax, melted",candle/Data/Masks/Anomaly/000.png\n'
    )
    if with_split:
        (tmp_path / "visa/split_csv").mkdir()
        (tmp_path / "visa/split_csv/1cls.csv").write_text(
            "object,split,label,image,mask\n"
            f"candle,train,normal,candle/{NORMAL}/0000.JPG,\n"
            f"candle,test,normal,candle/{NORMAL}/0001.JPG,\n"
            f"candle,test,anomaly,candle/{ANOMALY}/000.JPG,candle/Data/Masks/Anomaly/000.png\n"
            "fryum,train,normal,fryum/Data/Images/Normal/0000.JPG,\n"
        )
    assert data.categories("folder", str(tmp_path / "visa")) == ("candle",)
    split = split_of(root)
    assert split.layout == "visa"
    assert split.train_paths == tuple(f"{NORMAL}/000{i}.JPG" for i in range(2 - with_split))
    found = judged(split)
    assert found.pop(f"{ANOMALY}/000.JPG") == ("wax, melted", [4])
    rest = {f"{NORMAL}/0001.JPG": ("good", [])}
    assert found == (rest if with_split else {f"{ANOMALY}/001.JPG": ("anomaly", None)})


@pytest.mark.parametrize("where", ["realiad_jsons/realiad_jsons", "realiad_1024", None])
def test_real_iad(tmp_path, where):
    root = trees.write(
        tmp_path / "realiad_1024" / "mint",
        *("OK/S0001/a_OK_C1.jpg", "OK/S0002/b_OK_C1.jpg", "NG/BX/S0003/c_NG_C1.jpg"),
        *("=NG/BX/S0003/c_NG_C1.png", "NG/AK/S0004/d_NG_C1.jpg"),
    )
    if where:
        entry = {"image_path": "", "mask_path": None, "anomaly_class": "OK"}
        bad = {"image_path": "NG/BX/S0003/c_NG_C1.jpg", "anomaly_class": "BX"}
        split = {
            "meta": {"normal_class": "OK", "prefix": "mint/"},
            "train": [
                entry | {"image_path": "OK/S0001/a_OK_C1.jpg"},
                {"image_path": "NG/AK/S0004/d_NG_C1.jpg", "anomaly_class": "AK"},
            ],
            "test": [
                entry | {"image_path": "OK/S0002/b_OK_C1.jpg"},
                bad | {"mask_path": "NG/BX/S0003/c_NG_C1.png"},
            ],
        }
        (tmp_path / where).mkdir(parents=True, exist_ok=True)
        (tmp_path / where / "mint.json").write_text(json.dumps(split))
    split = split_of(root)
    assert split.layout == "real_iad"
    found = judged(split)
    assert found.pop("NG/BX/S0003/c_NG_C1.jpg") == ("BX", [3])
    if where:
        assert found == {"OK/S0002/b_OK_C1.jpg": ("good", [])}
        assert "not learned from" in causes(split)["NG/AK/S0004/d_NG_C1.jpg"]
    else:
        assert found == {"NG/AK/S0004/d_NG_C1.jpg": ("AK", None)}
        assert len(split.train) == 2


def test_kolektor_sdd2(tmp_path):
    root = trees.write(tmp_path, "train/1.png", "train/2.png", "test/3.png", "test/4.png")
    for part, name, rows in (
        ("train", 1, ()),
        ("train", 2, (5,)),
        ("test", 3, ()),
        ("test", 4, (6,)),
    ):
        trees.mask(root / part / f"{name}_GT.png", *rows)
    split = split_of(root)
    assert (split.layout, split.train_paths) == ("kolektor_sdd2", ("train/1.png",))
    assert judged(split) == {"test/3.png": ("good", []), "test/4.png": ("defect", [6])}
    assert causes(split) == {"train/2.png": "defective, so it is not learned from"}


@pytest.mark.parametrize("form", ["csv", "semicolons", "json", "its own path"])
def test_a_table_of_images(tmp_path, form):
    root = trees.write(tmp_path / "part", "a/0.png", "a/1.png", "b/2.png", "b/3.png", "=m/3.png")
    rows = [
        {"path": "a/0.png", "label": "0", "mask": None, "split": "train"},
        {"path": "a/1.png", "label": "OK", "mask": None, "split": "test"},
        {"path": "b/2.png", "label": "1", "mask": None, "split": "train"},
        {"path": "b/3.png", "label": "dent", "mask": "m/3.png", "split": "test"},
    ]
    if form == "json":
        (root / "images.json").write_text(json.dumps(rows))
    else:
        comma = ";" if form == "semicolons" else ","
        lines = [comma.join(["Image", "Label", "Mask", "Split"])]
        lines += [comma.join(value or "" for value in row.values()) for row in rows]
        (root / "images.csv").write_text("\n".join(lines), encoding="utf-8-sig")
    where = root / "images.csv" if form == "its own path" else root
    (name,) = data.categories("folder", str(where))
    assert name == ("images" if form == "its own path" else "part")
    split = data.read("folder", str(where), name, Frame(trees.SIDE), 0)
    assert (split.layout, split.train_paths) == ("listed", ("a/0.png",))
    assert judged(split) == {"a/1.png": ("good", []), "b/3.png": ("dent", [3])}
    assert causes(split) == {"b/2.png": "defective, so it is not learned from"}


def test_what_is_wrong_with_a_table_is_said(tmp_path):
    trees.write(tmp_path, "0.png", "1.png")
    for line, match in (
        ("0.png,good,tset", "record 1: split 'tset' is neither train nor test"),
        ("0.png,,", "record 1 has no label"),
        ("0.png,good,\n.,good,", "record 2 has no path"),
        ("0.png,good,\n0.png,1,", "record 2: 0.png stands above, too"),
        ("0.png,dent,", "no good image to learn from"),
    ):
        (tmp_path / "x.csv").write_text(f"path,label,split\n{line}\n")
        with pytest.raises(DataError, match=match):
            layouts.find(tmp_path)
    (tmp_path / "y.csv").write_text("path,label\n0.png,good\n")
    with pytest.raises(UsageError, match=r"x.csv and y.csv could list.*--data_dir=.*x.csv"):
        layouts.find(tmp_path)
