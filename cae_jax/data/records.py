"""A data set that tensorflow_datasets prepared, read by its name without TensorFlow.

What its features mean is taken from their types and names: an image, a label (classes by name,
numbers, words or yes and no), a mask, a path. The train split is learned from, as far as it is
good, and test is judged; validation counts as good images to learn from, or is judged where there
is no test. One split alone is divided by its labels. Its own code is not needed, and nothing is
ever downloaded.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import array_record  # noqa: F401 - none for Windows: here its absence is told, and not at a read
import numpy as np
import tensorflow_datasets as tfds

from cae_jax.data import folder, layouts, prepared, tiff
from cae_jax.data import masks as decoded
from cae_jax.data.features import Roles, at, meaning, nested, said
from cae_jax.data.frame import Frame
from cae_jax.data.layouts.annotated import part_of
from cae_jax.data.layouts.found import UNMASKED, USUAL, Found, Item, Names
from cae_jax.files import AUTO
from cae_jax.types import GOOD, DataError, LeftOut, Split, UsageError

DATASET = "tfds"
categories, named = prepared.categories, prepared.named

_BAD = "defective, so it is not learned from"


class _Record(NamedTuple):
    item: Item  # of any kind yet
    label: str | None  # GOOD or a kind of defect; None where nobody knows


def read(
    data_dir: Path,
    category: str,
    frame: Frame,
    on_bad_image: str = "error",
    progress: Callable[[int], None] | None = None,
    names: Names = USUAL,
    held: str = AUTO,
) -> Split:
    """Reads a category, one of those that `prepared.named` returns; see `folder.assemble` for the
    other arguments, and `found` for the errors, too."""
    listed = found(data_dir, category, names)
    return folder.assemble(DATASET, category, listed, frame, on_bad_image, progress, held)


def found(data_dir: Path, category: str, names: Names = USUAL, pixels: bool = True) -> Found:
    """Lists the records of a category, images still encoded; without `pixels` to count them only.

    Raises:
        DataError: records that cannot be read, features of which none can be the image, nothing to
            learn from.
        UsageError: --good_name is no class of the labels.
    """
    place = prepared.of(data_dir, category)
    prepared.check(place)
    try:
        builder = tfds.builder_from_directory(place.folder)
        roles = meaning(builder.info, names)
        parts = {split: part_of(split) for split in place.splits}
        records = {
            split: _records(builder, split, roles, names, pixels)
            for split in place.splits
            if len(parts) == 1 or parts[split]
        }
    except DataError as error:
        raise DataError(f"{place.title}: {error}") from error
    except UsageError:
        raise
    except Exception as error:  # of files cut off tensorflow_datasets raises nearly anything
        cause = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{place.folder}: cannot be read: {cause}") from error
    return layouts.held_out(_divided(place, roles, parts, records), names.test_fraction)


def _divided(
    place: prepared.Prepared,
    roles: Roles,
    parts: dict[str, str],
    records: dict[str, list[_Record]],
) -> Found:
    """What is learned from and what is judged."""
    notes, left_out = [f"{place.title}: {roles.words}"], list[LeftOut]()
    train, test = list[Item](), list[Item]()
    alone = len(parts) == 1
    judged = {"test"} if "test" in parts.values() else {"val"}
    for split, found in records.items():
        learn = alone or parts[split] not in judged
        for item, label in found:
            if label == GOOD:
                (train if learn else test).append(item._replace(mask_path="", masks=()))
            elif label is None and not (roles.label or roles.kind or roles.mask) and learn:
                train.append(item)
            elif label is None:
                left_out.append(LeftOut(item.path, "nothing says whether it is good"))
            elif learn and not alone:
                left_out.append(LeftOut(item.path, _BAD))
            else:
                test.append(item._replace(kind=label))
                if not item.masks:
                    left_out.append(LeftOut(item.path, UNMASKED))
        if parts[split] == "val" and learn and not alone:
            notes.append(f"{split}: its good images are learned from, too")
    if others := [split for split in parts if split not in records]:
        notes.append(f"{', '.join(others)}: neither train nor test, so not used")
    if alone:
        notes.append(f"{next(iter(parts))} is its only split: good images are learned from")
    _check(place, roles, parts, records, train)
    return Found(
        place.title,
        tuple(sorted(train, key=lambda item: item.path)),
        tuple(sorted(test, key=lambda item: item.path)),
        tuple(sorted(left_out)),
        notes=tuple(notes),
        undivided=alone,
    )


def _check(
    place: prepared.Prepared,
    roles: Roles,
    parts: dict[str, str],
    records: dict[str, list[_Record]],
    train: Sequence[Item],
) -> None:
    """Raises DataError where there is nothing to learn from."""
    if train:
        return
    if len(parts) > 1 and "train" not in parts.values():
        raise DataError(f"{place.title}: no split called train among {', '.join(parts)}")
    seen = Counter(label for each in records.values() for _, label in each if label is not None)
    kinds = ", ".join(sorted(seen)[:8]) + (", ..." if len(seen) > 8 else "")
    more = f"; it says {kinds}: --good_name names the good ones" if seen else ""
    raise DataError(f"{place.title}: no good image to learn from by {roles.says}{more}")


def _records(builder: Any, split: str, roles: Roles, names: Names, pixels: bool) -> list[_Record]:
    """All records of a split."""
    skip = {name: tfds.decode.SkipDecoding() for name in roles.encoded}
    source = builder.as_data_source(split, decoders=nested(skip))
    wanted = [name for name in roles.names if name and (pixels or name != roles.image)]
    found = []
    for i in range(len(source)):
        record = source[i]
        found.append({name: at(record, name) for name in wanted})
    paths = list(_paths(split, [record.get(roles.path) for record in found]))
    marked = _marked(found, roles)
    records = []
    for path, record, mark in zip(paths, found, marked, strict=True):
        masks = () if mark is None else (mark.content,)
        label = said(record, roles, names)
        if label is None and mark is not None and not (roles.label or roles.kind):
            label = "defect" if mark.defective else GOOD
        image = _content(record.get(roles.image))
        mask_path = f"{roles.mask} of {path}" if masks else ""
        records.append(_Record(Item(path, label or GOOD, image or b"", mask_path, masks), label))
    return records


class _Mark(NamedTuple):
    content: bytes
    defective: bool  # where no label says it


def _marked(records: Sequence[Mapping[str, Any]], roles: Roles) -> list[_Mark | None]:
    """The mask of each record; looked at where nothing else says what is good."""
    alone = not (roles.label or roles.kind)

    def mark(record: Mapping[str, Any]) -> _Mark | None:
        content = _content(record.get(roles.mask))
        if content is None or (roles.has_mask and not record[roles.has_mask]):
            return None
        try:
            seen = alone and bool(decoded.read(content, Frame(None), None).defective.any())
        except DataError:  # found out where it is needed
            seen = True
        return _Mark(content, seen)

    with ThreadPoolExecutor() as pool:
        return list(pool.map(mark, records))


def _content(value: Any) -> bytes | None:
    """An image's bytes: of its file, or of a TIFF where it was stored as an array."""
    if value is None or isinstance(value, bytes):
        return value
    array = np.asarray(value)
    return tiff.encoded(array.astype(np.uint8) * np.uint8(255) if array.dtype == bool else array)


def _paths(split: str, named: Sequence[Any]) -> Iterator[str]:
    """Paths of a split's records, each once: by what they say of themselves, else by their place,
    which is the same however often the data set is prepared."""
    texts = [_relative(text) for text in named]
    counts = Counter(texts)
    for i, text in enumerate(texts):
        if not text or counts[text] > 1:
            text = f"{text}/{i:06d}" if text else f"{i:06d}"
        yield text if text.split("/")[0] == split else f"{split}/{text}"


def _relative(text: Any) -> str:
    """A path that stays below where it is put, whatever wrote it."""
    words = text.decode("utf-8", "replace") if isinstance(text, bytes) else f"{text}"
    words = "" if text is None else words.replace("\\", "/")
    parts = [part for part in PurePosixPath(words).parts if part.strip("/. ")]
    return "/".join(part for part in parts if not part.endswith(":"))
