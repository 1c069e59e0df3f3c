"""Where images come from: every data set is read into one `types.Split` per category.

arrays      images in memory, from Python alone, see `arrays.split`
folder      a folder, laid out as one of `layouts`
mvtec_ad    the same layout, prepared once by tensorflow_datasets (needs no TensorFlow)
synthetic   made-up products drawn from a seed
tfds        any data set that tensorflow_datasets prepared, by its name, see `records`
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cae_jax import files
from cae_jax.data import arrays, duplicates, folder, layouts, readers, synthetic
from cae_jax.data.frame import Frame
from cae_jax.data.layouts.found import USUAL, Names
from cae_jax.types import GOOD, DataError, Split, UsageError, unknown_name

DATASETS = ("arrays", "folder", "mvtec_ad", "synthetic", "tfds")

_LEFT_OUT_SHOWN = 10  # lines of a summary
_TAKEN = 1  # the stream of random numbers that says which images are taken


def categories(dataset: str, data_dir: str | None = None, names: Names = USUAL) -> tuple[str, ...]:
    """Names of the categories that a data set holds, sorted.

    Args:
        dataset: one of `DATASETS`.
        data_dir: folder: the parent of the categories' folders, or a category itself; mvtec_ad and
            tfds: tensorflow_datasets' data_dir; synthetic: not used.
        names: folder: what is known of the layout.

    Raises:
        UsageError: an unknown data set or layout; a `data_dir` that is needed and not given, or is
            not there.
        DataError: `data_dir` holds no category and is none.
    """
    if dataset not in DATASETS:
        raise unknown_name("data set", dataset, DATASETS)
    if dataset == arrays.DATASET:
        raise UsageError("--dataset=arrays: these are given in Python, see cae_jax.runs.arrays.run")
    if dataset == "synthetic":
        return tuple(synthetic.CATEGORIES)
    root = _data_dir(dataset, data_dir)
    if dataset in ("mvtec_ad", "tfds"):
        return readers.of(dataset).categories(root)
    return tuple(sorted(layouts.categories(root, names)))


def resolve(
    dataset: str, data_dir: str | None, asked: Sequence[str], names: Names = USUAL
) -> tuple[str, ...]:
    """The categories that are meant by `asked`, each once, in the order asked, by the names that
    runs know them by: of tfds "NAME/CONFIG" is "NAME.CONFIG".

    Args:
        dataset: one of `DATASETS`.
        data_dir: see `categories`.
        asked: names of categories; none, or "all" among them, means all that there are.
        names: see `categories`.

    Raises:
        UsageError: a category that is not there, with the nearest names; also as `categories`.
        DataError: a folder was asked for that is there and holds no image, or whose name is not
            UTF-8; as `categories`.
    """
    if not asked or "all" in asked:  # of which one that cannot be used is found out by reading it
        return tuple(dict.fromkeys(categories(dataset, data_dir, names)))
    if dataset == "tfds":
        root = _data_dir(dataset, data_dir)
        named = readers.of(dataset).named
        return tuple(dict.fromkeys(each for name in asked for each in named(root, name)))
    for name in asked:
        if fault := files.not_utf8(name):  # checkpoints cannot be written to such a folder
            raise DataError(f"category {name!r}: {fault}")
        if dataset == "folder":
            layouts.locate(_data_dir(dataset, data_dir), name, names)
        elif name not in (known := categories(dataset, data_dir, names)):
            raise unknown_name("category", name, known)
    return tuple(dict.fromkeys(asked))


def passed_over(
    dataset: str, data_dir: str | None, asked: Sequence[str], names: Names = USUAL
) -> tuple[str, ...]:
    """Returns the folders of images that are not among all the categories, where these are `asked`
    for; takes and raises what `resolve` does."""
    if dataset != "folder" or (asked and "all" not in asked):
        return ()
    return layouts.passed_over(_data_dir(dataset, data_dir), names)


def read(
    dataset: str,
    data_dir: str | None,
    category: str,
    frame: Frame,
    seed: int,
    on_bad_image: str = "error",
    progress: Callable[[int], None] | None = None,
    names: Names = USUAL,
    held: str = files.AUTO,
) -> Split:
    """Reads one category; `validation` is empty, see `hold_out`.

    Args:
        dataset: one of `DATASETS`.
        data_dir: see `categories`.
        category: one of the names that `categories` returns.
        frame: what images and masks are brought to; it has a size, synthetic a square one.
        seed: draws the synthetic images; the other data sets do not use it.
        on_bad_image: "error", or "skip" to list what cannot be used and go on.
        progress: see `images.decode_all`.
        names: see `categories`.
        held: where images lie, one of `files.HELD`; synthetic ones, which are few, in memory.

    Raises:
        UsageError: as `resolve`.
        DataError: a file or folder that cannot be used, named.
    """
    resolve(dataset, data_dir, [category], names)
    if dataset == "synthetic":
        side, _ = frame.size or (0, 0)
        return synthetic.read(category, side, frame.channels, seed)
    root = _data_dir(dataset, data_dir)
    if dataset == "folder":
        return folder.read(root, category, frame, on_bad_image, progress, names, held)
    of_tfds = readers.of(dataset)
    if dataset == "tfds":
        return of_tfds.read(root, category, frame, on_bad_image, progress, names, held)
    return of_tfds.read(root, category, frame, on_bad_image, progress, held)


def take(split: Split, count: int, seed: int) -> Split:
    """Keeps `count` of the training images, drawn by the seed; 0 keeps all.

    They are the first of one order of all n images, which depends on n and the seed alone: what is
    kept of few is among what is kept of more. They stay in the order of their paths. To be done
    before any is held out.

    Raises:
        DataError: there are fewer.
    """
    kept = n_taken(split.category, len(split.train), count)
    if not count:
        return split
    # a stream of its own: which are taken says nothing of which are then held out
    order = np.random.default_rng((seed, _TAKEN)).permutation(len(split.train))
    rows = np.sort(order[:kept])
    paths = tuple(split.train_paths[i] for i in rows)
    return dataclasses.replace(split, train=files.rows(split.train, rows), train_paths=paths)


def n_taken(category: str, n: int, count: int) -> int:
    """Returns how many of n training images `take` keeps; raises DataError as it does."""
    if count > n:
        raise DataError(f"{category}: --train_images={count}, but there are {n} training images")
    return count or n


def hold_out(
    split: Split, fraction: float, seed: int, progress: Callable[[int], None] = lambda n: None
) -> Split:
    """Moves a part of the training images to `validation`, drawn once from the seed.

    round(fraction * n) of the n images are moved, and at least one when fraction > 0; both parts
    keep the order of their paths, so the draw depends on n, the fraction and the seed alone.
    Duplicates stay together, on either side, and others are drawn in place of those that would be
    parted: no validation image is in training, not even nearly (`duplicates.groups` has the one
    exception). Duplicates among all images are noted in `duplicates`, and in `warnings`; to find
    them takes time, of which `progress` is told in images.

    Raises:
        UsageError: fraction is not in [0, 1).
        DataError: too few different images to have one for validation and one to train on.
    """
    if not 0 <= fraction < 1:
        raise UsageError(f"--validation_fraction={fraction}: must be at least 0 and below 1")
    if len(split.validation):
        raise ValueError("the split already has validation images")
    n = len(split.train)
    count = n_held_out(n, fraction)
    check_enough(split.category, n, fraction)
    pairs = duplicates.find([split.train, split.test], progress)
    repeated = duplicates.table([*split.train_paths, *split.test_paths], n, pairs)
    groups = duplicates.groups(n, pairs)
    held = _draw(groups, count, seed)
    if count and not held.any():
        raise DataError(
            f"{split.category}: all {n} training images are the same one, so that none can be "
            "held out for validation; --validation_fraction=0 trains without"
        )
    paths = np.array(split.train_paths, dtype=object)
    return dataclasses.replace(
        split,
        train=files.rows(split.train, ~held) if held.any() else split.train,
        train_paths=tuple(paths[~held]),
        validation=files.rows(split.train, held),
        validation_paths=tuple(paths[held]),
        warnings=(
            *split.warnings,
            *duplicates.warnings(split.category, repeated, pairs.look_alike),
        ),
        duplicates=repeated,
        groups=tuple(groups[~held].tolist()),
    )


def check_enough(category: str, n: int, fraction: float) -> None:
    """Raises DataError where of n training images none is left once that share is held out."""
    count = n_held_out(n, fraction)
    if n - count < 1:
        raise DataError(
            f"{category}: {n} training image{'s' * (n > 1)}, of which {count} would be held out "
            f"for validation (--validation_fraction={fraction}); none is left to train on"
        )


def n_held_out(n: int, fraction: float) -> int:
    """Returns how many of n images a share of them is: one at least, unless the share is 0."""
    return max(1, round(fraction * n)) if fraction else 0


def _draw(group: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Which images are held out, bool [n]: `count` of them, or nearly, in whole groups.

    Where no group is that small it is the smallest one, and none where there is but one.
    """
    n, rng = len(group), np.random.default_rng(seed)
    drawn = rng.choice(n, count, replace=False)
    rest = rng.permutation(np.setdiff1d(np.arange(n), drawn))
    sizes, held = np.bincount(group), np.zeros(n, bool)
    for i in (*drawn, *rest):
        if not held[i] and held.sum() + sizes[group[i]] <= count:
            held |= group == group[i]
    if count and not held.any() and len(sizes) > 1:
        held = group == np.argmin(sizes)
    return held


