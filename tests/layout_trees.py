"""Writes tiny categories in the layouts of public data sets, each image a field of its own gray,
and reads them."""

import pathlib

import numpy as np
from PIL import Image

from cae_jax import data
from cae_jax.data.frame import Frame
from cae_jax.data.layouts.found import Names

SIDE = 16


def gray(path: pathlib.Path, level: int) -> None:
    """Writes an image of one level."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIDE, SIDE), level, np.uint8)).save(path)


def mask(path: pathlib.Path, *rows: int, value: int = 255) -> None:
    """Writes a mask of whole rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((SIDE, SIDE), np.uint8)
    pixels[list(rows)] = value
    Image.fromarray(pixels).save(path)


def write(root: pathlib.Path, *paths: str) -> pathlib.Path:
    """Writes images of different levels, and masks of row 3 where a name begins with "=";
    returns root."""
    for i, path in enumerate(paths):
        if path.startswith("="):
            mask(root / path[1:], 3)
        else:
            gray(root / path, 10 + 7 * i % 240)
    return root


def split_of(root, **names):
    """The category in a folder, read at SIDE; names as `Names` has them."""
    return data.read("folder", str(root), root.name, Frame(SIDE), 0, names=Names(**names))


def judged(split):
    """{path: (kind, rows of its mask)} of the test images, None for no mask."""
    rows = [
        np.flatnonzero(mask.any(axis=1)).tolist() if known else None
        for mask, known in zip(split.masks, split.has_mask, strict=True)
    ]
    return dict(zip(split.test_paths, zip(split.kinds, rows, strict=True), strict=True))


def causes(split):
    """{path: why it is left out}."""
    return {entry.path: entry.cause for entry in split.left_out}
