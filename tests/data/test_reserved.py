"""Folders that a layout reserves, in capitals that nobody planned."""

import os

import layout_trees as trees
import pytest
from layout_trees import judged, split_of

from cae_jax import data
from cae_jax.data import layouts
from cae_jax.types import DataError, UsageError


@pytest.mark.parametrize(
    ("train", "test", "truth", "said"),
    [
        ("train", "test", "ground_truth", ""),
        ("Train", "Test", "Ground_Truth", "Train is train, Test is test, Ground_Truth is ground_t"),
        ("TRAIN", "test", "ground_truth", "TRAIN is train"),
        ("train", "Test", "GroundTruth", "Test is test, GroundTruth is groundtruth"),
        ("Training", "Testing", "Masks", "Training is train, Testing is test, Masks is masks"),
    ],
)
def test_parts_in_any_capitals(tmp_path, train, test, truth, said):
    root = trees.write(
        tmp_path / "part",
        *(f"{train}/Good/0.png", f"{test}/GOOD/1.png", f"{test}/Scratch/2.png"),
    )
    trees.mask(root / truth / "scratch" / "2_mask.png", 4, 6)
    assert data.categories("folder", str(tmp_path)) == ("part",)
    assert data.categories("folder", str(root)) == ("part",)
    split = split_of(root)
    assert split.layout == "mvtec_ad"
    assert split.train_paths == (f"{train}/Good/0.png",)
    assert judged(split) == {
        f"{test}/GOOD/1.png": ("good", []),
        f"{test}/Scratch/2.png": ("Scratch", [4, 6]),
    }
    assert split.left_out == ()
    notes = [note for note in split.notes if note.startswith("taken by names in other")]
    assert (said in notes[0]) if said else not notes


@pytest.mark.parametrize("other", ["Train/good/1.png", "Test/good/1.png", "Ground_truth/a/1.png"])
def test_two_spellings_of_a_part_are_asked_about(tmp_path, other):
    root = trees.write(
        tmp_path, "train/good/0.png", "test/a/1.png", "=ground_truth/a/1_mask.png", other
    )
    if len(os.listdir(root)) < 4:
        pytest.skip("a file system without capitals")
    name = other.split("/")[0]
    with pytest.raises(DataError, match=f"holds {name} and {name.lower()}, folders of one name"):
        split_of(root)


def test_the_test_of_a_category_is_none(tmp_path):
    root = trees.write(tmp_path / "part", "Train/OK/0.png", "Test/OK/1.png", "Test/Dent/2.png")
    with pytest.raises(UsageError, match=r"--category=Test: .*part is judged by.*--data_dir="):
        layouts.locate(root, "Test")


@pytest.mark.parametrize(
    ("layout", "paths", "learned"),
    [
        ("btad", ("Train/OK/0.png", "Test/KO/1.png"), 1),
        ("mvtec_ad_2", ("Train/Good/0.png", "Validation/Good/0.png", "Test_Public/Bad/1.png"), 2),
        ("mvtec_loco", ("Train/Good/0.png", "Test/Logical_Anomalies/1.png"), 1),
        ("visa", ("data/images/normal/0.png", "data/images/anomaly/1.png"), 1),
        ("real_iad", ("Ok/S0001/0.png", "Ng/AK/S0002/1.png"), 1),
        ("kolektor_sdd2", ("Train/0.png", "=Train/1_GT.png", "Train/1.png", "TEST/2.png"), 1),
    ],
)
def test_layouts_of_data_sets_in_other_capitals(tmp_path, layout, paths, learned):
    root = trees.write(tmp_path / "part", *paths)
    split = split_of(root)
    assert (split.layout, len(split.train), len(split.test)) == (layout, learned, 1)
