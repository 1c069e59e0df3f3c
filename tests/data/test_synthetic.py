"""The built-in data set: repeatable, exact in its masks, and without a shortcut to the label."""

import pathlib

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score

from cae_jax.data import synthetic
from cae_jax.types import GOOD, UsageError

FEW = {"n_train": 2, "n_good": 2, "n_defective_per_kind": 1}


def read(category: str, image_size: int = 64, channels: int = 1, seed: int = 0, **counts):
    return synthetic.read(category, image_size, channels, seed, **(counts or FEW))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("image_size", [32, 97])
@pytest.mark.parametrize("category", synthetic.CATEGORIES)
def test_split_holds_every_kind(category, image_size, channels):
    split = read(category, image_size, channels)
    side = (image_size, image_size)
    names = sorted([f"test/{kind}/000.png" for kind in synthetic.kinds(category)])
    assert len(names) >= 3
    assert split.dataset == "synthetic"
    assert split.category == category
    assert split.train_paths == ("train/good/000.png", "train/good/001.png")
    assert split.test_paths == tuple(sorted([*names, "test/good/000.png", "test/good/001.png"]))
    assert split.kinds == tuple(path.split("/")[1] for path in split.test_paths)
    assert split.train.shape == (2, *side, channels)
    assert split.validation.shape == (0, *side, channels)
    assert split.test.shape == (len(names) + 2, *side, channels)
    assert split.masks.shape == (len(names) + 2, *side)
    assert split.train.dtype == split.test.dtype == split.validation.dtype == np.float32
    assert split.has_mask.all()
    assert split.masks.any(axis=(1, 2)).tolist() == [kind != GOOD for kind in split.kinds]


@pytest.mark.parametrize("category", synthetic.CATEGORIES)
def test_same_seed_same_arrays(category):
    one, two, other = read(category, seed=5), read(category, seed=5), read(category, seed=6)
    np.testing.assert_array_equal(one.train, two.train)
    np.testing.assert_array_equal(one.test, two.test)
    np.testing.assert_array_equal(one.masks, two.masks)
    differ = np.abs(one.test - other.test).max(axis=(1, 2, 3))
    assert differ.min() > 0.05
    pictures = np.concatenate([one.train, one.test, other.train, other.test])
    assert len(np.unique(pictures.reshape(len(pictures), -1), axis=0)) == len(pictures)


@pytest.mark.parametrize("category", synthetic.CATEGORIES)
def test_other_counts_leave_the_other_pictures(category):
    few = read(category)
    many = read(category, n_train=3, n_good=4, n_defective_per_kind=2)
    at = {path: i for i, path in enumerate(many.test_paths)}
    for path, image, mask in zip(few.test_paths, few.test, few.masks, strict=True):
        np.testing.assert_array_equal(image, many.test[at[path]])
        np.testing.assert_array_equal(mask, many.masks[at[path]])
    np.testing.assert_array_equal(few.train, many.train[:2])


def test_values_are_whole_gray_levels():
    split = read("grain", 97, 3)
    levels = split.test.astype(np.float64) * 255
    np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
    assert len(np.unique(split.test)) > 100
    np.testing.assert_array_equal(split.test, np.round(levels).astype(np.float32) / 255)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("category", synthetic.CATEGORIES)
def test_masks_are_where_the_defect_shows(category, channels):
    split = read(category, 128, channels, seed=2)
    for path, image, mask in zip(split.test_paths, split.test, split.masks, strict=True):
        folder = path.rsplit("/", 1)[0]
        drawn = synthetic.draw(category, folder, int(path[-7:-4]), 128, channels, 2)
        np.testing.assert_array_equal(drawn.image, image)
        changed = np.round(np.abs(drawn.image - drawn.flawless) * 255).max(axis=-1)
        np.testing.assert_array_equal(mask, changed > 8)
        if folder == "test/good":
            np.testing.assert_array_equal(drawn.image, drawn.flawless)
        else:
            assert 0.003 < mask.mean() < 0.08
            assert np.median(changed[mask]) > 0.08 * 255


