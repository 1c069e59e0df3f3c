"""The tensorflow_datasets builder against the folder reader, without TensorFlow."""

import dataclasses
import json
import pathlib
import sys

import numpy as np
import pytest
from PIL import Image

from cae_jax import data
from cae_jax.data.frame import Frame

tfds = pytest.importorskip("tensorflow_datasets")

from cae_jax.data import mvtec_ad  # noqa: E402 - the line above skips where it cannot be imported
from cae_jax.types import DataError, UsageError  # noqa: E402

SIZE = 24


@pytest.fixture(scope="module", autouse=True)
def _no_bars():
    tfds.disable_progress_bar()


def write_category(root: pathlib.Path) -> None:
    """Noise in the layout: 3 training, 2 good and 3 defective test images, one without a mask."""
    rng = np.random.default_rng(0)
    files = {
        "train/good/000.png": (40, 32, 3),
        "train/good/001.jpg": (40, 32, 3),
        "train/good/002.png": (64, 48),
        "test/good/000.png": (40, 32),
        "test/good/001.png": (33, 50, 3),
        "test/scratch/000.png": (40, 32, 3),
        "test/scratch/001.png": (40, 32),
        "test/thread/000.png": (33, 50, 3),
        "ground_truth/scratch/000_mask.png": (40, 32),
        "ground_truth/thread/000_mask.png": (33, 50),
    }
    for name, shape in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, shape, np.uint8)
        if name.startswith("ground_truth"):
            pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))
        Image.fromarray(pixels).save(root / name)


@pytest.fixture
def data_dir(tmp_path) -> pathlib.Path:
    """A data_dir whose downloads/manual holds the category screw."""
    write_category(tmp_path / "downloads" / "manual" / "screw")
    return tmp_path


def read(data_dir, **kwargs):
    return data.read("mvtec_ad", str(data_dir), "screw", Frame(SIZE, 1), 0, **kwargs)


def assert_equal_splits(got, want):
    for field in dataclasses.fields(want):
        if field.name not in ("dataset", "layout"):
            a, b = getattr(got, field.name), getattr(want, field.name)
            np.testing.assert_array_equal(a, b, err_msg=field.name)


@pytest.mark.parametrize("channels", [1, 3])
def test_read_equals_the_folder_reader(data_dir, channels, capsys):
    manual = str(data_dir / "downloads" / "manual")
    want = data.read("folder", manual, "screw", Frame(SIZE, channels), 0)
    got = data.read("mvtec_ad", str(data_dir), "screw", Frame(SIZE, channels), 0)
    assert_equal_splits(got, want)
    assert got.dataset == "mvtec_ad"
    assert [entry.path for entry in got.left_out] == ["test/scratch/001.png"]
    assert len(got.warnings) == 5  # Table 1's three counts, soft masks, that they are squeezed
    assert data.fingerprint(got) == data.fingerprint(want)
    assert capsys.readouterr().out == ""
    # The records are all that is needed from here on.
    (data_dir / "downloads").rename(data_dir / "away")
    assert data.categories("mvtec_ad", str(data_dir)) == ("screw",)
    assert_equal_splits(
        data.read("mvtec_ad", str(data_dir), "screw", Frame(SIZE, channels), 0), want
    )


def test_prepared_and_read_through_tensorflow_datasets_alone(tmp_path):
    manual = tmp_path / "manual"
    root = manual / "mvtec_anomaly_detection" / "screw"
    write_category(root)
    builder = tfds.builder("mvtec_ad/screw", data_dir=tmp_path, file_format="array_record")
    config = tfds.download.DownloadConfig(manual_dir=manual, try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
    assert {k: v.num_examples for k, v in builder.info.splits.items()} == {"train": 3, "test": 5}

    records = list(tfds.data_source("mvtec_ad/screw", data_dir=tmp_path, split="test"))
    assert {record["path"].decode() for record in records} == {
        path.relative_to(root).as_posix() for path in (root / "test").rglob("*.png")
    }
    names = builder.info.features["label"].names
    for record in records:
        path = record["path"].decode()
        kind, stem = path.split("/")[1], pathlib.PurePath(path).stem
        pixels = np.asarray(Image.open(root / path))
        pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=-1)
        np.testing.assert_array_equal(record["image"], pixels)
        assert record["defect_kind"].decode() == kind
        assert names[record["label"]] == ("good" if kind == "good" else "defective")
        file = root / "ground_truth" / kind / f"{stem}_mask.png"
        assert record["has_mask"] == (kind == "good" or file.exists())
        mask = np.asarray(Image.open(file)) if file.exists() else np.zeros(pixels.shape[:2])
        np.testing.assert_array_equal(record["mask"][..., 0], mask)
    assert "tensorflow" not in sys.modules


