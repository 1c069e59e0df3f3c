"""Public data sets with a layout of their own: VisA, Real-IAD and KolektorSDD2."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from cae_jax.data import masks as decoded
from cae_jax.data.frame import Frame
from cae_jax.data.layouts import masks as masks_of
from cae_jax.data.layouts import reserved
from cae_jax.data.layouts.found import USUAL, Found, Item, Names, Tree, entries
from cae_jax.types import GOOD, DataError

_VISA = ("data/images/normal", "data/images/anomaly")  # Data/Images/Normal
_SAMPLE = re.compile(r"S\d+")  # of Real-IAD: a folder for each sample


def is_visa(root: Path, names: Names) -> bool:
    """Returns whether a folder is an object of VisA as it is downloaded."""
    return all(reserved.holds(root, part) for part in _VISA)


def visa(root: Path, names: Names = USUAL) -> Found:
    """Lists an object of VisA (Zou et al., ECCV 2022), by the one-class split beside the objects,
    split_csv/1cls.csv; without it all normal images are learned from. Kinds are image_anno.csv's.

    Raises DataError for a table that cannot be read or has no row of this object.
    """
    tree, table = Tree(root), root.parent / "split_csv" / "1cls.csv"
    kinds = {row["image"]: row["label"] for row in _rows(root / "image_anno.csv")}
    train, test = [], []
    if table.is_file():
        rows = [row for row in _rows(table) if row["object"] == root.name]
        if not rows:
            raise DataError(f"{table}: no image of {root.name}")
    else:
        tree.notes.append(f"no {table}, which says what is for the test")
        normal, anomaly = (tree.images(reserved.part(root, part)) for part in _VISA)
        truth = reserved.part(root, "data/masks")
        there, home = tree.images(truth) if truth.is_dir() else [], reserved.part(truth, "anomaly")
        folder = reserved.part(root, _VISA[1])
        pairs = masks_of.pair(tree, anomaly, folder, there, home, names.mask_pattern)
        train = tree.good(normal)
        for file in anomaly:
            kind = kinds.get(f"{root.name}/{tree.path(file)}", "")
            test.append(tree.defective(file, kind or "anomaly", pairs.get(file, ())))
        return tree.found("visa", train, test)._replace(undivided=True)
    for row in rows:
        file, good = root.parent / row["image"], row["label"] == "normal"
        masks = (root.parent / row["mask"],) if row["mask"] else ()
        if row["split"] == "train":
            train.append(Item(tree.path(file), GOOD, file))
        elif good:
            test.append(Item(tree.path(file), GOOD, file))
        else:
            test.append(tree.defective(file, kinds.get(row["image"]) or "anomaly", masks))
    return tree.found("visa", train, test)


def is_real_iad(root: Path, names: Names) -> bool:
    """Returns whether a folder is an object of Real-IAD: OK and NG, with a folder a sample."""
    if not reserved.holds(root, "ng"):
        return False
    there = [entry for good in reserved.called(root, "ok") for entry in entries(good)]
    return any(_SAMPLE.fullmatch(each.name) for each in there)


def real_iad(root: Path, names: Names = USUAL) -> Found:
    """Lists an object of Real-IAD (Wang et al., CVPR 2024), by its json of train and test, beside
    the objects or in realiad_jsons beside them; without one, all that is OK is learned from.

    Raises DataError for a json that is not of this kind.
    """
    tree, split = Tree(root), _split_of(root)
    train: list[Item] = []
    test: list[Item] = []
    if not split:
        tree.notes.append(f"no {root.name}.json with a train and a test")
        bad = reserved.part(root, "ng")
        train = tree.good(tree.images(reserved.part(root, "ok")))
        files = tree.images(bad)
        jpegs = [file for file in files if file.suffix.lower() in (".jpg", ".jpeg")] or files
        there = [file for file in files if file not in jpegs]
        pairs = masks_of.pair(tree, jpegs, root, there, root, names.mask_pattern)
        for file in jpegs:
            kind = file.relative_to(bad).parts[0]
            test.append(tree.defective(file, kind, pairs.get(file, ())))
        return tree.found("real_iad", train, test)._replace(undivided=True)
    each = [("train", entry) for entry in split["train"]]
    each += [("test", entry) for entry in split["test"]]
    try:
        for part, entry in each:
            file, kind = root / entry["image_path"], entry["anomaly_class"]
            masks = (root / entry["mask_path"],) if entry.get("mask_path") else ()
            if kind == "OK":
                (train if part == "train" else test).append(Item(tree.path(file), GOOD, file))
            elif part == "train":
                tree.leave(file, "defective, so it is not learned from")
            else:
                test.append(tree.defective(file, kind, masks))
    except (KeyError, TypeError) as error:
        raise DataError(f"{root.name}.json: an entry without {error}, so no json of it") from error
    return tree.found("real_iad", train, test)


def is_kolektor_sdd2(root: Path, names: Names) -> bool:
    """Returns whether a folder is KolektorSDD2: images in train, each with its mask beside it."""
    train = reserved.called(root, "train")
    return any(each.stem.endswith("_GT") for folder in train for each in entries(folder))


def kolektor_sdd2(root: Path, names: Names = USUAL) -> Found:
    """Lists KolektorSDD2 (Bozic et al., Computers in Industry 129, 2021). An image is good where
    its mask is black, so masks are opened; defective training images are not learned from."""
    tree = Tree(root)
    parts: dict[str, list[Item]] = {"train": [], "test": []}
    for part, items in parts.items():
        folder = reserved.part(root, part)
        reserved.say(tree, [folder])
        there = tree.images(folder) if folder.is_dir() else []
        files = [file for file in there if "_GT" not in file.stem]
        stems = {file.stem for file in files}
        masks = {f.stem.removesuffix("_GT"): f for f in there if "_GT" in f.stem}
        for file in (masks.pop(stem) for stem in [*masks] if stem not in stems):
            tree.leave(file, "mask without an image, or a second of one")  # "10301_GT (copy).png"
        if bare := len(stems - masks.keys()):
            tree.notes.append(f"{part}: {bare} images without a mask are taken for good")
        with ThreadPoolExecutor() as pool:
            marked = dict(zip(masks, pool.map(_is_marked, masks.values()), strict=True))
        for file in files:
            if not marked.get(file.stem, False):
                items.append(Item(tree.path(file), GOOD, file))
            elif part == "train":
                tree.leave(file, "defective, so it is not learned from")
            else:
                items.append(tree.defective(file, "defect", (masks[file.stem],)))
    return tree.found("kolektor_sdd2", parts["train"], parts["test"])


def _is_marked(mask: Path) -> bool:
    """Whether a mask shows a defect; one that cannot be read is found out where it is needed."""
    try:
        return bool(decoded.read(mask, Frame(None), None).defective.any())
    except DataError:
        return True


def _rows(table: Path) -> list[dict[str, str]]:
    """The rows of a CSV, [] of one that is not there."""
    if not table.is_file():
        return []
    try:
        with open(table, encoding="utf-8-sig", newline="") as lines:
            rows = list(csv.DictReader(lines))
        for row in rows:
            for name in ("image", "label", "mask"):
                row[name] = row[name] or ""
        return rows
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise DataError(f"{table}: not a table of VisA: no column {error}") from error


def _split_of(root: Path) -> Mapping[str, Any]:
    """The json of an object of Real-IAD; {} where there is none of train and test."""
    name, above = f"{root.name}.json", root.parent.parent / "realiad_jsons"
    for path in (root / name, root.parent / name, above / name, above / "realiad_jsons" / name):
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError) as error:
                raise DataError(f"{path}: cannot be read: {error}") from error
            if isinstance(found, dict) and isinstance(found.get("train"), list):
                return {"test": [], **found}
    return {}
