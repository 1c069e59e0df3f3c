"""A category in a folder, of whatever layout, read as it lies there: see `data.layouts`."""

from __future__ import annotations

import csv
import importlib.resources
import itertools
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cae_jax.data import images, layouts
from cae_jax.data.frame import Frame, stretched
from cae_jax.data.layouts.found import USUAL, Found, Item, Names
from cae_jax.types import GOOD, DataError, LeftOut, Split, unknown_name

_ALL_BLACK = "scored, but its mask is all black: nothing to compare with"


def table1() -> dict[str, dict[str, str]]:
    """Table 1 of the thesis by category: n_train, n_test_good, n_test_defective and more."""
    table = importlib.resources.files("cae_jax") / "tables" / "table1_dataset.csv"
    return {row["category"]: row for row in csv.DictReader(table.read_text().splitlines())}


def read(
    data_dir: Path,
    category: str,
    frame: Frame,
    on_bad_image: str = "error",
    progress: Callable[[int], None] | None = None,
    names: Names = USUAL,
) -> Split:
    """Reads a category in the folder `data_dir`, see `layouts.locate`; see `assemble` for the other
    arguments and the errors."""
    found = layouts.find(layouts.locate(data_dir, category, names), names)
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
    for part, items in (("train", found.train), ("test", found.test)):
        pixels, kept, skipped, sizes = images.decode_all(
            [item.source for item in items], frame, "skip", progress
        )
        lost = sorted(set(range(len(items))) - set(kept))
        bad += [LeftOut(items[i].path, s.cause) for i, s in zip(lost, skipped, strict=True)]
        if on_bad_image == "skip" and items and not kept:
            raise DataError(f"{found.root}/{part}: none of its images can be used")
        parts.append((pixels, [items[i] for i in kept], sizes))
    (train, train_items, train_sizes), (test, test_items, test_sizes) = parts
    masks, has_mask, bad_masks = _decode_masks(test_items, frame)
    bad += bad_masks
    marked = masks.any(axis=(1, 2)) | np.array([i.kind == GOOD for i in test_items], bool)
    black = [item.path for item in itertools.compress(test_items, has_mask & ~marked)]
    if bad and on_bad_image == "error":
        raise _bad_files(found.root, bad)
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
        test_sizes=tuple(test_sizes),
        left_out=_left_out(found, bad, black),
        warnings=_warnings(category, found) + stretched(category, frame, train_sizes + test_sizes),
        layout=found.layout,
        notes=found.notes,
    )


def _left_out(found: Found, bad: list[LeftOut], black: list[str]) -> tuple[LeftOut, ...]:
    """All that is left out, by path: what is bad is not scored, whether or not it has a mask."""
    lost = {entry.path for entry in bad}
    before = [entry for entry in found.left_out if entry.path not in lost]
    return tuple(sorted([*before, *bad, *(LeftOut(path, _ALL_BLACK) for path in black)]))


def _bad_files(root: str, bad: list[LeftOut]) -> DataError:
    more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
    return DataError(
        f"{root}/{bad[0].path}: {bad[0].cause}{more}; "
        "--on_bad_image=skip lists what is bad and goes on"
    )


def _decode_masks(items: list[Item], frame: Frame) -> tuple[np.ndarray, np.ndarray, list[LeftOut]]:
    """Masks bool [n, H, W] of test images, which of them are known, and the files left out."""

    def decode(item: Item) -> np.ndarray | DataError | None:
        if not item.masks:
            return None
        try:
            expected = images.size(item.source)
            parts = [images.decode_mask(m, frame, expected, item.mask_path) for m in item.masks]
            return np.any(parts, axis=0)
        except DataError as error:
            return error

    masks = np.zeros((len(items), *(frame.size or (0, 0))), bool)
    has_mask = np.array([item.kind == GOOD for item in items], bool)
    left_out = []
    with ThreadPoolExecutor() as pool:
        for i, result in enumerate(pool.map(decode, items)):
            if isinstance(result, DataError):
                path = items[i].mask_path
                left_out.append(LeftOut(path, str(result).removeprefix(f"{path!r}: ")))
            elif result is not None:
                masks[i], has_mask[i] = result, True
    return masks, has_mask, left_out


def _warnings(category: str, found: Found) -> tuple[str, ...]:
    """What the user should know of the counts: Table 1's differ, or a part is empty."""
    if not found.test:
        return ()  # as of good images alone: the layout's notes say so
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
    # of MVTec AD itself: a product may be called like one of its categories
    printed = table1().get(category, {}) if found.layout in ("", "mvtec_ad") else {}
    for column, (what, count) in counts.items():
        if printed and int(printed[column]) != count:
            warnings.append(f"{category}: {count} {what} found, Table 1 prints {printed[column]}")
    return tuple(warnings)
