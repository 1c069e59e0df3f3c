"""Data sets of tensorflow_datasets by their names, made here and read without TensorFlow."""

import io
import json
import sys

import numpy as np
import pytest
from PIL import Image

from cae_jax import data
from cae_jax.data.frame import Frame
from cae_jax.data.layouts.found import Names
from cae_jax.runs import job
from cae_jax.runs.config import configure
from cae_jax.types import DataError, UsageError

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")

SIDE = 8
_IMAGE = tfds.features.Image(shape=(None, None, 1))
_MASK = tfds.features.Image(shape=(None, None, 1))


@pytest.fixture(scope="module", autouse=True)
def _no_bars():
    tfds.disable_progress_bar()


def png(array):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


def gray(level):
    return np.full((SIDE, SIDE), level, np.uint8)


def rows(*which, value=255):
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[list(which)] = value
    return mask


def make(folder, features, splits, config="", version="1.0.0", form="array_record", keys=None):
    """Prepares a data set "parts": {split: [record, ...]}."""

    class Parts(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "parts"
        VERSION = tfds.core.Version(version)
        BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=config)] if config else []

        def _info(self):
            known = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, features=known, supervised_keys=keys)

        def _split_generators(self, dl_manager):
            return {name: enumerate(records) for name, records in splits.items()}

        def _generate_examples(self):
            raise NotImplementedError

    builder = Parts(data_dir=folder, file_format="array_record", **{"config": config or None})
    builder.download_and_prepare()
    if form != "array_record":
        path = builder.data_path / "dataset_info.json"
        path.write_text(path.read_text().replace('"array_record"', f'"{form}"'))
    return folder


def read(folder, category="parts", **names):
    return data.read("tfds", str(folder), category, Frame(SIDE, 1), 0, names=Names(**names))


def judged(split):
    """{path: (kind, rows of its mask, or None where it has none)}."""
    return {
        path: (kind, np.flatnonzero(mask.all(axis=1)).tolist() if known else None)
        for path, kind, mask, known in zip(
            split.test_paths, split.kinds, split.masks, split.has_mask, strict=True
        )
    }


def test_image_label_and_mask_by_classes(tmp_path):
    features = {
        "image": _IMAGE,
        "mask": _MASK,
        "label": tfds.features.ClassLabel(names=["good", "dent"]),
        "image_path": tfds.features.Text(),
    }
    train = [
        {"image": png(gray(10 + i)), "mask": png(rows()), "label": "good", "image_path": f"{i}.png"}
        for i in range(3)
    ]
    train.append({**train[0], "label": "dent", "image_path": "bad.png"})
    test = [
        {"image": png(gray(99)), "mask": png(rows()), "label": 0, "image_path": "C:\\a\\..\\0.png"},
        {"image": png(gray(98)), "mask": png(rows(2, 5)), "label": 1, "image_path": "/x/1.png"},
        {"image": png(gray(97)), "mask": png(rows()), "label": -1, "image_path": "2.png"},
    ]
    make(tmp_path, features, {"train": train, "test": test, "extra": test[:1]})
    split = read(tmp_path)
    assert split.train_paths == ("train/0.png", "train/1.png", "train/2.png")
    assert (split.dataset, split.category) == ("tfds", "parts")
    np.testing.assert_allclose(split.train[:, 0, 0, 0], np.array([10, 11, 12]) / 255)
    assert judged(split) == {
        "test/a/0.png": ("good", []),
        "test/x/1.png": ("dent", [2, 5]),
    }
    assert [entry.path for entry in split.left_out] == ["test/2.png", "train/bad.png"]
    assert any("extra: neither train nor test" in note for note in split.notes)
    assert "tensorflow" not in sys.modules


def test_a_label_alone_and_another_name_for_good(tmp_path):
    features = {"x": _IMAGE, "y": tfds.features.ClassLabel(names=["cat", "dog", "owl"])}
    records = [{"x": png(gray(i)), "y": i % 3} for i in range(6)]
    make(tmp_path, features, {"train": records, "test": records}, keys=("x", "y"))
    with pytest.raises(DataError, match=r"parts:1.0.0: its classes are cat, dog, owl; which is go"):
        read(tmp_path)
    with pytest.raises(UsageError, match="--good_name 'dgo': did you mean dog"):
        read(tmp_path, good_name="dgo")
    split = read(tmp_path, good_name="dog")
    assert len(split.train) == 2
    assert sorted(split.kinds) == ["cat", "cat", "good", "good", "owl", "owl"]
    assert not split.has_mask[split.labels == 1].any()


