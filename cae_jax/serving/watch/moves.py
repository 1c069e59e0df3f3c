"""Judged files on their way from the inbox to the output: one row, one file, whatever happens.

A file is first renamed within its own folder, to a hidden name that carries its row's number, and
only then looked at: now nobody writes another image under its name. If it is the one that was
judged it goes on to the place that its row names, where an empty file of that name keeps others
out. If the camera has written another image in the meantime, that one is put back and is judged
like any other. Every step can be done again from wherever it was cut short.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Collection
from pathlib import Path, PurePosixPath

from cae_jax.serving.watch.inbox import Entry
from cae_jax.serving.watch.journal import Journal, Row

_LONGEST = 180  # bytes of a name to which a number is added; a name may have 255


def free_name(
    output: Path, folder: str, name: str, number: int, taken: Collection[str] = ()
) -> str:
    """Returns where a file goes, relative to the output: FOLDER/NAME, or, where something lies
    there or it is among the `taken`, with the row's number in its name. A folder in whose place a
    file lies has the number too."""

    def is_file(path: PurePosixPath) -> bool:
        return os.path.lexists(output / path) and not os.path.isdir(output / path)

    def is_taken(path: PurePosixPath) -> bool:
        return os.path.lexists(output / path) or path.as_posix() in taken

    *folders, last = PurePosixPath(name).parts
    path = PurePosixPath(folder)
    for each in folders:
        path = _numbered(path / each, number, is_file)
    return _numbered(path / last, number, is_taken).as_posix()


def _numbered(
    path: PurePosixPath, number: int, is_taken: Callable[[PurePosixPath], bool]
) -> PurePosixPath:
    """A path, or the first one with the number in its name that is not taken."""
    free, i = path, 0
    while is_taken(free):
        stem = f"{_shortened(path.stem)}-{number}" + (f"-{i}" if i else "")
        free, i = path.with_name(stem + path.suffix), i + 1
    return free


def _shortened(name: str) -> str:
    """The beginning of a name, _LONGEST bytes at most."""
    while len(os.fsencode(name)) > _LONGEST:
        name = name[:-1]
    return name


def move(inbox: Path, journal: Journal, row: Row) -> str:
    """Brings a row's file to where the row says that it goes, or goes on with it.

    Returns what is to be said about it, "" for nothing: it is there. A file that is gone from the
    inbox, or that the camera has overwritten, is nowhere, and its row stays. Raises OSError where
    it cannot be moved now, and sqlite3.Error where the journal cannot be written.
    """
    source = inbox / row.path
    held = source.with_name(f".{journal.station[:8]}-{row.number}.judged")
    if not held.exists():
        if _identity(source) != row.entry[1:]:  # moved before, gone, or another image by now
            return (
                ""
                if is_there(journal.output, row)
                else f"{source}: gone before it was moved; row {row.number} stays"
            )
        os.rename(source, held)
    if not _holds(held, row) or _identity(held) != row.entry[1:]:
        _put_back(held, source)
        return f"{source}: overwritten before it was moved; row {row.number} stays"
    while not _reserve(journal.output / row.file, row):
        folder = row.file.partition("/")[0]
        other = free_name(journal.output, folder, row.path, row.number)
        if other == row.file:  # no number helps: the folder of all is a file
            raise NotADirectoryError(errno.ENOTDIR, "no folder", os.fspath(journal.output / folder))
        row = journal.goes_to(row, other)
    _bring(held, journal.output / row.file)
    return ""


def is_there(output: Path, row: Row) -> bool:
    """Says whether a row's file is where it goes."""
    return bool(row.file) and _holds(output / row.file, row)


def put_repeated(inbox: Path, output: Path, entry: Entry, number: int) -> None:
    """Moves a file that was judged and moved before, and has come again, to OUT/repeated.

    Raises OSError where it cannot be moved.
    """
    place = output / free_name(output, "repeated", entry.name, number)
    place.parent.mkdir(parents=True, exist_ok=True)
    _bring(inbox / entry.name, place)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return None
    return status.st_size, status.st_mtime_ns


def _holds(path: Path, row: Row) -> bool:
    """Whether a file has the content that was judged."""
    found = _identity(path)
    if found is None or found[0] != row.size:
        return False
    if not row.sha256:  # it could not be read then
        return True
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == row.sha256


def _reserve(place: Path, row: Row) -> bool:
    """Makes an empty file where a judged one goes; False where a file of somebody else lies, or a
    file where its folder goes."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        return False
    try:
        os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    except FileExistsError:
        # ours from before: reserved, or copied
        return place.is_file() and (not place.stat().st_size or _holds(place, row))
    return True


def _bring(held: Path, place: Path) -> None:
    """Moves a file over its reserved place, by a copy where that is on another file system."""
    try:
        os.replace(held, place)
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
    beside = place.with_name(f".{_shortened(place.name)}.tmp")
    try:
        with open(held, "rb") as source, open(beside, "wb") as copy:
            shutil.copyfileobj(source, copy)
            copy.flush()
            os.fsync(copy.fileno())
        with contextlib.suppress(OSError):  # times and permissions are a courtesy
            shutil.copystat(held, beside)
        os.replace(beside, place)
    finally:
        beside.unlink(missing_ok=True)
    _sync_folder(place.parent)  # before the only other copy goes
    os.unlink(held)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows opens no folder
        file = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(file)
        finally:
            os.close(file)


def _put_back(held: Path, source: Path) -> None:
    """Gives a file that is not the judged one its name again, or, if that is taken, one beside."""
    stem = _shortened(source.stem)
    beside = (source.with_name(f"{stem}-{i}{source.suffix}") for i in range(2, 99))
    for name in (source, *beside):
        if name.exists() and name.samefile(held):  # cut short between the two calls below
            os.unlink(held)
            return
        with contextlib.suppress(FileExistsError):
            _rename_new(held, name)
            return
    raise FileExistsError(errno.EEXIST, "no free name to put it back", os.fspath(source))


def _rename_new(held: Path, name: Path) -> None:
    """Renames a file unless the name is taken; raises FileExistsError then."""
    try:
        os.link(held, name)
    except FileExistsError:
        raise
    except OSError:  # no hard links here
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(held, name)
        return
    os.unlink(held)
