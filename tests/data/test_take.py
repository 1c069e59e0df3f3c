"""Few of the training images: which, and that a run takes them before it holds any out."""

import numpy as np
import pytest

from cae_jax import data
from cae_jax.data import synthetic
from cae_jax.data.frame import Frame
from cae_jax.runs.build import read_split
from cae_jax.runs.config import configure
from cae_jax.types import DataError

N = 11


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("take")
    synthetic.write(root, ["weave"], 32, 1, 0, n_train=N, n_good=2, n_defective_per_kind=1)
    return root


@pytest.fixture(scope="module")
def split(root):
    return data.read("folder", str(root), "weave", Frame(32, 1), 0)


def test_fewer_are_among_more_with_their_own_pixels(split):
    pixels = dict(zip(split.train_paths, split.train, strict=True))
    before = set()
    for count in range(1, N + 1):
        found = data.take(split, count, seed=5)
        assert len(found.train) == len(set(found.train_paths)) == count
        assert before < set(found.train_paths)
        assert list(found.train_paths) == sorted(found.train_paths)
        for path, image in zip(found.train_paths, found.train, strict=True):
            np.testing.assert_array_equal(image, pixels[path])
        before = set(found.train_paths)
    assert before == set(split.train_paths)
    assert data.take(split, 0, seed=5) is split


def test_every_image_is_drawn_alike_by_the_seed_alone(split):
    drawn = [data.take(split, 3, seed).train_paths for seed in range(400)]
    assert drawn[7] == data.take(split, 3, 7).train_paths
    counts = np.array([sum(path in paths for paths in drawn) for path in split.train_paths])
    # 400 draws of 3 of 11: mean 109, standard deviation 8.9
    assert np.abs(counts - 400 * 3 / N).max() < 36


def test_more_than_there_are_names_both_numbers(split):
    with pytest.raises(DataError, match="weave: --train_images=12, but there are 11 training"):
        data.take(split, N + 1, 0)


def test_a_run_takes_them_before_it_holds_any_out(root, split):
    flags = {"dataset": "folder", "data_dir": str(root), "category": "weave", "image_size": 32}
    config = configure(**flags, train_images=4, validation_fraction=0.25, seed=2)
    found = read_split(config)
    assert (len(found.train), len(found.validation), len(found.test)) == (3, 1, len(split.test))
    taken = data.take(split, 4, 2).train_paths
    assert {*found.train_paths, *found.validation_paths} == set(taken)
    everything = read_split(config.changed(train_images=0))
    assert len(everything.train) + len(everything.validation) == N