def test_a_mask_of_yes_and_no_alone_says_what_is_good(tmp_path):
    features = {
        "image": tfds.features.Tensor(shape=(SIDE, SIDE, 3), dtype=np.uint16),
        "mask": tfds.features.Tensor(shape=(SIDE, SIDE), dtype=np.bool_),
    }
    color = np.stack([gray(1), gray(2), gray(3)], axis=-1).astype(np.uint16) * 1000
    one = {"image": color, "mask": rows().astype(bool)}
    bad = {"image": color, "mask": rows(4).astype(bool)}
    make(tmp_path, features, {"train": [one, bad, one], "validation": [bad, one]})
    split = data.read("tfds", str(tmp_path), "parts", Frame(SIDE, 3), 0)
    np.testing.assert_allclose(split.train[0, 0, 0], np.array([1000, 2000, 3000]) / 65535)
    assert len(split.train) == 2
    assert sorted(judged(split).values()) == [("defect", [4]), ("good", [])]


def test_one_split_is_divided_by_its_labels(tmp_path):
    features = {
        "inner": {"image": _IMAGE, "is_anomaly": tfds.features.Scalar(np.bool_)},
        "defect_type": tfds.features.Text(),
    }
    records = [
        {"inner": {"image": png(gray(i)), "is_anomaly": i > 4}, "defect_type": "dent" * (i > 4)}
        for i in range(6)
    ]
    make(tmp_path, features, {"samples": records})
    split = read(tmp_path)
    assert len(split.train) == 5
    assert split.kinds == ("dent",)
    assert sorted(read(tmp_path, test_fraction=0.4).kinds) == ["dent", "good", "good"]


def test_good_images_alone(tmp_path):
    make(tmp_path, {"image": _IMAGE}, {"train": [{"image": png(gray(7))}] * 2})
    split = read(tmp_path)
    assert (split.train_paths, split.test_paths) == (("train/000000", "train/000001"), ())
    assert any("all of train counts as good" in note for note in split.notes)


def test_configs_and_versions_by_name(tmp_path):
    features = {"image": _IMAGE, "label": tfds.features.Scalar(np.int64)}
    for config, version, level in (("a", "1.2.0", 1), ("a", "1.10.0", 2), ("b.c", "1.0.0", 3)):
        records = [{"image": png(gray(level)), "label": 0}]
        make(tmp_path, features, {"train": records}, config, version)
    assert data.categories("tfds", str(tmp_path)) == ("parts.a", "parts.b.c")
    for asked, level in (
        *(("parts/a", 2), ("a", 2), ("parts.a", 2), ("parts/a:1.2.0", 1)),
        *(("a@1.10.0", 2), ("parts/b.c", 3), ("b.c", 3)),
    ):
        (name,) = data.resolve("tfds", str(tmp_path), [asked])
        assert "/" not in name
        assert round(255 * float(read(tmp_path, name).train[0, 0, 0, 0])) == level
    assert data.resolve("tfds", str(tmp_path / "parts"), ["all"]) == ("parts.a", "parts.b.c")
    assert data.resolve("tfds", str(tmp_path), ["parts"]) == ("parts.a", "parts.b.c")
    assert data.resolve("tfds", str(tmp_path / "parts/a/1.2.0"), []) == ("parts.a",)
    with pytest.raises(UsageError, match=r"category 'parts.d': did you mean parts"):
        data.resolve("tfds", str(tmp_path), ["parts/d"])
    with pytest.raises(UsageError, match=r"category 'parts.a:2.0.0': did you mean parts.a@"):
        data.resolve("tfds", str(tmp_path), ["parts/a:2.0.0"])


