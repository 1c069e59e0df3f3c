"""Images that are arrays already, of a notebook or of another program, as a `types.Split`."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from cae_jax import files
from cae_jax.data import duplicates, remarks
from cae_jax.data.frame import BIT_DEPTHS
from cae_jax.data.images import no_array
from cae_jax.types import GOOD, DataError, Images, Levels, Split, UsageError

DATASET = "arrays"
DEFECT = "defect"  # the kind of an image whose label is 1
_LEVELS = {"u1": 255, "u2": 65535}  # of whole numbers, by dtype


def split(
    train: Any,
    test: Any = None,
    labels: Sequence[Any] | np.ndarray = (),
    *,
    masks: Any = None,
    validation: Any = None,
    category: str = "arrays",
    bit_depth: int | str = "auto",
) -> Split:
    """Returns images in memory as a split, in the order given, none of them resized.

    Args:
      train: good images to learn from, [n, H, W] or [n, H, W, 1 or 3]: uint8, uint16, or float in
        [0, 1], of NumPy or whatever NumPy can read.
      test: images to judge, of the same size and channels; None: there are none, and no AUROC.
      labels: of the test images: 0 or False for good, 1 or True for defective, or names of kinds,
        "good" and others.
      masks: of the test images, [m, H, W] or [m, H, W, 1]: defective pixels are not 0. A defective
        image whose mask is all 0 has none. None where there are no masks.
      validation: good images held out by yourself, which thresholds are picked on. None where a run
        shall hold out a part of `train`, or judge it out of fold.
      category: what the images are called, a folder's name.
      bit_depth: 8 to 16, of integers of more than 8: 2^bit_depth - 1 is white; auto: 65535.

    Returns:
      The split, its paths "train/good/000000", "validation/good/000000", "test/000000".

    Raises:
      DataError: an array of another shape, type or range, a label that is none, a mask of a good
        image with a defect in it; the message names the argument and the first such image.
    """
    good = images_of("train", train, bit_depth)
    if not len(good):
        raise DataError("train: holds no image")
    held_out = images_of("validation", good[:0] if validation is None else validation, bit_depth)
    judged = images_of("test", good[:0] if test is None else test, bit_depth)
    for name, images in (("validation", held_out), ("test", judged)):
        if images.shape[1:] != good.shape[1:]:
            wanted, got = (list(each.shape[1:]) for each in (good, images))
            raise DataError(f"{name}: images are {got}, those of train {wanted}; resize them")
    _check_name(category)
    kinds = _kinds(labels, len(judged))
    truth, known = _masks(masks, judged, kinds)
    found = Split(
        dataset=DATASET,
        category=category,
        train=good,
        train_paths=_paths("train/good", len(good)),
        validation=held_out,
        validation_paths=_paths("validation/good", len(held_out)),
        test=judged,
        test_paths=_paths("test", len(judged)),
        kinds=kinds,
        masks=truth,
        has_mask=known,
        test_sizes=((good.shape[1], good.shape[2]),) * len(judged),
        bit_depth=str(bit_depth),
    )
    return _with_warnings(found, [each for each in (train, validation, test) if each is not None])


def images_of(name: str, given: Any, bit_depth: int | str = "auto") -> Images:
    """Returns images as float32 [n, H, W, C] in [0, 1], of whole numbers as `Levels`.

    Takes what `split` takes; raises DataError, naming `name`, for anything else, and UsageError for
    no bit depth.
    """
    if str(bit_depth) not in BIT_DEPTHS:
        raise UsageError(f"bit_depth={bit_depth!r}: must be 8 to 16, or auto")
    array = _array(name, given)
    if array.ndim == 3:
        array = array[..., None]
    if array.ndim != 4 or array.shape[-1] not in (1, 3) or 0 in array.shape[1:]:
        raise DataError(
            f"{name}: must be [n, H, W] or [n, H, W, 1 or 3], got {list(np.shape(given))}"
        )
    top = _LEVELS.get(array.dtype.str[1:])
    if bit_depth != "auto" and array.dtype.kind in "ui" and array.dtype.itemsize > 1:
        top = 2 ** int(bit_depth) - 1
        for odd in (int(array.min()), int(array.max())) if array.size else ():
            if not 0 <= odd <= top:
                raise DataError(
                    f"{name}: has a value of {odd}, and bit_depth={bit_depth} is 0 to {top}"
                )
    if top:
        narrow = array.dtype if array.dtype in (np.uint8, np.uint16) else np.uint16
        own = files.large_array(array.shape, narrow)  # which nobody changes
        own[:] = array
        return Levels(own, int(top))
    if array.dtype.kind != "f":
        raise DataError(f"{name}: must be uint8, uint16 or float in [0, 1], got {array.dtype}")
    for i, image in enumerate(array):
        low, high = float(image.min()), float(image.max())
        if not (low >= 0 and high <= 1):  # also where one is NaN
            hint = "; divide by 255" if 1 < high <= 255 and low >= 0 else ""
            raise DataError(f"{name}: image {i} is from {low:g} to {high:g}, not 0 to 1{hint}")
    return array.astype(np.float32, copy=False)


def _array(name: str, given: Any) -> np.ndarray:
    try:
        return np.asarray(given)
    except ValueError as error:  # a list of arrays of several shapes
        cause = " ".join(str(error).split())
        raise DataError(f"{name}: must be of one shape, resize them: {cause}") from error
    except Exception as error:  # of PyTorch one on a GPU, or whose gradient is asked for
        raise DataError(f"{name}: {no_array(given, error)}") from error


def _kinds(labels: Sequence[Any] | np.ndarray, n: int) -> tuple[str, ...]:
    values = _array("labels", labels)
    if values.ndim != 1 or len(values) != n:
        raise DataError(f"labels: must be {n}, one for each test image, got {list(values.shape)}")
    kinds = []
    for i, value in enumerate(values.tolist()):
        if isinstance(value, str) and value.strip() and "/" not in value:
            kinds.append(value)
        elif value in (0, 1) and not isinstance(value, str):
            kinds.append(DEFECT if value else GOOD)
        else:
            raise DataError(f"labels: image {i} has {value!r}, not 0, 1 or the name of a kind")
    return tuple(kinds)


def _masks(given: Any, images: Images, kinds: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Bool [m, H, W], and of which images they are known, bool [m]."""
    good = np.array([kind == GOOD for kind in kinds], bool)
    if given is None:
        return np.zeros(images.shape[:3], bool), good
    array = _array("masks", given)
    array = array[..., 0] if array.ndim == 4 and array.shape[-1] == 1 else array
    if array.shape != images.shape[:3] or array.dtype.kind not in "buif":
        raise DataError(
            f"masks: must be numbers {list(images.shape[:3])}, got {array.dtype} {np.shape(given)}"
        )
    masks = array != 0
    some = masks.any(axis=(1, 2))
    if (wrong := np.flatnonzero(some & good)).size:
        raise DataError(f"masks: image {wrong[0]} is good by its label, and its mask is not 0")
    return masks, good | some


