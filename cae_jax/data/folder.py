"""Images in MVTec AD's layout, read from a folder as they lie there.

    DIR/CATEGORY/train/good/*         DIR/CATEGORY/test/KIND/*
    DIR/CATEGORY/test/good/*          DIR/CATEGORY/ground_truth/KIND/STEM_mask.png

(Bergmann et al., MVTec AD, CVPR 2019.) Whatever else lies there is listed with the cause.
"""

from __future__ import annotations

import csv
import importlib.resources
import itertools
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cae_jax.data import images, remarks
from cae_jax.data.frame import Frame
from cae_jax.data.masks import Mask
from cae_jax.data.masks import read as read_mask
from cae_jax.types import GOOD, DataError, LeftOut, Split, unknown_name

_ALL_BLACK = "scored, but its mask is all black{}: nothing to compare with"
_SEEN = " where the image is looked at"  # of one that is not looked at whole
_LAYOUT = ("train", "train/good", "test", "ground_truth")


class Item(NamedTuple):
    """One image to use: where its bytes are, what it shows, and its mask."""

    path: str  # relative to the category, forward slashes
    kind: str  # GOOD or the defect kind
    source: Path | bytes
    mask_path: str = ""  # "" for a good image and for a defect without a mask
    mask: Path | bytes | None = None


class Found(NamedTuple):
    """What a category holds before anything is decoded, each part in the order of its paths."""

    root: str  # what errors put before a path
    train: tuple[Item, ...]
    test: tuple[Item, ...]
    left_out: tuple[LeftOut, ...]


def table1() -> dict[str, dict[str, str]]:
    """Table 1 of the thesis by category: n_train, n_test_good, n_test_defective and more."""
    table = importlib.resources.files("cae_jax") / "tables" / "table1_dataset.csv"
    return {
        row["category"]: row
        for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    }


def categories(data_dir: Path) -> tuple[str, ...]:
    """Names of the sub-folders of `data_dir` that hold a train/good folder, sorted."""
    return tuple(p.name for p in _entries(data_dir) if (p / "train" / "good").is_dir())


def find(root: Path) -> Found:
    """Lists the category in the folder `root` without opening an image.

    A defect image without a mask is used and listed as left out of what compares pixels.

    Raises:
        DataError: train/good or test is missing or holds no image.
    """
    for part in ("train/good", "test"):
        if not (root / part).is_dir():
            raise DataError(f"{root / part}: no such folder, and a category needs one")
    left_out = [
        LeftOut(_relative(root, entry), "not part of the layout")
        for entry in [*_entries(root), *_entries(root / "train")]
        if _relative(root, entry) not in _LAYOUT
    ]
    train = [
        Item(_relative(root, file), GOOD, file)
        for file in _images(root, root / "train" / "good", left_out)
    ]
    test: list[Item] = []
    for folder in _kinds(root, "test", left_out):
        files = _images(root, folder, left_out)
        masks = _masks(root, folder.name, files, left_out)
        for file in files:
            mask = masks.get(file)
            mask_path = _relative(root, mask) if mask else ""
            test.append(Item(_relative(root, file), folder.name, file, mask_path, mask))
            if mask is None and folder.name != GOOD:
                left_out.append(LeftOut(test[-1].path, "scored, but has no mask to compare with"))
    for folder in _kinds(root, "ground_truth", left_out):
        if not (root / "test" / folder.name).is_dir():
            _masks(root, folder.name, [], left_out)
    for part, items in (("train/good", train), ("test", test)):
        if not items:
            raise DataError(f"{root / part}: no image in it; suffixes read: {_suffixes()}")
    return Found(str(root), tuple(sorted(train)), tuple(sorted(test)), tuple(sorted(left_out)))


def read(
    data_dir: Path,
    category: str,
    frame: Frame,
    on_bad_image: str = "error",
    progress: Callable[[int], None] | None = None,
) -> Split:
    """Reads the folder `data_dir`/`category`; see `assemble` for the arguments and errors."""
    found = find(data_dir / category)
    return assemble("folder", category, found, frame, on_bad_image, progress)


