"""Annotations drawn by hand: COCO's json of a data set, and LabelMe's json beside each image.

What is annotated is defective, of the kind that its category or label says; one that is called as
good images are (GOOD_NAMES) marks no defect. An image without an annotation is good. Where nothing
says what is for training, good images are learned from and the others judged.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cae_jax.data import pictures, shapes
from cae_jax.data.frame import Frame
from cae_jax.data.layouts.found import (
    GOOD_NAMES,
    USUAL,
    Found,
    Item,
    Names,
    Tree,
    plain,
    subfolders,
    walk,
)
from cae_jax.data.masks import decode_mask
from cae_jax.types import GOOD, DataError

_NOT_LEARNED = "defective, so it is not learned from"
_HEAD = 2**16  # bytes of a json of LabelMe, whose shapes stand at its beginning


def is_coco(root: Path, names: Names) -> bool:
    """Returns whether a folder, or annotations in it, has a json of COCO's kind."""
    return bool(_coco_files(root))


def coco(root: Path, names: Names = USUAL) -> Found:
    """Lists a data set annotated as COCO's (Lin et al., ECCV 2014): polygons, run lengths, or boxes
    where an annotation has neither.

    A json whose name has "train" in it is of images to learn from, any other of images to judge
    where there is one to learn from.

    Raises DataError for a json that is not of this kind, and an image that is not there.
    """
    tree, tables = Tree(root), _coco_files(root)
    learned = {table for table in tables if "train" in table.stem.lower()}
    parts: dict[str, list[Item]] = {"train": [], "test": []}
    seen: set[Path] = set()
    for table in tables:
        try:
            content = json.loads(table.read_text(encoding="utf-8-sig"))
            kinds = {each["id"]: str(each["name"]) for each in content.get("categories", [])}
            of_image: dict[Any, list[Mapping[str, Any]]] = {}
            for each in content["annotations"]:
                if not _is_good(kinds.get(each.get("category_id"), "defect"), names):
                    of_image.setdefault(each["image_id"], []).append(each)
            for image in content["images"]:
                file = _file(root, table, str(image["file_name"]))
                if file in seen:
                    raise DataError(f"{table}: {image['file_name']} is listed twice")
                seen.add(file)
                marks = of_image.get(image["id"], [])
                size = int(image["height"]), int(image["width"])
                drawn = [shapes.of_coco(each, size) for each in marks]
                named = {kinds.get(each.get("category_id"), "defect") for each in marks}
                item = _item(tree, file, named, drawn, table)
                _put(tree, parts, item, file, (table in learned) if learned else None)
        except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
            cause = f"no {error}" if isinstance(error, KeyError) else error
            raise DataError(f"{table}: cannot be read as COCO's annotations: {cause}") from error
    for file in walk(root):
        if file not in seen:
            tree.leave(file, "not in the annotations")
    return tree.found("coco", parts["train"], parts["test"])


def is_labelme(root: Path, names: Names) -> bool:
    """Returns whether an image in a folder, or in a folder in it, has a json of LabelMe beside it;
    not where masks are files."""
    if not root.is_dir() or (root / "ground_truth").is_dir():
        return False
    return any(_has_shapes(file.with_suffix(".json")) for file in walk(root))


def labelme(root: Path, names: Names = USUAL) -> Found:
    """Lists images annotated with LabelMe (Russell et al., IJCV 77, 2008, and its successors):
    polygons, rectangles, circles, lines, points and masks.

    Images in a folder called train are to learn from, in one called test to judge.

    Raises DataError for a json that cannot be read.
    """
    tree = Tree(root)
    parts: dict[str, list[Item]] = {"train": [], "test": []}
    there = {each.name for each in subfolders(root)}
    told = bool(there & {"train", "test"})
    for file in tree.images(root):
        table = file.with_suffix(".json")
        named: set[str] = set()
        drawn: list[np.ndarray] = []
        if table.is_file():
            try:
                content = json.loads(table.read_text(encoding="utf-8-sig"))
                size = int(content["imageHeight"]), int(content["imageWidth"])
                for each in content["shapes"]:
                    if not _is_good(str(each["label"]), names):
                        named.add(str(each["label"]))
                        drawn.append(_of_labelme(each, size))
            except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
                cause = f"no {error}" if isinstance(error, KeyError) else error
                raise DataError(f"{table}: cannot be read as LabelMe's shapes: {cause}") from error
        first = file.relative_to(root).parts[0]
        item = _item(tree, file, named, drawn, table)
        _put(tree, parts, item, file, (first == "train") if told else None)
    jsons = {f"{Path(item.path).with_suffix('.json')}" for p in parts.values() for item in p}
    tree.left_out = [each for each in tree.left_out if Path(each.path).as_posix() not in jsons]
    return tree.found("labelme", parts["train"], parts["test"])


def _of_labelme(shape: Mapping[str, Any], size: tuple[int, int]) -> np.ndarray:
    """What a shape covers, bool [H, W]."""
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind != "mask":
        return shapes.covered(kind, [(float(x), float(y)) for x, y in points], size)
    (left, top), mask = (int(each) for each in points[0]), base64.b64decode(shape["mask"])
    own = decode_mask(mask, Frame(None), None, "mask")
    found = np.zeros(size, bool)
    part = found[top : top + own.shape[0], left : left + own.shape[1]]
    part |= own[: part.shape[0], : part.shape[1]]
    return found


def _item(
    tree: Tree, file: Path, named: Iterable[str], drawn: Sequence[np.ndarray], table: Path
) -> Item:
    kind = " and ".join(sorted(named)) or GOOD
    if kind == GOOD:
        return Item(tree.path(file), GOOD, file)
    mask = pictures.png_bytes(np.any(drawn, axis=0))
    return Item(tree.path(file), kind, file, tree.path(table), (mask,))


def _put(
    tree: Tree, parts: Mapping[str, list[Item]], item: Item, file: Path, learn: bool | None
) -> None:
    """Puts an image where it belongs: to learn from or not, or by what it shows."""
    if learn and item.kind != GOOD:
        tree.leave(file, _NOT_LEARNED)
    else:
        parts["train" if learn or (learn is None and item.kind == GOOD) else "test"].append(item)


def _is_good(word: str, names: Names) -> bool:
    return word == names.good_name or plain(word) in GOOD_NAMES


def _coco_files(root: Path) -> list[Path]:
    """The jsons of COCO's kind in a folder and in annotations in it."""
    if not root.is_dir():
        return []
    there = [*sorted(root.glob("*.json")), *sorted((root / "annotations").glob("*.json"))]
    return [each for each in there if _has(each, b'"images"', b'"annotations"')]


def _has_shapes(table: Path) -> bool:
    return table.is_file() and _has(table, b'"shapes"', at_most=_HEAD)


def _has(table: Path, *words: bytes, at_most: int = -1) -> bool:
    """Whether a json is an object and has these words."""
    try:
        with open(table, "rb") as file:
            content = file.read(at_most)
    except OSError:
        return False
    begin = content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]
    return begin == b"{" and all(word in content for word in words)


def _file(root: Path, table: Path, name: str) -> Path:
    """The image that a json names, in one of the usual places."""
    part = table.stem.removeprefix("instances_")
    for where in (table.parent, root, root / "images", root / part, root / "images" / part):
        if (where / name).is_file():
            return where / name
    raise DataError(f"{table}: {name}: no such image beside it, in {root} or in images in it")
