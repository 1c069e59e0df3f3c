"""The folder reader against Pillow and plain lists; choosing, holding out and describing data."""

import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from cae_jax import data
from cae_jax.data import folder, images, layouts
from cae_jax.data.frame import Frame
from cae_jax.types import DataError, LeftOut, UsageError

REAL = pathlib.Path(__file__).parents[3] / "shared" / "data"
SIZE = 24


def write(path: pathlib.Path, rng: np.random.Generator, side=(40, 32), mode="RGB") -> np.ndarray:
    """Writes noise of a height and width, or for mode "1" a mask; returns its array."""
    pixels = rng.integers(0, 256, (*side, 3) if mode == "RGB" else side, np.uint8)
    if mode == "1":
        pixels = np.where(pixels > 127, np.uint8(255), np.uint8(0))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


@pytest.fixture
def nut(tmp_path) -> pathlib.Path:
    """A category of 4 training, 2 good and 3 defective test images in two kinds, 3 masks."""
    rng = np.random.default_rng(0)
    root = tmp_path / "nut"
    for name in ("b.png", "10.png", "2.png", "a.PNG"):
        write(root / "train" / "good" / name, rng)
    for name in ("000.png", "001.bmp"):
        write(root / "test" / "good" / name, rng)
    write(root / "test" / "scratch" / "000.png", rng, (33, 50))
    write(root / "test" / "scratch" / "001.png", rng)
    write(root / "test" / "dent" / "000.tiff", rng)
    write(root / "ground_truth" / "scratch" / "000_mask.png", rng, (33, 50), "1")
    write(root / "ground_truth" / "scratch" / "001.png", rng, mode="1")
    write(root / "ground_truth" / "dent" / "000_mask.bmp", rng, mode="1")
    return root


def read(root: pathlib.Path, **kwargs):
    return data.read("folder", str(root.parent), root.name, Frame(SIZE, 1), 0, **kwargs)


def test_split_holds_what_the_folder_holds(nut):
    calls = []
    split = read(nut, progress=calls.append)
    assert split.train_paths == tuple(
        f"train/good/{n}" for n in ("10.png", "2.png", "a.PNG", "b.png")
    )
    assert split.test_paths == (
        "test/dent/000.tiff",
        "test/good/000.png",
        "test/good/001.bmp",
        "test/scratch/000.png",
        "test/scratch/001.png",
    )
    assert split.kinds == ("dent", "good", "good", "scratch", "scratch")
    np.testing.assert_array_equal(split.labels, [1, 0, 0, 1, 1])
    assert (split.dataset, split.category) == ("folder", "nut")
    assert split.validation.shape == (0, SIZE, SIZE, 1)
    assert split.left_out == ()
    assert ["33 x 50 pixels" in warning for warning in split.warnings] == [True]  # squeezed
    assert sum(calls) == 9
    for paths, pixels in ((split.train_paths, split.train), (split.test_paths, split.test)):
        for path, image in zip(paths, pixels, strict=True):
            with Image.open(nut / path) as file:
                float_gray = file.convert("L").convert("F")
            want = np.asarray(float_gray.resize((SIZE, SIZE), Image.Resampling.BILINEAR)) / 255
            np.testing.assert_allclose(image[..., 0], want, atol=1e-6)


def test_masks_are_paired_by_stem(nut):
    split = read(nut)
    assert split.has_mask.all()
    assert not split.masks[split.labels == 0].any()
    pairs = {
        "test/dent/000.tiff": "dent/000_mask.bmp",
        "test/scratch/000.png": "scratch/000_mask.png",
        "test/scratch/001.png": "scratch/001.png",
    }
    for path, mask in pairs.items():
        want = images.decode_mask(nut / "ground_truth" / mask, Frame(SIZE), None)
        np.testing.assert_array_equal(split.masks[split.test_paths.index(path)], want)


def test_an_image_named_like_a_mask_takes_no_other_images_mask(nut):
    rng = np.random.default_rng(1)
    write(nut / "test" / "dent" / "000_mask.png", rng)
    split = read(nut)
    assert dict(zip(split.test_paths, split.has_mask, strict=True))["test/dent/000.tiff"]
    assert [entry.path for entry in split.left_out] == ["test/dent/000_mask.png"]