def test_the_records_hold_the_files_bytes(data_dir):
    read(data_dir)
    skip = {"image": tfds.decode.SkipDecoding()}
    source = tfds.data_source("mvtec_ad/screw", data_dir=data_dir, split="train", decoders=skip)
    root = data_dir / "downloads" / "manual" / "screw"
    for record in source:
        assert record["image"] == (root / record["path"].decode()).read_bytes()


def test_every_category_of_the_paper_is_a_config():
    names = [config.name for config in mvtec_ad.MvtecAd.BUILDER_CONFIGS]
    assert (len(names), names[0], names[-1]) == (15, "bottle", "zipper")
    assert "mvtec_ad" in tfds.list_builders(with_community_datasets=False)


def test_a_bad_image_is_stored_and_named_when_read(data_dir):
    bad = data_dir / "downloads" / "manual" / "screw" / "test" / "good" / "001.png"
    bad.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"mvtec_ad/screw/test/good/001.png: is a text file"):
        read(data_dir)
    manual = str(data_dir / "downloads" / "manual")
    want = data.read("folder", manual, "screw", Frame(SIZE, 1), 0, on_bad_image="skip")
    assert len(want.test) == 4
    assert_equal_splits(read(data_dir, on_bad_image="skip"), want)


def test_a_mask_of_another_size_is_stored_and_named_when_read(data_dir):
    mask = data_dir / "downloads" / "manual" / "screw" / "ground_truth/thread/000_mask.png"
    Image.new("L", (32, 40), 255).save(mask)
    with pytest.raises(DataError, match=r"screw/ground_truth/thread/000_mask.png: .*32 x 40"):
        read(data_dir)
    split = read(data_dir, on_bad_image="skip")
    np.testing.assert_array_equal(split.has_mask, [True, True, True, False, False])


def test_what_is_missing_is_said_with_where_it_belongs(tmp_path, data_dir):
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError) as error:
        data.categories("mvtec_ad", str(empty))
    for part in (
        f"{empty}/downloads/manual",
        "tar.xz",
        "https://www.mvtec.com",
        "--dataset=folder",
    ):
        assert part in str(error.value)
    with pytest.raises(DataError, match="no pill/train/good"):
        mvtec_ad.read(data_dir, "pill", Frame(SIZE, 1))
    with pytest.raises(UsageError, match="category 'scrw': did you mean screw"):
        data.resolve("mvtec_ad", str(data_dir), ["scrw"])
    test = data_dir / "downloads" / "manual" / "screw" / "test"
    test.rename(tmp_path / "away")
    with pytest.raises(DataError, match="screw/test: no such folder"):
        read(data_dir)
    assert not (data_dir / "mvtec_ad" / "screw" / "1.0.0").exists()  # nothing half-made
    (tmp_path / "away").rename(test)
    assert len(read(data_dir).test) == 5


def test_a_half_made_folder_is_replaced_and_another_format_is_refused(data_dir):
    folder = data_dir / "mvtec_ad" / "screw" / "1.0.0"
    folder.mkdir(parents=True)
    assert len(read(data_dir).train) == 3
    info = folder / "dataset_info.json"
    written = json.loads(info.read_text())
    assert written["fileFormat"] == "array_record"
    info.write_text(json.dumps({**written, "fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=r"screw/1.0.0: written as tfrecord.*TensorFlow"):
        read(data_dir)
