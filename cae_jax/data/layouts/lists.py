"""A table that says of each image what it is: CSV, or JSON as a list of records.

Columns, whose other usual names are known: path; label, by which an image is good (a word of
GOOD_NAMES, or 0) or of that kind of defect (1: "defect"); mask, empty where there is none; split,
"train" or "test". Without a split, good images are learned from and the others judged.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cae_jax.data.layouts.found import (
    GOOD_NAMES,
    PART_OF,
    UNMASKED,
    USUAL,
    Found,
    Item,
    Names,
    Tree,
    is_result,
    plain,
)
from cae_jax.types import GOOD, DataError, LeftOut, UsageError

_COLUMNS = {
    "path": ("path", "image_path", "image", "file", "filename", "file_name"),
    "label": ("label", "class", "kind", "anomaly_class", "defect"),
    "mask": ("mask", "mask_path"),
    "split": ("split", "part", "set", "subset"),
}
_FOR = {"train": "train", "val": "train", "test": "test"}  # which of the two a part is for


def table_of(root: Path) -> Path | None:
    """Returns the table of a category: itself, or the one in it that has a path and a label."""
    if root.is_file():
        return root
    if not root.is_dir():
        return None
    if is_result(root):  # whose tables are of scores
        return None
    tables = [*sorted(root.glob("*.csv")), *sorted(root.glob("*.json"))]
    fit = [each for each in tables if _is_list(each)]
    if len(fit) > 1:
        names = " and ".join(each.name for each in fit)
        raise UsageError(f"{root}: {names} could list its images; --data_dir={fit[0]} takes one")
    return fit[0] if fit else None


def is_listed(root: Path, names: Names) -> bool:
    """Returns whether a table says what the images are: a category's path may be a table's."""
    return table_of(root) is not None


def listed(root: Path, names: Names = USUAL) -> Found:
    """Lists the images of a table; paths are from the folder that it lies in.

    Raises DataError for a table that cannot be read, a row without a path or a label, and a split
    that is neither train nor test.
    """
    table = table_of(root)
    if table is None:
        raise DataError(f"{root}: no table in it with a path and a label of each image")
    tree, rows = Tree(table.parent), _rows(table)
    parts: dict[str, dict[str, Item]] = {"train": {}, "test": {}}
    for i, row in enumerate(rows, 1):
        path, label = Path(_value(row, "path")).as_posix(), _value(row, "label")
        if path == "." or not label:
            raise DataError(f"{table}: record {i} has no {'path' if path == '.' else 'label'}")
        if any(path in part for part in parts.values()):
            raise DataError(f"{table}: record {i}: {path} stands above, too")
        kind, mask, file = kind_of(label, names), _value(row, "mask"), tree.root / path
        split = _value(row, "split").lower() or ("train" if kind == GOOD else "test")
        if split not in PART_OF:
            raise DataError(f"{table}: record {i}: split {split!r} is neither train nor test")
        part = parts[_FOR[PART_OF[split]]]
        if kind == GOOD:
            part[path] = Item(path, GOOD, file)
        elif part is parts["train"]:
            tree.left_out.append(LeftOut(path, "defective, so it is not learned from"))
        else:
            masks = (tree.root / mask,) if mask else ()
            part[path] = Item(path, kind, file, mask, masks)
            if not masks:
                tree.left_out.append(LeftOut(path, UNMASKED))
    divided = any(_value(row, "split") for row in rows)
    found = tree.found("listed", *(list(part.values()) for part in parts.values()))
    return found._replace(undivided=not divided)


def kind_of(label: str, names: Names) -> str:
    """Returns GOOD or the kind of defect that a label says; with a --good_name it alone is good."""
    if names.good_name:
        good = label == names.good_name
    else:
        good = label in ("0", "0.0") or plain(label) in GOOD_NAMES
    if good:
        return GOOD
    return "defect" if label in ("1", "1.0") else label


def _is_list(table: Path) -> bool:
    """Whether a table's first record has a label and the path of a file that is there."""
    try:
        first = next(iter(_rows(table, whole=False)), {})
    except DataError:
        return False
    return bool(_name(first, "label")) and (table.parent / (_value(first, "path") or ".")).is_file()


def _name(row: Mapping[str, Any], column: str) -> str | None:
    """What a table calls a column; None where it has none of these."""
    named = {str(name).strip().lower(): str(name) for name in row}
    return next((named[name] for name in _COLUMNS[column] if name in named), None)


def _value(row: Mapping[str, Any], column: str) -> str:
    name = _name(row, column)
    value = None if name is None else row[name]
    return "" if value is None else str(value).strip()


def _rows(table: Path, whole: bool = True) -> list[dict[str, Any]]:
    """The records of a table, or the first one."""
    try:
        with open(table, encoding="utf-8-sig", newline="") as lines:
            if table.suffix.lower() == ".json":
                if lines.read(1) != "[":  # other tools' files, which may be large
                    raise DataError(f"{table}: not a list of records")
                lines.seek(0)
                return [row for row in json.load(lines) if isinstance(row, dict)]
            head = lines.readline()
            lines.seek(0)
            separator = ";" if head.count(";") > head.count(",") else ","
            reader = csv.DictReader(lines, delimiter=separator)
            return list(reader) if whole else [next(reader, {})]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a table of images: {error}") from error
