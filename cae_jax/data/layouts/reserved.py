"""Folders whose name a layout reserves, `train`, `test`, `ground_truth`: found in any capitals.

An old camera's or a Windows program's `Train/Good` is meant as `train/good` is. Where two folders
could be meant, a layout still fits, and listing it raises: one such folder ends no other category.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from cae_jax.data.layouts.found import ALSO_MASKS, MASK_NAMES, Tree, holds_images, plain
from cae_jax.types import DataError

VALIDATION = ("validation", "val", "valid")  # more good images
TESTS = frozenset({"test", "testing", "test_public", *VALIDATION})
PARTS = TESTS | {"train", "training"}
_ALSO = {"train": "training", "test": "testing"}  # where there is none of the name itself
_USUAL = {*PARTS - {*_ALSO.values()}, *MASK_NAMES}  # said of no folder


def called(root: Path, name: str) -> list[Path]:
    """Returns the folders in a folder of a reserved name, sorted: one, or several that differ in
    their capitals; no other entry is asked what it is."""
    try:
        there = sorted(os.listdir(root))
    except OSError:  # no folder, or one that cannot be listed: who lists it says so
        return []
    for word in (name, _ALSO.get(name)):
        if found := [root / each for each in there if plain(each) == word]:
            return [each for each in found if each.is_dir()]
    return []


def holds(root: Path, path: str) -> bool:
    """Returns whether a folder holds one of that path, whatever the capitals of its names."""
    first, _, rest = path.partition("/")
    return any(not rest or holds(each, rest) for each in called(root, first))


def part(root: Path, path: str) -> Path:
    """Returns the folder of that path, in its own capitals; one that is not there as it is asked.

    Raises DataError where two folders differ in their capitals alone.
    """
    for name in path.split("/"):
        root = _one(called(root, name), root) or root / name
    return root


def ground_truth(root: Path, test: Path) -> Path | None:
    """Returns the folder of masks, beside the test or in it; None where there is none.

    Raises DataError where two folders differ in their capitals alone.
    """
    places = [(place, name) for name in ("ground_truth", "") for place in (root, test)]
    for place, name in places:
        for word in [name] if name else sorted(MASK_NAMES):
            if found := _one(called(place, word), place):
                return found
    for word in ALSO_MASKS:
        if (found := _one(called(root, word), root)) and holds_images(found):
            return found
    return None


def say(tree: Tree, folders: Iterable[Path]) -> None:
    """Notes which folders are taken for those that a layout reserves under another name."""
    taken = [each for each in folders if each.is_dir() and each.name not in _USUAL]
    if taken:
        usual = {name: word for word, name in _ALSO.items()}
        usual |= dict.fromkeys(ALSO_MASKS, "ground_truth")
        words = [usual.get(plain(each.name), plain(each.name)) for each in taken]
        said = [f"{tree.path(each)} is {word}" for each, word in zip(taken, words, strict=True)]
        tree.notes.append(f"taken by names in other capitals or words: {', '.join(said)}")


def _one(found: list[Path], where: Path) -> Path | None:
    if len(found) > 1:
        words = " and ".join(each.name for each in found)
        raise DataError(
            f"{where}: holds {words}, folders of one name in two spellings: rename the one that is "
            "not meant, or put both into one"
        )
    return found[0] if found else None