def assemble(
    dataset: str,
    category: str,
    found: Found,
    frame: Frame,
    on_bad_image: str = "error",
    progress: Callable[[int], None] | None = None,
) -> Split:
    """Decodes what was found into a `Split`; `validation` stays empty.

    Args:
        dataset: the name that the split carries, as `category` is.
        category: a name in Table 1 has its counts compared with the table's.
        found: the items to decode.
        frame: what images and masks are brought to; it has a size.
        on_bad_image: "error", or "skip" to list what cannot be used and go on.
        progress: see `images.decode_all`.

    Raises:
        DataError: an image or a mask cannot be used, or every image of a part is skipped.
        UsageError: an argument makes no sense.
    """
    if on_bad_image not in ("error", "skip"):
        raise unknown_name("on_bad_image", on_bad_image, ("error", "skip"))
    bad: list[LeftOut] = []
    parts = []
    noted: dict[str, images.Seen] = {}
    for part, items in (("train", found.train), ("test", found.test)):
        pixels, kept, skipped, seen = images.decode_all(
            [item.source for item in items], frame, "skip", progress
        )
        lost = sorted(set(range(len(items))) - set(kept))
        bad += [LeftOut(items[i].path, s.cause) for i, s in zip(lost, skipped, strict=True)]
        if on_bad_image == "skip" and not kept:
            raise DataError(f"{found.root}/{part}: none of its images can be used")
        parts.append((pixels, [items[i] for i in kept]))
        noted |= {item.path: one for item, one in zip(parts[-1][1], seen, strict=True)}
    (train, train_items), (test, test_items) = parts
    masks, has_mask, bad_masks, read = _decode_masks(test_items, frame)
    bad.extend(bad_masks)
    marked = masks.any(axis=(1, 2)) | np.array([i.kind == GOOD for i in test_items], bool)
    black = [item.path for item in itertools.compress(test_items, has_mask & ~marked)]
    _check_bad(found.root, bad, on_bad_image)
    return Split(
        dataset=dataset,
        category=category,
        train=train,
        train_paths=tuple(item.path for item in train_items),
        validation=train[:0],
        validation_paths=(),
        test=test,
        test_paths=tuple(item.path for item in test_items),
        kinds=tuple(item.kind for item in test_items),
        masks=masks,
        has_mask=has_mask & marked,
        test_sizes=tuple(noted[item.path].size for item in test_items),
        left_out=_left_out(found, bad, black, "" if frame.plain else _SEEN),
        warnings=_warnings(category, found) + remarks.of_all(category, frame, noted, read),
        counts=_counts(frame, noted),
    )


def _counts(frame: Frame, noted: Mapping[str, images.Seen]) -> dict[str, np.ndarray]:
    """What of each image counts, by its path; images of one size share an array."""
    found = {path: frame.counts(seen.size) for path, seen in noted.items()}
    return {path: counts for path, counts in found.items() if counts is not None}


def _left_out(
    found: Found, bad: list[LeftOut], black: list[str], where: str
) -> tuple[LeftOut, ...]:
    """All that is left out, by path: what is bad is not scored, whether or not it has a mask."""
    lost = {entry.path for entry in bad}
    before = [entry for entry in found.left_out if entry.path not in lost]
    empty = [LeftOut(path, _ALL_BLACK.format(where)) for path in black]
    return tuple(sorted([*before, *bad, *empty]))


def _check_bad(root: str, bad: list[LeftOut], on_bad_image: str) -> None:
    if not bad or on_bad_image == "skip":
        return
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    raise DataError(
        f"{root}/{bad[0].path}: {bad[0].cause}{more}; "
        "--on_bad_image=skip lists what is bad and goes on"
    )