def test_whatever_is_not_used_is_listed_with_its_cause(nut):
    rng = np.random.default_rng(1)
    (nut / "train" / "good" / "notes.txt").write_text("x")
    (nut / "train" / "good" / "a.png").mkdir()
    write(nut / "train" / "bad" / "0.png", rng)
    write(nut / "test" / "good" / ".hidden.png", rng)
    write(nut / "test" / "stray.png", rng)
    write(nut / "ground_truth" / "scratch" / "7_mask.png", rng, mode="1")
    write(nut / "ground_truth" / "crack" / "0_mask.png", rng, mode="1")
    write(nut / "ground_truth" / "good" / "000_mask.png", rng, mode="1")
    (nut / "ground_truth" / "dent" / "000_mask.bmp").unlink()
    (nut / "licence.txt").write_text("x")
    split = read(nut)
    causes = {entry.path: entry.cause for entry in split.left_out}
    expected = {
        "ground_truth/crack/0_mask.png": "mask without an image",
        "ground_truth/good/000_mask.png": "mask of a good image",
        "ground_truth/scratch/7_mask.png": "mask without an image",
        "licence.txt": "not part of the layout",
        "test/dent/000.tiff": "no mask",
        "test/good/.hidden.png": "hidden",
        "test/stray.png": "not in the folder of a defect kind",
        "train/bad": "not part of the layout",
        "train/good/a.png": "a folder",
        "train/good/notes.txt": "suffix",
    }
    assert list(causes) == sorted(expected)
    for path, cause in expected.items():
        assert cause in causes[path]
    np.testing.assert_array_equal(split.has_mask, [False, True, True, True, True])
    assert len(split.train) == 4


def test_no_masks_at_all_is_allowed(nut):
    for file in (nut / "ground_truth").rglob("*.*"):
        file.unlink()
    for path in [*(nut / "ground_truth").iterdir(), nut / "ground_truth"]:
        path.rmdir()
    split = read(nut)
    np.testing.assert_array_equal(split.has_mask, split.labels == 0)
    assert len(split.left_out) == 3