@pytest.mark.parametrize(
    ("features", "splits", "match"),
    [
        ({"text": tfds.features.Text()}, {"train": [{"text": "a"}]}, "no feature is an image; its"),
        (
            {"left": _IMAGE, "right": _IMAGE},
            {"train": [{"left": png(gray(1)), "right": png(gray(1))}]},
            "left or right could be the image",
        ),
        (
            {"image": _IMAGE, "boxes": tfds.features.Sequence(tfds.features.BBoxFeature())},
            {"train": [{"image": png(gray(1)), "boxes": []}]},
            "no label and no mask among its features, boxes, image",
        ),
        (
            {"image": _IMAGE, "label": tfds.features.Text()},
            {"train": [{"image": png(gray(1)), "label": "gut"}], "test": []},
            r"no good image .* feature label; it says gut: --good_name",
        ),
        (
            {"image": _IMAGE},
            {"test": [{"image": png(gray(1))}], "query": [{"image": png(gray(1))}]},
            "no split called train among test, query",
        ),
    ],
)
def test_what_cannot_be_known_is_asked_in_one_line(tmp_path, features, splits, match):
    splits = {name: records for name, records in splits.items() if records}
    make(tmp_path, features, splits)
    with pytest.raises(DataError, match=match) as error:
        read(tmp_path)
    assert "\n" not in str(error.value)


def test_what_needs_tensorflow_is_told_with_what_to_do(tmp_path):
    make(tmp_path, {"image": _IMAGE}, {"train": [{"image": png(gray(7))}]}, form="tfrecord")
    with pytest.raises(DataError, match=r"tfrecord, which only TensorFlow.*format=.array_record"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no data set that tensorflow_datasets prepared, no NAME/"):
        data.categories("tfds", str(tmp_path / "downloads"))


def test_records_that_are_lost_are_told(tmp_path):
    make(tmp_path, {"image": _IMAGE}, {"train": [{"image": png(gray(7))}]})
    (shard,) = tmp_path.rglob("*-of-00001")
    shard.unlink()
    with pytest.raises(DataError, match=r"parts/1.0.0: cannot be read: "):
        read(tmp_path)
    info = tmp_path / "parts/1.0.0/dataset_info.json"
    info.write_text(info.read_text()[:40])
    with pytest.raises(DataError, match=r"dataset_info.json: cannot be read"):
        read(tmp_path)


def test_floats_and_files_of_any_kind_keep_their_values(tmp_path):
    stream = io.BytesIO()
    wide = (np.arange(SIDE * SIDE, dtype=np.uint16) * 1000).reshape(SIDE, SIDE)
    Image.fromarray(wide).save(stream, "TIFF")
    features = {"image": _IMAGE}
    make(tmp_path / "a", features, {"train": [{"image": stream.getvalue()}]})
    np.testing.assert_allclose(read(tmp_path / "a").train[0, ..., 0], wide / 65535)
    features = {"image": tfds.features.Tensor(shape=(SIDE, SIDE), dtype=np.float32)}
    real = np.linspace(0, 1, SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE)
    make(tmp_path / "b", features, {"train": [{"image": real}]})
    np.testing.assert_array_equal(read(tmp_path / "b").train[0, ..., 0], real)


def test_a_run_by_name(tmp_path, capsys):
    features = {"image": _IMAGE, "label": tfds.features.Scalar(np.int64)}
    levels = np.random.default_rng(0).integers(0, 256, (12, SIDE, SIDE), np.uint8)
    records = [{"image": png(each), "label": 0} for each in levels]
    test = [*records[:2], {"image": png(gray(255)), "label": 1}]
    make(tmp_path / "in", features, {"train": records[2:], "test": test}, "a")
    config = configure(
        **{"method": "variation_model", "dataset": "tfds", "data_dir": str(tmp_path / "in")},
        **{"category": "parts/a", "image_size": SIDE, "workdir": str(tmp_path / "out")},
    )
    (cell,) = job.plan([config])
    assert cell.folder.parts[-3] == "parts.a"
    assert job.run(config)["n_defective"].tolist() == [1]
    capsys.readouterr()
    job.run(config)
    assert "finished before" in capsys.readouterr().err
    make(tmp_path / "in", features, {"train": records, "test": test}, "a", "1.1.0")
    with pytest.raises(DataError, match="2 training images more"):
        job.run(config)
    told = json.loads((cell.folder / "metrics.json").read_text())
    assert (told["dataset"], told["category"]) == ("tfds", "parts.a")
