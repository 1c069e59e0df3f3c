"""How many images a category has, from a listing alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from cae_jax.data import images, layouts, readers, synthetic
from cae_jax.data.layouts.found import USUAL, Names


class Counts(NamedTuple):
    """What reading a category would begin with."""

    n_train: int
    n_test: int
    n_left_out: int  # entries that are no part of the layout, and defects without a mask


def first_size(data_dir: str, category: str, names: Names = USUAL) -> tuple[int, int]:
    """Returns (height, width) in pixels of a folder's first image, by its header; raises DataError
    as `count`, and for one that cannot be used."""
    root = Path(os.path.expanduser(data_dir))
    found = layouts.find(layouts.locate(root, category, names), names)
    return images.size((*found.train, *found.test)[0].source)


def count(dataset: str, data_dir: str, category: str, names: Names = USUAL) -> Counts:
    """Counts a category without opening an image.

    Args:
        dataset: one of `data.DATASETS`.
        data_dir: see `data.categories`; it is there.
        category: one of the names that `data.resolve` returns.
        names: folder: see `layouts`.

    Raises:
        DataError: the category has no images, or a folder cannot be listed.
    """
    if dataset == "synthetic":
        n_test = synthetic.N_GOOD + synthetic.N_DEFECTIVE * len(synthetic.kinds(category))
        return Counts(synthetic.N_TRAIN, n_test, 0)
    root = Path(os.path.expanduser(data_dir))
    if dataset == "mvtec_ad":
        return Counts(*readers.of(dataset).count(root, category))
    if dataset == "tfds":
        found = readers.of(dataset).found(root, category, names, pixels=False)
        return Counts(len(found.train), len(found.test), len(found.left_out))
    found = layouts.find(layouts.locate(root, category, names), names)
    return Counts(len(found.train), len(found.test), len(found.left_out))