@pytest.mark.parametrize("bad", ["train/good/b.png", "test/scratch/000.png"])
def test_a_bad_image_is_an_error_or_is_skipped(nut, bad):
    whole = (nut / bad).read_bytes()
    (nut / bad).write_bytes(whole[: len(whole) // 2])
    (nut / "train" / "good" / "a.PNG").write_bytes(b"")
    with pytest.raises(DataError, match=r"nut/train/good/a.PNG: .*and 1 more.*on_bad_image=skip"):
        read(nut)
    split = read(nut, on_bad_image="skip")
    assert [entry.path for entry in split.left_out] == sorted([bad, "train/good/a.PNG"])
    assert len(split.train) + len(split.test) == 7
    assert len(split.train) == len(split.train_paths)
    assert len(split.test) == len(split.test_paths) == len(split.masks) == len(split.has_mask)
    assert split.kinds == tuple(path.split("/")[1] for path in split.test_paths)
    with pytest.raises(UsageError, match=r"on_bad_image 'skp'.*skip"):
        read(nut, on_bad_image="skp")


def test_nothing_readable_is_an_error_even_when_skipping(nut):
    for file in (nut / "train" / "good").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"nut/train: none of its images"):
        read(nut, on_bad_image="skip")


def test_a_mask_of_another_size_than_its_image(nut):
    write(nut / "ground_truth" / "scratch" / "000_mask.png", np.random.default_rng(1), mode="1")
    with pytest.raises(
        DataError, match=r"nut/ground_truth/scratch/000_mask.png: .*32 x 40.*50 x 33"
    ):
        read(nut)
    split = read(nut, on_bad_image="skip")
    assert [entry.path for entry in split.left_out] == ["ground_truth/scratch/000_mask.png"]
    np.testing.assert_array_equal(split.has_mask, [True, True, True, False, True])
    assert not split.masks[3].any()


def test_without_test_images_there_is_nothing_to_judge(nut):
    (nut / "test").rename(nut.with_name("away"))
    for _ in range(2):
        split = read(nut)
        assert (len(split.train), len(split.test), split.warnings) == (4, 0, ())
        (nut / "test" / "good").mkdir(parents=True, exist_ok=True)  # which holds no image


def test_missing_and_empty_folders(nut):
    (nut / "train").rename(nut.with_name("away"))
    with pytest.raises(DataError, match="nut: test, and no train/good with good images"):
        layouts.find(nut)
    (nut / "train" / "good").mkdir(parents=True)
    with pytest.raises(DataError, match="nut/train/good: no image"):
        layouts.find(nut)


def test_one_sided_tests_and_table_1_counts_are_warned_of(nut):
    for kind in ("scratch", "dent"):
        for file in (nut / "test" / kind).iterdir():
            file.unlink()
    screw = nut.rename(nut.with_name("screw"))
    assert read(screw).warnings == (
        "screw: no defective test images: no accuracy, no AUROC can be computed",
        "screw: 4 training images found, Table 1 prints 320",
        "screw: 2 good test images found, Table 1 prints 41",
        "screw: 0 defective test images found, Table 1 prints 119",
    )


def test_table_1_is_complete():
    table = folder.table1()
    sums = {
        key: sum(int(row[key]) for row in table.values())
        for key in ("n_train", "n_test_good", "n_test_defective")
    }
    assert len(table) == 15
    # The totals that Bergmann et al., CVPR 2019, Table 1 gives: 3629, 467 and 1258.
    assert sums == {"n_train": 3629, "n_test_good": 467, "n_test_defective": 1258}


def test_categories_and_how_they_are_asked_for(nut):
    root = str(nut.parent)
    write(nut.parent / "bolt" / "train" / "good" / "0.png", np.random.default_rng(1))
    (nut.parent / "empty").mkdir()
    assert data.categories("folder", root) == ("bolt", "nut")
    assert (
        data.resolve("folder", root, ["all"]) == data.resolve("folder", root, []) == ("bolt", "nut")
    )
    assert data.resolve("folder", root, ["nut", "bolt", "nut"]) == ("nut", "bolt")
    assert data.categories("folder", str(nut)) == ("nut",)  # itself a category
    synthetic = data.categories("synthetic", None)
    assert data.resolve("synthetic", None, [synthetic[-1]]) == (synthetic[-1],)
    for error, match, call in (
        (
            UsageError,
            "data set 'foldr': did you mean folder",
            lambda: data.categories("foldr", root),
        ),
        (
            UsageError,
            "category 'nutt': did you mean nut",
            lambda: data.resolve("folder", root, ["nutt"]),
        ),
        (UsageError, "needs --data_dir", lambda: data.categories("folder", None)),
        (UsageError, "needs --data_dir", lambda: data.categories("mvtec_ad", "")),
        (UsageError, "gone: no such folder", lambda: data.categories("folder", root + "/gone")),
        (
            UsageError,
            "category=../x: must be the name",
            lambda: data.resolve("folder", root, ["../x"]),
        ),
        (DataError, "holds no category", lambda: data.categories("folder", root + "/empty")),
        (DataError, "empty: not a category", lambda: data.resolve("folder", root, ["empty"])),
    ):
        with pytest.raises(error, match=match):
            call()


@pytest.mark.parametrize(
    ("n", "fraction", "count"), [(10, 0.1, 1), (3, 0.1, 1), (29, 0.2, 6), (7, 0, 0)]
)
def test_hold_out_divides_the_training_images(nut, n, fraction, count):
    split = many(read(nut), n)
    held = data.hold_out(split, fraction, seed=3)
    assert (len(held.validation), len(held.train)) == (count, n - count)
    for paths in (held.train_paths, held.validation_paths):
        assert list(paths) == sorted(paths)
    together = dict(zip(held.train_paths, held.train, strict=True))
    together |= dict(zip(held.validation_paths, held.validation, strict=True))
    assert sorted(together) == list(split.train_paths)
    for path, pixels in zip(split.train_paths, split.train, strict=True):
        np.testing.assert_array_equal(together[path], pixels)
    assert data.hold_out(split, fraction, seed=3).validation_paths == held.validation_paths


def test_hold_out_draws_every_image_alike(nut):
    split = many(read(nut), 10)
    drawn = [data.hold_out(split, 0.2, seed).validation_paths for seed in range(500)]
    counts = [sum(path in paths for paths in drawn) for path in split.train_paths]
    # 500 draws of 2 of 10: mean 100, standard deviation 9.
    assert max(abs(np.array(counts) - 100)) < 36


def test_hold_out_needs_enough_images(nut):
    split = read(nut)
    with pytest.raises(DataError, match="nut: 1 training image, of which 1"):
        data.hold_out(many(split, 1), 0.1, 0)
    with pytest.raises(DataError, match="nut: 4 training images, of which 4"):
        data.hold_out(split, 0.95, 0)
    for fraction in (1.0, -0.1, float("nan")):
        with pytest.raises(UsageError, match="validation_fraction"):
            data.hold_out(split, fraction, 0)


def many(split, n):
    """The split with `n` other training images."""
    rng = np.random.default_rng(n)
    return dataclasses.replace(
        split,
        train=rng.random((n, SIZE, SIZE, 1), np.float32),
        train_paths=tuple(f"train/good/{i:03d}.png" for i in range(n)),
    )


def test_fingerprint_changes_with_all_that_matters_and_nothing_else(nut):
    split = read(nut)
    want = data.fingerprint(split)
    assert data.fingerprint(read(nut)) == want
    assert data.fingerprint(data.hold_out(split, 0.3, 0)) == want
    assert data.fingerprint(data.hold_out(split, 0.5, 1)) == want
    assert data.fingerprint(dataclasses.replace(split, warnings=("x",))) == want

    def nudged(array):
        other = array.copy()
        other[-1, 3, 5] = ~other[-1, 3, 5] if other.dtype == bool else other[-1, 3, 5] + 1e-3
        return other

    changes = [
        {"train": nudged(split.train)},
        {"test": nudged(split.test)},
        {"masks": nudged(split.masks)},
        {"has_mask": ~split.has_mask},
        {"kinds": ("bent", *split.kinds[1:])},
        {"train_paths": (*split.train_paths[:-1], "train/good/z.png")},
        {"test_paths": (*split.test_paths[:-1], "test/scratch/z.png")},
        {"train": split.train[:-1], "train_paths": split.train_paths[:-1]},
    ]
    prints = [data.fingerprint(dataclasses.replace(split, **change)) for change in changes]
    assert len({want, *prints}) == 1 + len(changes)


def test_summary_fits_on_a_screen(nut):
    left_out = tuple(LeftOut(f"test/scratch/{i}.png", "is empty") for i in range(13))
    split = dataclasses.replace(read(nut), left_out=left_out, warnings=("look here",))
    lines = data.summary(data.hold_out(split, 0.25, 0)).splitlines()
    text = "\n".join(lines)
    assert "24 x 24 pixels, gray" in text
    counts = [line.split()[-1] for line in lines if line.startswith(("  train", "  val", "  test"))]
    assert counts == ["3", "1", "2", "3"]
    assert "    scratch: 2, with mask: 2" in lines
    assert "  warning: look here" in lines
    assert "    test/scratch/9.png: is empty" in lines
    assert lines[-1] == "    ... and 3 more, see left_out.csv"
    assert len(lines) < 24


def test_a_folder_needs_no_tensorflow_datasets(nut):
    code = (
        "import sys; sys.modules['tensorflow_datasets'] = None; from cae_jax import data\n"
        "from cae_jax.data.frame import Frame\n"
        f"print(data.read('folder', {str(nut.parent)!r}, 'nut', Frame(8, 3), 0).test.shape)\n"
        f"try: data.categories('mvtec_ad', {str(nut.parent)!r})\n"
        "except data.UsageError as error: print(error)"
    )
    lines = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert lines[0] == "(5, 8, 8, 3)"
    assert "tensorflow_datasets, which is not installed" in lines[1]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"no real images in {REAL}")
def test_real_images():
    split = read(REAL / "hazelnut_toy" / "hazelnut")
    assert (len(split.train), (split.labels == 0).sum(), split.labels.sum()) == (28, 6, 17)
    assert split.kinds.count("colour") == 17
    assert split.has_mask.all()
    assert split.masks.any(axis=(1, 2)).sum() == 17
    assert split.left_out == ()
    assert len(split.warnings) == 3
    assert data.categories("folder", str(REAL / "cookie")) == ("cookie",)
    found = layouts.find(REAL / "cookie" / "cookie")
    good = [item for item in found.test if item.kind == "good"]
    assert (len(found.train), len(good), len(found.test)) == (31, 14, 46)
    assert sum(bool(item.masks) for item in found.test) == 32
    screw = layouts.find(REAL / "mvtec_ad" / "screw")
    assert (len(screw.train), len(screw.test)) == (320, 160)
    assert sum(bool(item.masks) for item in screw.test) == 119
