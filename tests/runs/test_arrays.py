"""The main job on images in memory is the one on the same images in a folder."""

import numpy as np
import pytest
import small_runs
from small_runs import folder_of

import cae_jax
from cae_jax import data
from cae_jax.data import arrays
from cae_jax.runs import job
from cae_jax.runs.arrays import run
from cae_jax.runs.build import read_split
from cae_jax.types import DataError, UsageError

SIZES = {"patch_size": 32, "stride": 16, "num_patches": 64, "batch_size": 32, "epochs": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    root = tmp_path_factory.mktemp("arrays")
    with small_runs.images_in(root, "tablet"):
        yield root


@pytest.fixture(scope="module")
def read(world):
    """A folder's images as it is read, none held out."""
    return read_split(small_runs.config_of(world, validation_fraction=0.0).changed(folds=0))


def of(read, **more):
    return arrays.split(read.train, read.test, read.kinds, masks=read.masks, **more)


def test_a_run_on_arrays_is_one_on_the_files(world, read, capsys):
    """By steps: the same images are held out, seen in the same order and judged alike."""
    config = small_runs.config_of(world, "files")
    from_files = job.run(config)
    made = run(of(read, category="tablet"), world / "memory", model="small_net:Tiny", **SIZES)
    for name in ("image_auroc", "pixel_auroc", "n_train", "n_validation"):
        assert made[name].tolist() == from_files[name].tolist(), name
    folder = folder_of(config.changed(workdir=str(world / "memory")))
    assert (folder / "history.csv").read_bytes() == (folder_of(config) / "history.csv").read_bytes()
    columns = [
        [line.split(",")[1:] for line in (each / "scores.csv").read_text().splitlines()]
        for each in (folder, folder_of(config))
    ]
    assert columns[0] == columns[1]  # but for the paths
    capsys.readouterr()
    again = run(of(read, category="tablet"), world / "memory", model="small_net:Tiny", **SIZES)
    assert "finished before" in capsys.readouterr().err
    assert again["image_auroc"].tolist() == made["image_auroc"].tolist()


def test_a_method_of_one_pass_and_images_held_out_by_oneself(world, read):
    split = arrays.split(read.train[:6], read.test, read.kinds, validation=read.train[6:])
    table = run(split, world / "held", method="variation_model")
    assert table["n_validation"].tolist() == [len(read.train) - 6]
    detector = cae_jax.load(world / "held")
    assert detector.threshold.source == "validation good"
    assert detector.score(read.test[0, ..., 0]).distance > 0
    with pytest.raises(UsageError, match="folds=3: the split has validation images already"):
        run(split, world / "folds", method="variation_model", folds=3)


def test_other_images_are_refused(world, read):
    split = of(read)
    run(split, world / "other", method="variation_model")
    darker = arrays.split(read.train / 2, read.test, read.kinds, masks=read.masks)
    with pytest.raises(DataError, match="finished with other images"):
        run(darker, world / "other", method="variation_model")
    run(darker, world / "other", method="variation_model", overwrite=True)
    with pytest.raises(UsageError, match=r"split: must be of data\.arrays\.split, not Levels"):
        run(read.train, world / "new")
    with pytest.raises(UsageError, match="channels: is the split's"):
        run(split, world / "new", channels=3)
    with pytest.raises(UsageError, match="--roi=0,0,9,9: only of files"):
        run(split, world / "new", method="variation_model", roi="0,0,9,9")
    with pytest.raises(UsageError, match=r"given in Python, see cae_jax.runs.arrays.run"):
        job.evaluate_again(world / "other")
    with pytest.raises(UsageError, match="given in Python"):
        data.categories("arrays")


def test_images_need_not_be_square(world):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (9, 40, 64, 3), np.uint8)
    table = run(arrays.split(images[:6], images[6:], [0, 0, 1]), world / "wide",
                method="variation_model")  # fmt: skip
    assert table["n_train"].tolist() == [6]


def test_good_images_alone(world, read):
    table = run(
        arrays.split(read.train, category="good"), world / "alone", method="variation_model"
    )
    assert table["n_out_of_fold"].tolist() == [len(read.train)]
    assert table["image_auroc"].isna().all()
    for given in ({"labels": [0] * 2}, {"masks": read.masks}):
        with pytest.raises(DataError, match=r"(labels|masks): must be (numbers .)?0, "):
            arrays.split(read.train, **given)
