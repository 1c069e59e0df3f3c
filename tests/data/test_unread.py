"""Pictures that are not read are counted and named, not passed over."""

import layout_trees as trees
import pytest
from layout_trees import causes, split_of

from cae_jax import data
from cae_jax.data.frame import Frame
from cae_jax.runs import job
from cae_jax.runs.config import configure
from cae_jax.serving import folder as scoring
from cae_jax.types import DataError


def put(root, *paths):
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(b"\0")
    return root


@pytest.mark.parametrize(
    ("paths", "match"),
    [
        (("0.heic", "1.HEIC"), "found 2 .heic files .HEIC photo.*magick mogrify -format png .*.he"),
        (("a/0.HEIF",), "found 1 .heif file .*is not read"),
        (("0.nef", "1.CR2", "2.cr2"), "found 2 .cr2 files .raw.*darktable.*; found 1 .nef file "),
        (("good/0.dng", "bad/0.dng"), "found 2 .dng files"),
        (("train/good/0.jxl", "test/good/1.jxl"), "good: no image in it; found 1 .jxl file"),
        (("train/0.mp4",), "found 1 .mp4 file .videos.*ffmpeg"),
        (("train/0.gif", "test/a/0.png"), "train: no image in it; found 1 .gif file"),
        (("part.zip",), "found 1 .zip file .*unpack"),
        ((".hidden.heic",), "holds no category and no image; see docs"),
    ],
)
def test_a_folder_of_them_alone_is_not_called_empty(tmp_path, paths, match):
    with pytest.raises(DataError, match=match):
        split_of(put(tmp_path / "part", *paths))


def test_among_others_they_are_left_out_and_counted(tmp_path):
    root = trees.write(tmp_path / "part", "0.png", "1.png")
    split = split_of(put(root, "2.heic", "more/3.heic", "film.mov", "notes.txt"))
    assert split.train_paths == ("0.png", "1.png")
    assert "HEIC" in causes(split)["more/3.heic"]
    (note,) = [note for note in split.notes if note.startswith("found")]
    assert "2 .heic files" in note
    assert "1 .mov file (" in note
    assert ".txt" not in note


def test_a_good_folder_without_a_picture_that_is_read_makes_no_defect_good(tmp_path):
    root = put(trees.write(tmp_path / "part", "scratch/0.png"), "good/0.heic")
    with pytest.raises(DataError, match=r"no good image to learn from .layout kinds.; found 1 .he"):
        split_of(root)


def test_images_to_score(tmp_path):
    with pytest.raises(DataError, match=r"no image in it; found 1 .arw file"):
        scoring.find(put(tmp_path, "0.ARW"))


@pytest.mark.parametrize("of", ["train/good", "good", "", "train"])
def test_a_category_of_them_alone_is_named_among_others(tmp_path, of):
    trees.write(tmp_path / "a", "train/good/0.png", "train/good/1.png")
    put(tmp_path / "b" / of, "0.heic", "1.HEIC")
    put(tmp_path / "papers", "0.pdf", "1.txt")
    (tmp_path / "empty").mkdir()
    assert data.categories("folder", str(tmp_path)) == ("a", "b")
    with pytest.raises(DataError, match=r"no image in it.*; found 2 .heic files .HEIC photographs"):
        data.read("folder", str(tmp_path), "b", Frame(8, 1), 0)


def test_a_folder_that_is_not_among_all_categories_is_said(tmp_path, capsys):
    trees.write(tmp_path / "a", "train/good/0.png", "train/good/1.png")
    trees.write(tmp_path / "flat", "0.png", "1.png")
    put(tmp_path / "gone", "0.heic")
    config = configure(method="variation_model", dataset="folder", data_dir=str(tmp_path))
    assert [cell.config.category for cell in job.plan([config])] == ["a", "gone"]
    assert "flat: passed over, for nothing there says which images are good; --category=flat" in (
        capsys.readouterr().err
    )
    (cell,) = job.plan([config.changed(category="flat")])
    assert cell.config.category == "flat"
    assert capsys.readouterr().err == ""
    assert data.passed_over("folder", str(tmp_path / "flat"), ["all"]) == ()
