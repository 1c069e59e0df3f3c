"""A category in a folder, of whatever layout, read as it lies there: see `data.layouts`."""

from __future__ import annotations

import csv
import importlib.resources
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cae_jax.data import images, layouts, remarks
from cae_jax.data.frame import Frame
from cae_jax.data.layouts.found import USUAL, Found, Item, Names
from cae_jax.data.masks import Mask
from cae_jax.data.masks import read as read_mask
from cae_jax.files import AUTO
from cae_jax.types import GOOD, DataError, LeftOut, Region, Split, unknown_name

_ALL_BLACK = "scored, but its mask is all black{}: nothing to compare with"
_SEEN = " where the image is looked at"  # of one that is not looked at whole


def table1() -> dict[str, dict[str, str]]:
    """Table 1 of the thesis by category: n_train, n_test_good, n_test_defective and more."""
    table = importlib.resources.files("cae_jax") / "tables" / "table1_dataset.csv"
    return {
        row["category"]: row
        for row in csv.DictReader(table.read_text(encoding="utf-8").splitlines())
    }


def read(
    data_dir: Path,
    category: str,
    frame: Frame,
    on_bad_image: str = "error",
    progress: Callable[[int], None] | None = None,
    names: Names = USUAL,
    held: str = AUTO,
) -> Split:
    """Reads a category in the folder `data_dir`, see `layouts.locate`; see `assemble` for the other
    arguments and the errors."""
    found = layouts.find(layouts.locate(data_dir, category, names), names)
    return assemble("folder", category, found, frame, on_bad_image, progress, held)


def assemble(
    dataset: str,
    category: str,
    found: Found,
    frame: Frame,
    on_bad_image: str = "error",
    progress: Callable[[int], None] | None = None,
    held: str = AUTO,
) -> Split:
    """Decodes what was found into a `Split`; `validation` stays empty.

    Args:
        dataset, category: of the split; a category of Table 1 is compared with its counts there.
        found: the items to decode.
        frame: what images and masks are brought to; it has a size.
        on_bad_image: "error", or "skip" to list what cannot be used and go on.
        progress, held: see `images.decode_all`.

    Raises:
        DataError: an image or a mask cannot be used, or every image of a part is skipped.
        UsageError: `on_bad_image` is neither.
    """
    _check_how(on_bad_image)
    bad, parts, noted = list[LeftOut](), [], dict[str, images.Seen]()
    for part, items in (("train", found.train), ("test", found.test)):
        pixels, kept, skipped, seen = images.decode_all(
            [item.source for item in items], *(frame, "skip", progress), held=held
        )
        if on_bad_image == "skip" and items and not kept:
            raise DataError(f"{found.root}/{part}: none of its images can be used")
        bad += _lost(items, kept, skipped)
        parts.append((pixels, [items[i] for i in kept]))
        noted |= zip((item.path for item in parts[-1][1]), seen, strict=True)
    (train, train_items), (test, test_items) = parts
    masks, has_mask, bad_masks, read = _decode_masks(test_items, frame, noted, found)
    good = np.array([item.kind == GOOD for item in test_items], bool)
    marked = has_mask & (masks.any(axis=(1, 2)) | good)
    bad += bad_masks
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
        has_mask=marked,
        test_sizes=tuple(noted[item.path].size for item in test_items),
        left_out=_left_out(found, bad, itertools.compress(test_items, has_mask & ~marked), frame),
        warnings=_warnings(category, found) + remarks.of_all(category, frame, noted, read),
        layout=found.layout,
        notes=found.notes,
        bit_depth=str(frame.bit_depth or "auto"),
        counts=_counts(frame, noted),
        regions=_regions(found, test_items, read),
    )


def _lost(items: Sequence[Item], kept: list[int], skipped: list[LeftOut]) -> list[LeftOut]:
    lost = sorted(set(range(len(items))) - set(kept))
    return [LeftOut(items[i].path, one.cause) for i, one in zip(lost, skipped, strict=True)]


def _counts(frame: Frame, noted: Mapping[str, images.Seen]) -> dict[str, np.ndarray]:
    """What of each image counts, by its path; images of one size share an array."""
    found = {path: frame.counts(seen.size) for path, seen in noted.items()}
    return {path: counts for path, counts in found.items() if counts is not None}


def _regions(
    found: Found, items: Iterable[Item], read: Mapping[str, Mask]
) -> dict[str, tuple[Region, ...]]:
    """The regions of each image with a mask, by its path, where saturations are known."""
    masked = [item for item in items if found.saturation and item.mask_path in read]
    return {item.path: read[item.mask_path].regions for item in masked}


def _check_how(on_bad_image: str) -> None:
    if on_bad_image not in ("error", "skip"):
        raise unknown_name("on_bad_image", on_bad_image, ("error", "skip"))


def _left_out(
    found: Found, bad: list[LeftOut], black: Iterable[Item], frame: Frame
) -> tuple[LeftOut, ...]:
    """All that is left out, by path: what is bad is not scored, whether or not it has a mask."""
    lost = {entry.path for entry in bad}
    before = [entry for entry in found.left_out if entry.path not in lost]
    cause = _ALL_BLACK.format("" if frame.plain else _SEEN)
    empty = [LeftOut(item.path, cause) for item in black]
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
    items: list[Item], frame: Frame, noted: Mapping[str, images.Seen], found: Found
) -> tuple[np.ndarray, np.ndarray, list[LeftOut], dict[str, Mask]]:
    """Masks bool [n, H, W] of test images, which of them are known, the files left out, and what
    was found in the others."""

    def decode(item: Item) -> Mask | DataError | None:
        if not item.masks:
            return None
        try:
            size = noted[item.path].size
            return read_mask(item.masks, frame, size, item.mask_path, found.saturation)
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