@pytest.mark.parametrize("category", synthetic.CATEGORIES)
def test_color_is_a_tint_of_the_gray_picture(category):
    gray, color = read(category, channels=1, seed=4), read(category, channels=3, seed=4)
    for one, three in zip(gray.train, color.train, strict=True):
        levels = Image.fromarray(np.round(three * 255).astype(np.uint8)).convert("L")
        np.testing.assert_allclose(np.asarray(levels), one[..., 0] * 255, atol=2.5)
    assert np.ptp(color.train.mean(axis=(0, 1, 2))) > 0.02


@pytest.mark.parametrize("category", synthetic.CATEGORIES)
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_brightness_and_contrast_do_not_rank_defects(category, seed):
    split = synthetic.read(category, 256, 1, seed, n_train=1)
    pictures = split.test.astype(np.float64)
    assert np.ptp(pictures.mean(axis=(1, 2, 3))) > 0.08  # the light varies
    for statistic in (np.mean, np.std):
        auroc = roc_auc_score(split.labels, statistic(pictures, axis=(1, 2, 3)))
        assert 0.35 <= auroc <= 0.65


@pytest.mark.parametrize("category", synthetic.CATEGORIES)
def test_a_linear_autoencoder_finds_the_defects(category):
    split = synthetic.read(category, 64, 1, 7)
    train, test = split.train.reshape(60, -1), split.test.reshape(len(split.test), -1)
    pca = PCA(30, svd_solver="full").fit(train)
    residual = test - pca.inverse_transform(pca.transform(test))
    assert roc_auc_score(split.labels, np.square(residual).sum(axis=1)) > 0.8


@pytest.mark.parametrize("channels", [1, 3])
def test_written_folder_holds_the_arrays(tmp_path, channels):
    names = ("washer", "grain")
    synthetic.write(tmp_path, names, 64, channels, 3, **FEW)
    for category in names:
        split = read(category, 64, channels, 3)
        expected = dict(zip(split.train_paths, split.train, strict=True))
        expected |= dict(zip(split.test_paths, split.test, strict=True))
        for path, mask in zip(split.test_paths, split.masks, strict=True):
            if "/good/" not in path:
                name = path.replace("test", "ground_truth").replace(".png", "_mask.png")
                expected[name] = mask.astype(np.float32)
        root = tmp_path / category
        assert {p.relative_to(root).as_posix() for p in root.rglob("*.*")} == set(expected)
        for path, array in expected.items():
            with Image.open(root / path) as file:
                assert file.mode == ("RGB" if channels == 3 and "mask" not in path else "L")
                pixels = np.asarray(file, np.float32) / np.float32(255)
            np.testing.assert_array_equal(
                pixels, array[..., 0] if pixels.ndim < array.ndim else array
            )


def test_write_refuses_what_is_there(tmp_path: pathlib.Path):
    (tmp_path / "weave").mkdir()
    (tmp_path / "weave" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"weave.*not an empty folder"):
        synthetic.write(tmp_path, ["grain", "weave"], 64, 1, 0, **FEW)
    assert [p.name for p in tmp_path.rglob("*")] == ["weave", "notes.txt"]
    (tmp_path / "grain").touch()
    with pytest.raises(UsageError, match=r"grain.*not an empty folder"):
        synthetic.write(tmp_path, ["grain"], 64, 1, 0, **FEW)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wave", 64, 1, 0), "unknown category 'wave': did you mean weave"),
        (("weave", 31, 1, 0), "--image_size=31"),
        (("weave", 64, 2, 0), "--channels=2"),
        (("weave", 64, 1, -1), "--seed=-1"),
        (("weave", 64, 1, 0, 0), "'train/good': 0"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        synthetic.read(*arguments)
    with pytest.raises(UsageError, match=message):
        synthetic.write(tmp_path, [arguments[0]], *arguments[1:])
    assert not list(tmp_path.iterdir())


def test_unknown_folder_is_named():
    with pytest.raises(
        UsageError, match="unknown folder of weave 'test/hol': did you mean test/hole"
    ):
        synthetic.draw("weave", "test/hol", 0, 64, 1, 0)