def _decode_masks(
    items: list[Item], frame: Frame
) -> tuple[np.ndarray, np.ndarray, list[LeftOut], dict[str, Mask]]:
    """Masks bool [n, H, W] of test images, which of them are known, the files left out, and what
    was found in the others."""

    def decode(item: Item) -> Mask | DataError | None:
        if item.mask is None:
            return None
        try:
            expected = images.size(item.source)
            return read_mask(item.mask, frame, expected, item.mask_path)
        except DataError as error:
            return error

    masks = np.zeros((len(items), *(frame.size or (0, 0))), bool)
    has_mask = np.array([item.kind == GOOD for item in items], bool)
    left_out = []
    read = {}
    with ThreadPoolExecutor() as pool:
        for i, result in enumerate(pool.map(decode, items)):
            if isinstance(result, DataError):
                path = items[i].mask_path
                left_out.append(LeftOut(path, str(result).removeprefix(f"{path!r}: ")))
            elif result is not None:
                masks[i], has_mask[i] = result.defective, True
                read[items[i].mask_path] = result
    return masks, has_mask, left_out, read


def _masks(root: Path, kind: str, files: list[Path], left_out: list[LeftOut]) -> dict[Path, Path]:
    """The mask of each image of a defect kind, each mask used once; the others are listed."""
    folder = root / "ground_truth" / kind
    if not folder.is_dir():
        return {}
    unused: dict[str, list[Path]] = {}
    for mask in _images(root, folder, left_out):
        unused.setdefault(mask.stem, []).append(mask)
    pairs: dict[Path, Path] = {}
    # STEM_mask first: an image may itself be named like the mask of another one.
    for ending in ("_mask", "") if kind != GOOD else ():
        for file in files:
            masks = unused.get(file.stem + ending)
            if masks and file not in pairs:
                pairs[file] = masks.pop(0)
    cause = "mask of a good image" if kind == GOOD else "mask without an image, or a second of one"
    for masks in unused.values():
        left_out += [LeftOut(_relative(root, mask), cause) for mask in masks]
    return pairs


def _images(root: Path, folder: Path, left_out: list[LeftOut]) -> list[Path]:
    """The files in `folder` with an image's suffix, sorted; the other entries are listed."""
    files = []
    for entry in _entries(folder):
        if entry.name.startswith("."):
            cause = "hidden"
        elif entry.is_dir():
            cause = "a folder where an image belongs"
        elif entry.suffix.lower() not in images.SUFFIXES:
            cause = f"not an image's suffix ({_suffixes()})"
        else:
            files.append(entry)
            continue
        left_out.append(LeftOut(_relative(root, entry), cause))
    return files


def _kinds(root: Path, part: str, left_out: list[LeftOut]) -> list[Path]:
    """The folders in test or ground_truth, one a defect kind; the other entries are listed."""
    folders = []
    for entry in _entries(root / part) if (root / part).is_dir() else []:
        if entry.is_dir() and not entry.name.startswith("."):
            folders.append(entry)
        else:
            cause = "hidden" if entry.name.startswith(".") else "not in the folder of a defect kind"
            left_out.append(LeftOut(_relative(root, entry), cause))
    return folders


def _warnings(category: str, found: Found) -> tuple[str, ...]:
    """What the user should know of the counts: Table 1's differ, or a part is empty."""
    good = sum(item.kind == GOOD for item in found.test)
    counts = {
        "n_train": ("training images", len(found.train)),
        "n_test_good": ("good test images", good),
        "n_test_defective": ("defective test images", len(found.test) - good),
    }
    warnings = [
        f"{category}: no {what}: no accuracy, no AUROC can be computed"
        for what, count in counts.values()
        if not count
    ]
    printed = table1().get(category, {})
    for column, (what, count) in counts.items():
        if printed and int(printed[column]) != count:
            warnings.append(f"{category}: {count} {what} found, Table 1 prints {printed[column]}")
    return tuple(warnings)


def _entries(folder: Path) -> list[Path]:
    """The folder's entries, sorted by name, whatever the file system's order or the locale."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error


def _relative(root: Path, file: Path) -> str:
    return file.relative_to(root).as_posix()


def _suffixes() -> str:
    return " ".join(sorted(images.SUFFIXES))
