"""A table that says of each image what it is: CSV, or JSON as a list of records, see `tables`.

Columns, whose other usual names are known: path; label, by which an image is good (a word of
GOOD_NAMES, 0 or no) or of that kind of defect (1, yes: "defect"); mask, empty where there is none;
split, "train" or "test". Without a split, good images are learned from and the others judged; where
only val has defects and there is no test, val is judged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from cae_jax.data.layouts.annotated import part_of
from cae_jax.data.layouts.found import (
    GOOD_NAMES,
    PART_OF,
    UNMASKED,
    USUAL,
    Found,
    Item,
    Names,
    Tree,
    alike,
    is_result,
    plain,
)
from cae_jax.data.layouts.tables import records, tables_in, value
from cae_jax.types import GOOD, DataError, LeftOut, UsageError

KINDS = (
    *("defect_kind", "defect_type", "defect_class", "anomaly_kind", "anomaly_type"),
    *("anomaly_class", "kind"),
)
LABELS = (
    *("label", "labels", "label_name", "class", "class_name", "class_label", "target", "anomaly"),
    *("is_anomaly", "anomalous", "is_anomalous", "defect", "is_defect", "defective"),
    *("is_defective", "label_index", "ng", "status", "verdict", "result"),
    *("label_str", "anomaly_label", "gt_label", "quality"),
)
GOOD_LABELS = ("good", "is_good", "ok", "is_ok", "normal", "is_normal")  # of which yes is good
PATHS = (
    *("image_path", "img_path", "path", "image", "img", "image_file", "image_name", "file"),
    *("filename", "file_name", "filepath", "file_path", "image_filename"),
    *("relative_path", "rel_path", "fname", "images"),
)
IDS = ("name", "image_id", "id", "key")  # paths where there is nothing better
_MASKS = (
    *("mask", "masks", "mask_path", "mask_paths", "mask_file", "mask_name", "mask_filename"),
    *("mask_id", "gt", "gt_path", "ground_truth", "ground_truth_path", "segmentation"),
)
_SPLITS = ("split", "splits", "part", "set", "subset", "phase", "usage", "partition")
_LABEL = (*LABELS[:5], *KINDS, *LABELS[5:], *GOOD_LABELS)
_NOTHING = ("", "-", "nan", "none", "null", "na", "n/a")
_NO, _YES = ("0", "0.0", "false", "no"), ("1", "1.0", "true", "yes")
_FIRST = 8  # rows by which a table is known


def tables_of(root: Path) -> list[Path]:
    """Returns the tables of a category: itself, or the one in it that has a path and a label, or
    several, one called as each part, train.csv and test.csv.

    Raises UsageError for several of which nobody knows which one is meant.
    """
    if root.is_file():
        return [root]
    if not root.is_dir() or is_result(root):  # whose tables are of scores
        return []
    fit = [each for each in tables_in(root) if _is_list(each)]
    parts = {part_of(each.stem) for each in fit}
    if len(fit) > 1 and ("" in parts or len(parts) < len(fit)):
        names = " and ".join(each.name for each in fit)
        raise UsageError(f"{root}: {names} could list its images; --data_dir={fit[0]} takes one")
    return fit


def is_listed(root: Path, names: Names) -> bool:
    """Returns whether a table says what the images are: a category's path may be a table's."""
    return bool(tables_of(root))


def listed(root: Path, names: Names = USUAL) -> Found:
    """Lists the images of a table, or of one for each part; paths are from the folder that it lies
    in, in Windows' way or not; where it has been moved, from where they still fit.

    Raises DataError for a table that cannot be read, a row without a path or a label, and a split
    that is neither train nor test.
    """
    tables = tables_of(root)
    if not tables:
        raise DataError(f"{root}: no table in it with a path and a label of each image")
    numbered = [(table, *each) for table in tables for each in enumerate(records(table), 1)]
    if len(tables) > 1:
        numbered = [(table, i, {"split": part_of(table.stem)} | row) for table, i, row in numbered]
    rows, home = [row for *_, row in numbered], tables[0].parent
    tree, there = Tree(home), _Files(home)
    parts: dict[str, dict[str, Item]] = {"train": {}, "test": {}}
    labels: dict[str, None] = {}
    columns = _split_columns(rows)
    judged = _judged(rows, columns, names)
    for table, i, row in numbered:
        text, label = value(row, (*PATHS, *IDS))[1], _label(row)
        file, path = there.find(text)
        if not path or not label:
            raise DataError(f"{table}: record {i} has no {'label' if path else 'path'}")
        if any(path in part for part in parts.values()):
            raise DataError(f"{table}: record {i}: {path} stands above, too")
        kind, masks = kind_of(label, names), _masks(row, there)
        labels[label] = None
        split = value(row, columns)[1].lower() or ("train" if kind == GOOD else "test")
        if split not in PART_OF:
            raise DataError(f"{table}: record {i}: split {split!r} is neither train nor test")
        part = parts["test" if PART_OF[split] in judged else "train"]
        if kind == GOOD:
            part[path] = Item(path, GOOD, file)
        elif part is parts["train"]:
            tree.left_out.append(LeftOut(path, "defective, so it is not learned from"))
        else:
            part[path] = Item(path, kind, file, *masks)
            if not masks:
                tree.left_out.append(LeftOut(path, UNMASKED))
    if not parts["train"]:
        words = ", ".join(list(labels)[:8])
        raise DataError(
            f"{tables[0]}: no good image to learn from; its labels are {words}: --good_name=NAME "
            "says which is good"
        )
    tree.notes += there.moved
    divided = any(value(row, columns)[1] for row in rows)
    found = tree.found("listed", *(list(part.values()) for part in parts.values()))
    return found._replace(undivided=not divided)


def kind_of(label: str, names: Names) -> str:
    """Returns GOOD or the kind of defect that a label says; with a --good_name it alone is good."""
    if names.good_name:
        good = label == names.good_name
    else:
        good = label.lower() in _NO or plain(label) in GOOD_NAMES
    if good:
        return GOOD
    return "defect" if label.lower() in _YES else label


class _Files:
    """The files that a table speaks of."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.moved: list[str] = []  # what is said of the first path that begins elsewhere
        self._names: dict[Path, dict[str, Path]] = {}

    def find(self, text: str) -> tuple[Path, str]:
        """A path's file, which may not be there, and what it is called from here."""
        exact = self.root / text
        if not exact.is_file():
            parts = _parts(text)
            absolute = PurePosixPath(text).is_absolute() or PureWindowsPath(text).drive
            if self.root.name in parts[:-1]:
                last = len(parts) - 1 - parts[::-1].index(self.root.name)
                starts = [0, last + 1]
            else:
                starts = [0]
            starts += range(1, len(parts)) if absolute else ()
            for start in starts:
                if found := self._spelled(parts[start:]):
                    exact = found
                    if start and not self.moved:
                        now = found.relative_to(self.root).as_posix()
                        self.moved.append(f"paths begin elsewhere: {text} is taken as {now}")
                    break
        inside = exact.is_relative_to(self.root) and ".." not in exact.parts
        return exact, "/".join(_parts(str(exact.relative_to(self.root)) if inside else text))

    def _spelled(self, parts: list[str]) -> Path | None:
        """The file of that path, in whatever capitals it is called so."""
        at = self.root
        for part in parts:
            exact = at / part
            if not exact.exists():
                if at not in self._names:
                    there = list(at.iterdir()) if at.is_dir() else []
                    self._names[at] = {alike(each.name): each for each in reversed(sorted(there))}
                found = self._names[at].get(alike(part))
                if found is None:
                    return None
                exact = found
            at = exact
        return at if at.is_file() else None


