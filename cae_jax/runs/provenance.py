"""What a run was made of, its images and its user's own code, and what of it is other by now."""

from __future__ import annotations

import contextlib
import functools
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cae_jax import data, files, options
from cae_jax.data import fingerprints, prepared
from cae_jax.data.layouts.found import USUAL
from cae_jax.reports.run_files import FINGERPRINTS, FINISHED, FLAGS, VERSIONS
from cae_jax.runs import own_code
from cae_jax.runs.build import read_split
from cae_jax.runs.config import Config, configure, read_flags
from cae_jax.runs.shared import Images
from cae_jax.types import DataError, Split

_FILES, _CODE, _IMAGES = "data_files", "code", "data_fingerprint"  # in versions.json
_OF, _ALL = "data_fingerprint_of", "pixels, masks, saturations"  # older runs': not saturations


def begin(folder: Path, config: Config, split: Split) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Returns what fingerprints.csv holds of the images that a run begins with, and what
    versions.json does of them and of its own code; of one that goes on, the code it began with.

    Raises DataError for other images than it began with.
    """
    now, before, known = fingerprints.of_each(split), read(folder), data.known_as(split)
    if before and before[_IMAGES] not in _as_known(folder, known):
        raise DataError(
            f"{folder}: the images changed since this run began: "
            f"{_changes(folder, now)}; take another --workdir, or --overwrite"
        )
    code = before.get(_CODE) or own_code.hashes(config)
    own = {_IMAGES: known[0], _OF: _ALL}
    if before and _OF not in before:  # by which its checkpoints are known, too
        own = {_IMAGES: before[_IMAGES]}
    return now, own | {_FILES: _files_of(config), _CODE: code}


def is_of(folder: Path, split: Split) -> bool:
    """Returns whether a run was begun with these images; raises KeyError before that is known."""
    return read(folder)[_IMAGES] in _as_known(folder, data.known_as(split))


def read(folder: Path) -> dict[str, Any]:
    """Returns versions.json of a run's folder; {} before it is known what images it is of."""
    path = folder / VERSIONS
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def check_images(folder: Path, config: Config) -> None:
    """Raises DataError where a finished run is of other images than lie there now.

    Where all files have the names, sizes and times that they had, nothing is decoded. Of the same
    images and masks in another place the run knows that place from now on.
    """
    before, now = read(folder), _files_of(config)
    if not (before and now):
        return
    if before.get(_FILES) != now:
        known, table = _as_they_are(_of_images(config), now)
        if before[_IMAGES] not in _as_known(folder, known):
            _refuse(folder, _as_known(folder, known), table)
            return
    path = folder / FLAGS
    was = read_flags(path)
    with contextlib.suppress(DataError):  # a finished run may well be read-only
        if before.get(_FILES) != now:
            files.write_json(folder / VERSIONS, before | {_FILES: now})
        places = {name: getattr(config, name) for name in ("data_dir", "roi", "ignore")}
        if any(getattr(was, name) != there for name, there in places.items()):
            files.write_whole(path, was.changed(**places).to_flagfile())


def other_code(folder: Path, config: Config) -> str:
    """Returns in words which files of the run's own code are not those that it was trained with;
    "" where they are, and of a run that does not tell."""
    before = read(folder).get(_CODE)
    if not before:
        return ""
    now = own_code.hashes(config)
    changed = [name for name in before if before[name] != now.get(name)]
    changed += [name for name in now if name not in before]
    if not changed:
        return ""
    return (
        f"{', '.join(changed)}: the code is not what this run was trained with, its weights and "
        "numbers are of the code before; --overwrite trains anew"
    )


def _refuse(folder: Path, known: Sequence[str], now: pd.DataFrame) -> None:
    """Raises DataError for the images that a finished run is not of, unless they are those that it
    was evaluated on since, and it has learned from the same."""
    said, before = _changes(folder, now), _read(folder)
    learned = [each[each["part"] == "train"] for each in (before, now)]
    what_now = "take another --workdir, or --overwrite to learn anew"
    if len(before) and not fingerprints.changes(*learned):
        if json.loads((folder / FINISHED).read_text(encoding="utf-8")).get(_IMAGES) in known:
            return
        what_now = "experiments.evaluate judges these, another --workdir or --overwrite learns anew"
    raise DataError(
        f"{folder}: finished before, but with other images than are there now: {said}; {what_now}"
    )


def _changes(folder: Path, now: pd.DataFrame) -> str:
    before = _read(folder)
    if _OF not in read(folder):  # an older run, which does not tell them
        now = now[now["part"] != fingerprints.SATURATIONS]
    found = fingerprints.changes(before, now) if len(before) else ""
    return found or "others than were there (an older run does not tell which)"


def _read(folder: Path) -> pd.DataFrame:
    """The fingerprints that a run began with; without rows where it does not tell them."""
    path = folder / FINGERPRINTS
    if not path.exists():
        return pd.DataFrame(columns=fingerprints.COLUMNS)
    return files.read_csv(path)


def _of_images(config: Config) -> Config:
    """The record of the same images, whatever learns from them."""
    flags = {name: getattr(config, name) for name in options.fields(Images)}
    return configure(**flags, seed=config.seed)


@functools.lru_cache
def _as_they_are(config: Config, files_of: str) -> tuple[tuple[str, str], pd.DataFrame]:
    """The images in these files; decoded once for all the runs that are of them."""
    del files_of  # with others in their place it is another call
    split = read_split(config)
    return data.known_as(split), fingerprints.of_each(split)


def _as_known(folder: Path, known: tuple[str, str]) -> Sequence[str]:
    """Of `data.known_as`, those by which a run may know its images."""
    return known[:1] if _OF in read(folder) else known


def _files_of(config: Config) -> str:
    """One value for the files that a run's images are in, whatever folder they are in, and for
    what it says of their names; "" where there are none."""
    c = config
    if not c.data_dir:
        return ""
    root = Path(os.path.expanduser(c.data_dir))
    if c.dataset == "tfds":  # versions of data sets, each in a folder of its own
        found = "".join(fingerprints.of_files(prepared.of(root, name).folder) for name in c.parts)
    else:
        root = root.parent if root.is_file() else root  # a list of them
        others = set(data.categories(c.dataset, c.data_dir, c.names)) - set(c.parts)
        found = fingerprints.of_files(root, [c.folder, *(root / name for name in others)])
    found += "".join(area.sha256 for area in c.frame.areas)  # the masks of --roi, --ignore
    told = "" if c.names == USUAL else f" {c.names}"
    return found + told
