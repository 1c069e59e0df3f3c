"""What annotation tools say of images: shared by COCO's json and LabelMe's.

An image is good where nothing is drawn in it; what is drawn as a word of GOOD_NAMES is no defect.
train, val and test in the names of a json or of folders say what is for what. Without a test, val
is judged; without any, all good images are learned from. Outlines become masks as `outlines` says.
"""

from __future__ import annotations

import dataclasses
import json
import mmap
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cae_jax.data import images
from cae_jax.data.layouts.found import (
    BAD_NAMES,
    GOOD_NAMES,
    MASK_NAMES,
    PART_OF,
    UNMASKED,
    USUAL,
    Found,
    Item,
    Names,
    Tree,
    alike,
    holds_images,
    plain,
    subfolders,
)
from cae_jax.data.outlines import Drawn, Shape
from cae_jax.types import GOOD, DataError

FOLDERS = frozenset({"annotations", "annotation", "images", "imgs", "img", "labels", "json"})


@dataclasses.dataclass
class Annotated:
    """An image that a json speaks of."""

    table: Path
    part: str
    size: tuple[int, int] | None  # (height, width), None where the json does not say
    source: Path | bytes
    kinds: set[str] = dataclasses.field(default_factory=set)  # of its defects
    shapes: list[Shape] = dataclasses.field(default_factory=list)


class Images:
    """The images of a category, to be found by what a json calls them."""

    def __init__(self, files: Sequence[Path]) -> None:
        """Takes the images' paths."""
        self.files = files
        self._named: dict[str, list[Path]] = {}
        for file in files:
            self._named.setdefault(file.name, []).append(file)
        for name, there in list(self._named.items()):  # in other capitals, where nothing else fits
            self._named.setdefault(alike(name), there)

    def find(self, name: str, table: Path, part: str = "") -> Path | None:
        """The image whose path ends most like `name`, nearest to the json; None where there is
        none. Raises DataError where several could be."""
        wanted = [each for each in name.replace("\\", "/").split("/") if each not in (".", "..")]
        last = wanted[-1] if wanted else ""
        there = self._named.get(last) or self._named.get(alike(last), [])
        if len(there) > 1:
            shared = {file: _shared(file.parts, wanted) for file in there}
            there = [file for file in there if shared[file] == max(shared.values())]
        for near in (
            lambda file: file.parent == table.parent,
            lambda file: table.parent in file.parents,
            lambda file: part_of(*file.parent.parts[len(table.parent.parts) - 1 :]) == part,
        ):
            if len(there) > 1:
                there = [file for file in there if near(file)] or there
        if len(there) > 1:
            raise DataError(f"{table}: {name} could be {there[0]} or {there[1]}")
        return there[0] if there else None


def divided(
    tree: Tree, layout: str, found: Mapping[Path, Annotated], tables: Sequence[Path]
) -> Found:
    """Returns what is learned from and what is judged.

    Raises DataError where nothing is learned from.
    """
    train: list[Item] = []
    test: list[Item] = []
    parts = {entry.part for entry in found.values()} - {""}
    for_test = {"test"} if "test" in parts else {"test", "val"}
    for file, entry in found.items():
        path = tree.path(file)
        if not entry.kinds:
            item = Item(path, GOOD, entry.source)
            (test if entry.part in for_test else train).append(item)
        elif entry.part and entry.part not in for_test:
            tree.leave(file, "defective, so it is not learned from")
        elif entry.shapes:
            try:
                size = entry.size or images.size(entry.source)
            except DataError:  # the image's reader names it
                size = (1, 1)
            of = f"{tree.path(entry.table)} of {path}"
            drawn = Drawn(*size, tuple(entry.shapes))
            test.append(Item(path, _kind(entry), entry.source, of, (drawn,)))
        else:
            test.append(Item(path, _kind(entry), entry.source))
            tree.leave(file, UNMASKED)
    if not parts:
        tree.notes.append("no json or folder is called train or test")
    used = {tree.path(path) for table in tables for path in (table, table.parent)}
    tree.left_out[:] = [entry for entry in tree.left_out if entry.path not in used]
    return tree.found(layout, train, test)._replace(undivided=not parts)


def rectangle(left: float, top: float, right: float, bottom: float) -> Shape:
    """Returns the shape between two corners."""
    return Shape("polygon", [(left, top), (right, top), (right, bottom), (left, bottom)])


def mentions(file: Path, *words: str) -> bool:
    """Returns whether a file is a json of an object with these words in it, which is not parsed: it
    may be large, and of another tool."""
    if not is_json(file):
        return False
    try:
        with (
            open(file, "rb") as opened,
            mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text,
        ):
            start = text[:64].removeprefix(b"\xef\xbb\xbf").lstrip()
            return start.startswith(b"{") and all(text.find(word.encode()) >= 0 for word in words)
    except (OSError, ValueError):  # empty, or not to be read
        return False


def is_json(file: Path) -> bool:
    """Returns whether a file has json's suffix and is not hidden."""
    return file.suffix.lower() == ".json" and not file.name.startswith(".")


def content(table: Path) -> dict[str, Any]:
    """Returns what a json holds; raises DataError where it is no object of json."""
    try:
        read = json.loads(table.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise DataError(f"{table}: cannot be read: {error}") from error
    if not isinstance(read, dict):
        raise DataError(f"{table}: not an object of json")
    return read


def size_of(record: Mapping[str, Any], height: str, width: str) -> tuple[int, int] | None:
    """Returns (height, width) by these names; None where one is missing or 0."""
    return (
        (int(record[height]), int(record[width]))
        if record.get(height) and record.get(width)
        else None
    )


def is_painted(root: Path, names: Names) -> bool:
    """Returns whether masks are there as images, which are more exact than outlines."""
    if names.layout != USUAL.layout:
        return False
    return any(plain(each.name) in MASK_NAMES and holds_images(each) for each in subfolders(root))


def is_good(name: str, names: Names) -> bool:
    """Returns whether a folder or a label is called as good images are."""
    return name == names.good_name or (not names.good_name and plain(name) in GOOD_NAMES)


def said_of(tree: Tree, file: Path, names: Names) -> str:
    """Returns what an image's folders say that it shows; "" where they say nothing."""
    folders = file.relative_to(tree.root).parts[:-1]
    if any(is_good(folder, names) for folder in folders):
        return GOOD
    bad = [i for i, folder in enumerate(folders) if plain(folder) in BAD_NAMES]
    return folders[min(bad[0] + 1, len(folders) - 1)] if bad else ""


def folder_part(tree: Tree, file: Path) -> str:
    """Returns the part that a file's folders speak of, the nearest one first."""
    return part_of(*reversed(file.relative_to(tree.root).parts[:-1]))


def part_of(*names: str) -> str:
    """Returns the part that the first of these names speaks of, "" for none; one that speaks of
    several is passed over."""
    for name in names:
        parts = Counter(
            PART_OF[word] for word in re.findall("[a-z]+", name.lower()) if word in PART_OF
        )
        if len(parts) == 1:
            return next(iter(parts))
    return ""


def _kind(entry: Annotated) -> str:
    return "+".join(sorted(entry.kinds))


def _shared(path: Sequence[str], wanted: Sequence[str]) -> int:
    """How many last parts two paths share."""
    pairs = list(zip(reversed(path), reversed(wanted), strict=False))
    return next((i for i, (one, other) in enumerate(pairs) if one != other), len(pairs))
