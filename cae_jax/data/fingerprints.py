"""Which images a run is of, and what is other about those that are there now.

`data.fingerprint` is one value for all of them. Here is one for each, so that a difference can be
named, and one for their files as they lie there, which costs no decoding.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from cae_jax.types import Split

COLUMNS = ("path", "part", "sha256")
SATURATIONS = "saturations"  # a part: of a test image's defects, see `regions`
_LEARN, _TEST = "train", "test"
_PARTS = {
    _LEARN: ("training image", "with other pixels"),
    _TEST: ("test image", "with other pixels or another mask"),
    SATURATIONS: ("image", "with other saturation thresholds"),
}
_NAMED = 3  # paths in a message


def of_each(split: Split) -> pd.DataFrame:
    """Returns a row for each image, sorted by part and path: COLUMNS.

    The digest is of an image's pixels, of a test image's with its kind and mask. Images held out
    are of part "train" too: the rows do not depend on which they are. A test image has another row
    where saturations of its defects are known.
    """
    rows = [
        (path, _LEARN, _digest("", pixels))
        for paths, images in (
            (split.train_paths, split.train),
            (split.validation_paths, split.validation),
        )
        for path, pixels in zip(paths, images, strict=True)
    ]
    rows += [
        (path, _TEST, _digest(f"{kind} {bool(known)}", pixels, mask))
        for path, kind, known, pixels, mask in zip(
            split.test_paths, split.kinds, split.has_mask, split.test, split.masks, strict=True
        )
    ]
    rows += [
        (path, SATURATIONS, _digest(repr([one.saturation for one in regions])))
        for path, regions in split.regions.items()
    ]
    # object: pandas' own strings refuse a file name that is no UTF-8
    return pd.DataFrame(sorted(rows, key=lambda row: row[1::-1]), columns=COLUMNS, dtype=object)


def changes(before: pd.DataFrame, now: pd.DataFrame) -> str:
    """Returns in words how the images of one table of `of_each` differ from those of another: "2
    training images more (train/good/010.png, ...)"; "" where they do not."""
    found = []
    for part, (name, other) in _PARTS.items():
        was, is_now = (
            dict(zip(each["path"], each["sha256"], strict=True))
            for each in (table[table["part"] == part] for table in (before, now))
        )
        known = " with saturation thresholds" if part == SATURATIONS else ""
        changed = [path for path in was if path in is_now and was[path] != is_now[path]]
        for paths, how in (
            (sorted(is_now.keys() - was.keys()), f"more{known}"),
            (sorted(was.keys() - is_now.keys()), f"less{known}"),
            (changed, other),
        ):
            if paths:
                more = ", ..." if len(paths) > _NAMED else ""
                named = ", ".join(map(_shown, paths[:_NAMED])) + more
                found.append(f"{len(paths)} {name}{'s' * (len(paths) > 1)} {how} ({named})")
    return ", ".join(found)


def of_files(root: Path, but: Collection[Path] = ()) -> str:
    """Returns one value for the names, sizes and times of all files in a folder, SHA-256 (hex).

    The same files under another path have the same one. What is in the folders `but` is passed
    over, and what cannot be listed.
    """
    seen, digest = {os.path.realpath(each) for each in but}, hashlib.sha256()
    for path in _files(root, seen):
        try:
            about = path.stat()
        except OSError:  # gone meanwhile, or a broken link
            continue
        relative = os.fsencode(path.relative_to(root))
        digest.update(b"%s\0%d %d\n" % (relative, about.st_size, about.st_mtime_ns))
    return digest.hexdigest()


def _files(root: Path, seen: set[str]) -> Iterator[Path]:
    for folder, folders, names in os.walk(root, followlinks=True):
        if (real := os.path.realpath(folder)) in seen:  # linked folders may go round in a circle
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names))


def _digest(kind: str, *arrays: np.ndarray) -> str:
    digest = hashlib.sha256(kind.encode("utf-8", "surrogateescape"))
    for array in arrays:
        digest.update(repr(array.shape).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _shown(path: str) -> str:
    return path if path.isprintable() else repr(path)