def fingerprint(split: Split) -> str:
    """SHA-256 (hex) of all that results depend on: paths, kinds, pixels, masks and saturations.

    Training and validation images enter as one list in the order of their paths: the value does
    not depend on how they were divided, nor on the data set's name.
    """
    return known_as(split)[0]


def known_as(split: Split) -> tuple[str, str]:
    """Returns the fingerprint, and the one that runs of older versions have, without saturations;
    each pixel is read once for both."""
    older = _of_images(split)
    if not split.regions:
        return older, older
    digest = hashlib.sha256(older.encode())
    for path, regions in sorted(split.regions.items()):
        digest.update(repr((path, [region.saturation for region in regions])).encode())
        for region in regions:
            digest.update(np.ascontiguousarray(region.pixels, np.int64).data)
    return digest.hexdigest(), older


def _of_images(split: Split) -> str:
    """Of all but saturations."""
    digest = hashlib.sha256(repr((split.test.shape[1:], len(split.test))).encode())
    learn = [*zip(split.train_paths, split.train, strict=True)]
    learn += zip(split.validation_paths, split.validation, strict=True)
    for path, pixels in sorted(learn, key=lambda pair: pair[0]):
        digest.update(repr(path).encode())
        digest.update(np.ascontiguousarray(pixels).data)
    for path, kind, known, pixels, mask in zip(
        split.test_paths, split.kinds, split.has_mask, split.test, split.masks, strict=True
    ):
        digest.update(repr((path, kind, bool(known))).encode())
        digest.update(np.ascontiguousarray(pixels).data)
        digest.update(np.ascontiguousarray(mask).data)
    for path, counts in sorted(split.counts.items(), key=lambda pair: pair[0]):
        digest.update(repr(path).encode())
        digest.update(np.ascontiguousarray(counts).data)
    return digest.hexdigest()


