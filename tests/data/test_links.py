"""Links are followed, and those that go round in a circle are not."""

import os

import layout_trees as trees
import pytest
from layout_trees import causes, judged, split_of

from cae_jax import data
from cae_jax.serving import folder as scoring


@pytest.mark.parametrize("target", [".", "..", "../..", "sub"])
def test_good_images_with_a_link_to_a_folder_above(tmp_path, target):
    trees.write(tmp_path / "other" / "test", "good/7.png", "bad/8.png")
    trees.write(tmp_path / "parts" / "beside", "train/good/8.png", "test/a/9.png")
    root = trees.write(tmp_path / "parts" / "flat", "0.png", "1.png", "sub/2.png")
    where = root / "sub" / "up" if target == "sub" else root / "up"
    os.symlink(root if target == "sub" else root / target, where)
    assert data.categories("folder", str(root)) == ("flat",)
    split = split_of(root)
    assert split.train_paths == ("0.png", "1.png", "sub/2.png")
    path = where.relative_to(root).as_posix()
    assert "a link to a folder that it lies in" in causes(split)[path]
    assert any(note.startswith(f"{path}: a link") for note in split.notes)
    assert scoring.find(root) == ["0.png", "1.png", "sub/2.png"]


def test_by_a_link_to_the_folder_itself(tmp_path):
    root = trees.write(tmp_path / "store" / "flat", "0.png")
    trees.write(tmp_path / "store" / "other", "9.png")
    os.symlink("..", root / "up")
    os.symlink(root, tmp_path / "mine")
    assert split_of(tmp_path / "mine").train_paths == ("0.png",)


def test_two_folders_that_lead_to_each_other_and_one_that_leads_on(tmp_path):
    root = trees.write(tmp_path / "part", "a/0.png", "b/1.png")
    trees.write(tmp_path / "far", "2.png")
    os.symlink("../b", root / "a" / "b")
    os.symlink("../a", root / "b" / "a")
    os.symlink("../far", root / "far")
    os.symlink("nowhere", root / "lost")
    os.symlink("round", root / "round")
    split = split_of(root)
    assert split.train_paths == ("a/0.png", "a/b/1.png", "b/1.png", "b/a/0.png", "far/2.png")


def test_a_kind_that_leads_back(tmp_path):
    root = trees.write(tmp_path / "part", "train/good/0.png", "test/dent/1.png")
    os.symlink("..", root / "test" / "round")
    split = split_of(root)
    assert judged(split) == {"test/dent/1.png": ("dent", None)}
    assert "a link to" in causes(split)["test/round"]
