"""Data sets that tensorflow_datasets prepared, found by their names; `records` reads them.

    DATA_DIR/NAME/VERSION/            dataset_info.json, features.json, the records
    DATA_DIR/NAME/CONFIG/VERSION/     of a data set with configs

A category is a data set or one config of it: NAME or NAME.CONFIG, of the newest version that is
there, or NAME@VERSION. tensorflow_datasets' NAME/CONFIG:VERSION is understood, but could be no
folder of a run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from cae_jax.types import DataError, UsageError, unknown_name

FORMATS = ("array_record", "parquet")  # of records that are read without TensorFlow
_INFO, _FEATURES = "dataset_info.json", "features.json"
_DEEPEST = 3  # folders from DATA_DIR to the records
_DOWNLOADS = "downloads"  # beside the data sets, of tensorflow_datasets


class Prepared(NamedTuple):
    """One version of a data set, or of a config of it."""

    folder: Path
    name: str
    config: str  # "" where it has none
    version: str
    formats: tuple[str, ...]  # of its records
    splits: tuple[str, ...]

    @property
    def category(self) -> str:
        """What it is called where it is the newest version."""
        return f"{self.name}.{self.config}" if self.config else self.name

    @property
    def title(self) -> str:
        """What tensorflow_datasets calls it."""
        return f"{self.category.replace('.', '/', 1)}:{self.version}"


def is_there(folder: Path) -> bool:
    """Returns whether a data set was prepared in a folder, or in one of its own in it."""
    return any(any(folder.glob(f"{'*/' * depth}{_INFO}")) for depth in range(_DEEPEST + 1))


def categories(data_dir: Path) -> tuple[str, ...]:
    """Returns the categories in tensorflow_datasets' folder, or in one of a data set, a config or a
    version in it, each once; raises DataError where there is none."""
    return tuple(name for name in _found(data_dir) if "@" not in name)


def named(data_dir: Path, asked: str) -> tuple[str, ...]:
    """Returns the categories that a name means, which may be one of tensorflow_datasets' own: a
    data set's name all its configs, a config's its own where it is no other data set's.

    Raises UsageError for what is not there, or could be several; DataError as `categories`.
    """
    found = _found(data_dir)
    name, _, version = asked.replace("/", ".").replace(":", "@").partition("@")
    ending = f"@{version}" if version else ""
    if name + ending in found:
        return (name + ending,)
    of_set = [each for each, at in found.items() if at.name == name and "@" not in each]
    of_config = [each for each, at in found.items() if at.config == name and "@" not in each]
    if not of_set and len(of_config) > 1:
        raise UsageError(f"--category={asked}: could be {' or '.join(of_config)}")
    meant = tuple(each + ending for each in of_set or of_config)
    if not meant:
        newest = [each for each in found if "@" not in each]
        if version and name in newest:
            newest = [each for each in found if each.startswith(f"{name}@")]
        raise unknown_name("category", asked, newest)
    for each in meant:
        if each not in found:
            raise unknown_name("category", each, found)
    return meant


def of(data_dir: Path, category: str) -> Prepared:
    """Returns where a category lies, one of those that `named` returns; raises as it does."""
    (meant,) = named(data_dir, category)
    return _found(data_dir)[meant]


def _found(data_dir: Path) -> dict[str, Prepared]:
    """All versions by name, NAME@VERSION, and the newest of each by NAME alone; sorted."""
    every = sorted(_walk(data_dir, _DEEPEST), key=lambda at: (at.category, _numbers(at.version)))
    if not every:
        raise DataError(
            f"{data_dir}: no data set that tensorflow_datasets prepared, no NAME/VERSION/{_INFO} "
            "is in it; it is never downloaded here"
        )
    found = {at.category: at for at in every}
    return found | {f"{at.category}@{at.version}": at for at in every}


def _walk(folder: Path, depth: int) -> Iterator[Prepared]:
    if (folder / _INFO).is_file():
        yield _described(folder)
        return
    try:
        inside = sorted(each for each in folder.iterdir() if each.is_dir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed: {error.strerror}") from error
    for each in inside if depth else ():
        unfinished = ".incomplete" in each.name or each.name.startswith(".")
        if not unfinished and each.name != _DOWNLOADS:
            yield from _walk(each, depth - 1)


def _described(folder: Path) -> Prepared:
    path = folder / _INFO
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        first = info.get("fileFormat") or "tfrecord"  # not said before there were others
        return Prepared(
            folder,
            info["name"],
            info.get("configName", ""),
            info["version"],
            (first, *info.get("alternativeFileFormats", ())),
            tuple(split["name"] for split in info.get("splits", ())),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be read: {error!r}") from error


def check(at: Prepared) -> None:
    """Raises DataError for records that cannot be read without TensorFlow, or without what older
    versions of tensorflow_datasets did not write."""
    if not set(at.formats) & set(FORMATS):
        raise DataError(
            f"{at.folder}: written as {at.formats[0]}, which only TensorFlow reads; prepare it "
            f'again elsewhere with tfds.builder("{at.title}", data_dir=ELSEWHERE, '
            f'file_format="{FORMATS[0]}").download_and_prepare()'
        )
    if not (at.folder / _FEATURES).is_file():
        raise DataError(
            f"{at.folder}: no {_FEATURES} in it: prepare it again with tensorflow_datasets 4 or "
            "later"
        )
    if not at.splits:
        raise DataError(f"{at.folder}: {_INFO} tells of no split: it was not prepared to the end")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", version)))