def summary(split: Split) -> str:
    """What was found, on one screen: counts, masks, warnings, and the files left out with why."""
    _, height, width, channels = split.train.shape
    images = collections.Counter(split.kinds)
    masks = collections.Counter(
        kind for kind, known in zip(split.kinds, split.has_mask, strict=True) if known
    )
    lines = [
        f"{_shown(split.category)} ({_source(split)}), {height} x {width} pixels, "
        + ("gray" if channels == 1 else f"{channels} channels"),
        f"  train       {len(split.train):5d}",
        f"  validation  {len(split.validation):5d}",
        f"  test good   {images[GOOD]:5d}",
        f"  test defect {split.labels.sum():5d}",
    ]
    for kind in sorted(set(images) - {GOOD}):
        lines.append(f"    {_shown(kind)}: {images[kind]}, with mask: {masks[kind]}")
    lines += [f"  note: {_shown(note)}" for note in split.notes]
    lines += [f"  warning: {_shown(warning)}" for warning in split.warnings]
    if split.left_out:
        lines.append(f"  left out: {len(split.left_out)}")
        shown = split.left_out[:_LEFT_OUT_SHOWN]
        lines += [f"    {_shown(path)}: {_shown(cause)}" for path, cause in shown]
        more = len(split.left_out) - _LEFT_OUT_SHOWN
        if more > 0:
            lines.append(f"    ... and {more} more, see left_out.csv")
    return "\n".join(lines)


def _source(split: Split) -> str:
    return f"{split.dataset}, layout {split.layout}" if split.layout else split.dataset


def _shown(name: str) -> str:
    """A name on one line that every terminal takes: file names may hold anything."""
    return name if name.isprintable() else repr(name)


def _data_dir(dataset: str, data_dir: str | None) -> Path:
    """The folder named by --data_dir, which has to be there."""
    if not data_dir:
        raise UsageError(f"--dataset={dataset} needs --data_dir, the folder that holds the images")
    root = Path(os.path.expanduser(data_dir))
    if not root.is_dir() and not (dataset == "folder" and root.is_file()):  # a table of images
        raise UsageError(f"--data_dir={data_dir}: no such folder")
    return root
