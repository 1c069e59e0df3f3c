"""Defects outlined in COCO's json of many images; see `annotated`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cae_jax.data.layouts.annotated import (
    FOLDERS,
    Annotated,
    Images,
    content,
    divided,
    folder_part,
    is_good,
    is_painted,
    mentions,
    part_of,
    rectangle,
    said_of,
    size_of,
)
from cae_jax.data.layouts.found import (
    USUAL,
    Found,
    Names,
    Tree,
    is_result,
    plain,
    subfolders,
)
from cae_jax.data.outlines import Shape
from cae_jax.types import GOOD, DataError, LeftOut


def is_coco(root: Path, names: Names) -> bool:
    """Returns whether a folder has a json of COCO in it, in `annotations` or in a part's folder, or
    is one; without a folder of masks, unless the layout is asked for."""
    return bool(_tables(root)) and not is_painted(root, names)


def coco(root: Path, names: Names = USUAL) -> Found:
    """Lists the images of COCO's json: polygons, runs of pixels, or else boxes are masks, names of
    categories the kinds. An image in no json is used where its folder says what it is.

    Raises DataError for a json that cannot be used, and an image in two parts.
    """
    tables = _tables(root)
    tree = Tree(root.parent if root.is_file() else root)
    known = Images(tree.images(tree.root))
    found: dict[Path, Annotated] = {}
    for table in tables:
        try:
            _read_coco(tree, known, table, names, found)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{table}: not COCO's json: {error!r} in it") from error
    for file in known.files:
        said = said_of(tree, file, names)
        if file in found:
            if not found[file].kinds and said and said != GOOD:
                found[file].kinds.add(said)
        elif said:
            entry = found[file] = Annotated(file, folder_part(tree, file), None, file)
            entry.kinds |= {said} - {GOOD}
        else:
            tree.leave(file, "in no json of COCO, so nobody knows whether it is good")
    return divided(tree, "coco", found, tables)


def _read_coco(
    tree: Tree, known: Images, table: Path, names: Names, found: dict[Path, Annotated]
) -> None:
    record = content(table)
    part = part_of(table.stem) or folder_part(tree, table)
    kinds = {str(each["id"]): str(each["name"]) for each in record.get("categories", [])}
    by_id: dict[str, Annotated | None] = {}
    for image in record["images"]:
        file = known.find(str(image["file_name"]), table, part)
        if file is None:
            tree.left_out.append(
                LeftOut(str(image["file_name"]), f"not there, but in {table.name}")
            )
            by_id[str(image["id"])] = None
            continue
        own = part or folder_part(tree, file)
        entry = found.setdefault(
            file, Annotated(table, own, size_of(image, "height", "width"), file)
        )
        if own and entry.part and own != entry.part:
            raise DataError(
                f"{table}: {tree.path(file)} is for {own}, in another json for {entry.part}"
            )
        entry.part = entry.part or own
        by_id[str(image["id"])] = entry
    lost = 0
    for each in record["annotations"]:
        lost += str(each["image_id"]) not in by_id
        one = by_id.get(str(each["image_id"]))
        kind = kinds.get(str(each.get("category_id")), "defect").strip() or "defect"
        if one and ("category_id" in each or _shapes(each)) and not is_good(kind, names):
            one.kinds.add(kind)
            one.shapes += _shapes(each)
    if lost:
        tree.notes.append(f"{lost} annotations in {table.name} are of no image in it")


def _shapes(annotation: Mapping[str, Any]) -> list[Shape]:
    """A segmentation of COCO, or the box where there is none."""
    outline = annotation.get("segmentation")
    if isinstance(outline, dict):
        return [Shape("rle", outline)]
    if outline and not isinstance(outline[0], list):  # one polygon that is not in a list of them
        outline = [outline]
    if outline:
        return [Shape("polygon", list(zip(ring[::2], ring[1::2], strict=True))) for ring in outline]
    if box := annotation.get("bbox"):
        x, y, width, height = map(float, box)
        return [rectangle(x, y, x + width, y + height)]
    return []


def _tables(root: Path) -> list[Path]:
    """The json files of COCO of a category."""
    if root.is_file():
        return [root] if _is_coco(root) else []
    if not root.is_dir() or is_result(root):
        return []
    there = [each for each in subfolders(root) if plain(each.name) in FOLDERS or part_of(each.name)]
    return [
        file for each in (root, *there) for file in sorted(each.glob("*.json")) if _is_coco(file)
    ]


def _is_coco(file: Path) -> bool:
    return mentions(file, '"images"', '"annotations"')
