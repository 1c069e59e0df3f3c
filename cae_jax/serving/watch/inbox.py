"""The folder that a camera writes into: which of its files are whole images.

The folder is looked at again and again, which also works on a network share, where no notice of a
change comes. All times are of this machine's own clock: a file's time is only ever compared with
itself, since a camera's or a server's clock may be wrong.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cae_jax.data import images
from cae_jax.serving.detector import Detector
from cae_jax.types import DataError

MAX_BYTES = 2**30  # of a file


class Entry(NamedTuple):
    """A file as it was seen."""

    name: str  # relative to the folder, with forward slashes
    size: int  # bytes
    mtime_ns: int


class Taken(NamedTuple):
    """A whole file: its content is what the hash is of."""

    entry: Entry
    sha256: str  # "" where the file cannot be read
    pixels: np.ndarray | None  # float32 [S, S, C]
    size: tuple[int, int]  # (height, width) of the file, in pixels
    cause: str  # why there are no pixels


def scan(root: Path, but: Path) -> list[Entry]:
    """Returns the image files in a folder and its folders, the oldest first.

    An image is known by its suffix; hidden files and folders, links and the folder `but` are passed
    over. Raises OSError where the folder cannot be listed; a folder in it that is gone or closed is
    passed over.
    """
    found: list[Entry] = []
    avoid = os.path.realpath(but)
    folders = [""]  # a list, for they may be nested deeper than calls

    def look(before: str) -> None:
        with os.scandir(os.path.join(root, before)) as entries:
            for each in entries:
                name = before + each.name
                if each.name.startswith("."):
                    continue
                with contextlib.suppress(OSError):  # gone meanwhile
                    if each.is_dir(follow_symlinks=False):
                        if os.path.realpath(each.path) != avoid:
                            folders.append(f"{name}/")
                    elif os.path.splitext(name)[1].lower() in images.SUFFIXES:
                        status = each.stat(follow_symlinks=False)
                        if stat.S_ISREG(status.st_mode):
                            found.append(Entry(name, status.st_size, status.st_mtime_ns))

    look(folders.pop())
    while folders:
        with contextlib.suppress(OSError):
            look(folders.pop())
    return sorted(found, key=lambda entry: (entry.mtime_ns, entry.name))


@dataclasses.dataclass
class _Seen:
    entry: Entry
    again: float  # when to read it
    failed: float | None = None  # when it could not be used for the first time


class Waiting:
    """The files that are not taken yet, and for how long each has not changed."""

    def __init__(self, settle: float, give_up: float) -> None:
        """Takes the seconds of `Options`."""
        self._settle, self._give_up = settle, give_up
        self._seen: dict[str, _Seen] = {}

    def ready(self, entries: Iterable[Entry], now: float) -> list[Entry]:
        """Returns which of the files, all that there are, may be read; `now` is in seconds."""
        seen = {}
        for entry in entries:
            known = self._seen.get(entry.name)
            if known is None or known.entry != entry:
                known = _Seen(entry, now + self._settle)
            seen[entry.name] = known
        self._seen = seen
        return [each.entry for each in seen.values() if each.again <= now]

    def is_over(self, entry: Entry, now: float) -> bool:
        """Says whether a file that could not be used has had its time since that was first so; else
        it is read again, each time after as long as it has been waited for."""
        known = self._seen[entry.name]
        known.failed = now if known.failed is None else known.failed
        waited = now - known.failed
        known.again = min(now + max(waited, 0.1), known.failed + self._give_up)
        return waited >= self._give_up


def read(root: Path, entry: Entry, detector: Detector) -> Taken | None:
    """Reads and decodes a file; None where it is not as it was seen any more."""
    path = root / entry.name
    content, size = b"", (0, 0)
    try:
        with open(path, "rb") as file:
            if entry.size > MAX_BYTES:
                raise DataError(f"has {entry.size} bytes; at most {MAX_BYTES} are read")
            if not _is(entry, os.fstat(file.fileno())):
                return None
            content = file.read()
            # by its name too: another file may have taken its place
            if not (_is(entry, os.fstat(file.fileno())) and _is(entry, os.stat(path))):
                return None
        pixels, size, cause = detector.pixels(content), images.size(content), ""
    except FileNotFoundError:
        return None
    except OSError as error:
        pixels, cause = None, f"cannot be read: {error.strerror}"
    except DataError as error:
        pixels, cause = None, str(error).removeprefix("'<bytes>': ")
    digest = hashlib.sha256(content).hexdigest() if content or not entry.size else ""
    return Taken(entry, digest, pixels, size, cause)


def _is(entry: Entry, status: os.stat_result) -> bool:
    return (status.st_size, status.st_mtime_ns) == entry[1:]