def _parts(text: str) -> list[str]:
    """The names in a path of any system, without what it begins with and dots."""
    names = text.replace("\\", "/").split("/")
    return [name for name in names if name.strip(". ") and not name.endswith(":")]


def _label(row: Mapping[str, Any]) -> str:
    """What a row says of its image; of a column for good ones turned round. Where one column says
    yes and another one of which kind, it is the kind."""
    said = [(name, text) for name in _LABEL if (text := value(row, [name])[1])]
    kind = next((text for name, text in said if name in KINDS), "")
    known = kind.lower() not in (*_NOTHING, *_NO, *_YES) and plain(kind) not in GOOD_NAMES
    said = [
        each for each in said if each[0] not in KINDS or each[1].lower() not in _NOTHING
    ] or said
    name, text = said[0] if said else ("", "")
    if name in GOOD_LABELS and text.lower() in (*_NO, *_YES):
        text = _YES[0] if text.lower() in _NO else _NO[0]
    return kind if known and text.lower() in _YES else text


def _masks(row: Mapping[str, Any], there: _Files) -> tuple[()] | tuple[str, tuple[Path, ...]]:
    """The path of the first of an image's masks and the files of all; () without any. A list of
    them is one of JSON, or text with semicolons or bars."""
    name, text = value(row, _MASKS)
    each = row[name] if name and isinstance(row[name], list) else [text]
    if len(each) == 1 and re.search("[;|]", text) and not there.find(text)[0].is_file():
        each = re.split("[;|]", text)
    texts = [str(one).strip() for one in each]
    found = [there.find(one) for one in texts if one.lower() not in _NOTHING]
    return (found[0][1], tuple(file for file, _ in found)) if found else ()


def _split_columns(rows: Sequence[Mapping[str, Any]]) -> Sequence[str]:
    """The columns of which the first that a row has says what it is for: those of usual names, or
    the only one that says train, test or the like in all rows; () for none."""
    if any(value(row, _SPLITS)[0] for row in rows):
        return _SPLITS
    known = [
        each
        for each in (rows[0] if rows else ())
        if all(value(row, [each])[1].lower() in PART_OF for row in rows)
    ]
    return known if len(known) == 1 else ()


def _judged(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], names: Names) -> set[str]:
    """The parts that are judged: test, or where there is none and val has defects, val."""
    parts = [(PART_OF.get(value(row, columns)[1].lower()), row) for row in rows]
    bad = any(part == "val" and kind_of(_label(row), names) != GOOD for part, row in parts)
    return {"val"} if bad and "test" not in dict(parts) else {"test"}


def _is_list(table: Path) -> bool:
    """Whether one of a table's first records has a label and the path of a file that is there."""
    try:
        rows = records(table, whole=False)[:_FIRST]
    except DataError:
        return False
    there = _Files(table.parent)
    paths = [value(row, (*PATHS, *IDS))[1] for row in rows if value(row, _LABEL)[0]]
    return any(path and there.find(path)[0].is_file() for path in paths)
