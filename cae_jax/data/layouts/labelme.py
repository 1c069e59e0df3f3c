"""Defects outlined in LabelMe's json of each image; see `annotated`."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
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
    is_json,
    is_painted,
    mentions,
    part_of,
    rectangle,
    said_of,
    size_of,
)
from cae_jax.data.layouts.found import (
    BAD_NAMES,
    GOOD_NAMES,
    USUAL,
    Found,
    Names,
    Tree,
    is_result,
    plain,
    subfolders,
    walk,
)
from cae_jax.data.outlines import Shape
from cae_jax.types import GOOD, DataError

_LABELME = {"polygon": "polygon", "line": "line", "linestrip": "line", "circle": "circle"}
_LABELME |= {"point": "points", "points": "points", "oriented_rectangle": "polygon"}
_LABELME |= {"rotation": "polygon", "quadrilateral": "polygon"}  # as X-AnyLabeling writes them


def is_labelme(root: Path, names: Names) -> bool:
    """Returns whether a folder, or a part's, a kind's or one of images in it, has a json of
    LabelMe; without a folder of masks, unless the layout is asked for."""
    if not root.is_dir() or is_result(root) or is_painted(root, names):
        return False
    if any(_is_labelme(file) for file in sorted(root.glob("*.json"))):
        return True
    there = subfolders(root)
    own = GOOD_NAMES | BAD_NAMES | FOLDERS
    kinds = any(plain(each.name) in GOOD_NAMES or each.name == names.good_name for each in there)
    return any(
        next(_labelme_tables(each), None) is not None
        for each in there
        if kinds or plain(each.name) in own or part_of(each.name)
    )


def labelme(root: Path, names: Names = USUAL) -> Found:
    """Lists images with LabelMe's json of each, labels being the kinds. An image without a json is
    good, unless it lies beside a folder of good ones, or in one of a name for defects.

    Raises DataError for a json that cannot be used.
    """
    tree = Tree(root)
    known, tables = Images(tree.images(root)), sorted(_labelme_tables(root))
    beside = {(file.parent, file.stem): file for file in reversed(known.files)}
    found: dict[Path, Annotated] = {}
    for table in tables:
        try:
            _read_labelme(tree, known, beside, table, names, found)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(f"{table}: not LabelMe's json: {error!r} in it") from error
    folders = {part for file in known.files for part in file.relative_to(root).parts[:-1]}
    sorted_by_hand = any(is_good(folder, names) for folder in folders)
    taken = 0
    for file in known.files:
        entry = found.setdefault(file, Annotated(file, folder_part(tree, file), None, file))
        if not entry.kinds:
            said = said_of(tree, file, names)
            if not said and sorted_by_hand and entry.table == file:
                said = _own_folder(tree, file)
            taken += not said and entry.table == file
            entry.kinds |= {said or GOOD} - {GOOD}
    if taken:
        tree.notes.append(f"{taken} images without a json of LabelMe are taken for good")
    return divided(tree, "labelme", found, tables)


def _read_labelme(
    tree: Tree,
    known: Images,
    beside: Mapping[tuple[Path, str], Path],
    table: Path,
    names: Names,
    found: dict[Path, Annotated],
) -> None:
    record = content(table)
    name = str(record.get("imagePath") or "").replace("\\", "/").split("/")[-1]
    exact = beside.get((table.parent, Path(name).stem))
    file = exact if exact and exact.name == name else beside.get((table.parent, table.stem))
    file = file or known.find(str(record.get("imagePath") or ""), table)
    source: Path | bytes
    if file is None:
        if not record.get("imageData"):
            tree.leave(table, f"its image {name} is not there")
            return
        file, source = table, base64.b64decode(record["imageData"])
    else:
        source = file
    size = size_of(record, "imageHeight", "imageWidth")
    entry = found.setdefault(file, Annotated(table, folder_part(tree, file), size, source))
    for shape in record["shapes"]:
        kind = str(shape.get("label") or "").strip() or "defect"
        if not is_good(kind, names):
            entry.kinds.add(kind)
            entry.shapes.append(_labelme_shape(table, shape))


def _labelme_shape(table: Path, shape: Mapping[str, Any]) -> Shape:
    kind, points = shape.get("shape_type") or "polygon", shape["points"]
    if kind == "mask":
        return Shape("bitmap", (points[0], shape["mask"]))
    if kind == "rectangle":
        if len(points) == 2:
            return rectangle(*points[0], *points[1])
        kind = "polygon"
    if kind not in _LABELME:
        raise DataError(f"{table}: a shape {kind!r}; known are {', '.join(sorted(_LABELME))}")
    return Shape(_LABELME[kind], points)


def _labelme_tables(folder: Path) -> Iterator[Path]:
    return (file for file in walk(folder, is_json) if _is_labelme(file))


def _is_labelme(file: Path) -> bool:
    return mentions(file, '"shapes"', '"imagePath"')


def _own_folder(tree: Tree, file: Path) -> str:
    """The kind of a defect that nobody outlined: the first folder that is no part's."""
    folders = file.relative_to(tree.root).parts[:-1]
    own = [each for each in folders if plain(each) not in FOLDERS and not part_of(each)]
    return own[0] if own else "defect"