def _with_warnings(found: Split, given: Sequence[Any]) -> Split:
    """Says where images that were held out are learned from all the same, and where 16 bits are
    hardly used."""
    if found.bit_depth == "auto":
        found = dataclasses.replace(found, warnings=_few_bits(found.category, given))
    if not len(found.validation):
        return found
    pairs = duplicates.find([found.train, found.validation])
    n = len(found.train)
    shared = {int(b) for a, b in zip(pairs.first, pairs.second, strict=True) if a < n <= b}
    if not shared:
        return found
    said = f"{len(shared)} of {len(found.validation)} validation images repeat one to learn from"
    said = f"{said}: thresholds will be too low"
    return dataclasses.replace(found, warnings=(*found.warnings, said))


def _few_bits(category: str, given: Sequence[Any]) -> tuple[str, ...]:
    wide = [array for each in given if (array := np.asarray(each)).dtype.str[1:] == "u2"]
    largest = max((int(array.max()) for array in wide if array.size), default=0)
    said = remarks.of_bits(sum(map(len, wide)), largest, "the largest")
    return tuple(f"{category}: {text}" for text in said)


def _check_name(category: str) -> None:
    odd = not isinstance(category, str) or not category
    if odd or set(category) & set("/\\,+\r\n\0") or category in (".", "..", "all"):
        raise DataError(f"category {category!r}: must be a folder's name, without , and +")


def _paths(folder: str, n: int) -> tuple[str, ...]:
    return tuple(f"{folder}/{i:06d}" for i in range(n))
