"""Where images and tables lie: a folder, or a URI such as s3://BUCKET/FOLDER.

A URI is opened by Arrow (file, s3, gs, hdfs, abfs) or, of any other scheme, by fsspec, which may
want a package more. A folder of this machine is read without either: Arrow knows no file name that
is not UTF-8.
"""

from __future__ import annotations

import os
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pyarrow
from pyarrow import fs

from cae_jax.data.formats import SUFFIXES
from cae_jax.types import DataError, UsageError

_KEY = re.compile(".*(key|token|secret|password|signature|sig)[^=]*=", re.IGNORECASE)


class Listed(NamedTuple):
    """A file that was found."""

    path: str  # below the place it was looked for in, with forward slashes
    bytes: int
    modified: int  # nanoseconds since 1970; 0 where the store does not say


class Store(NamedTuple):
    """A folder of a store, opened."""

    system: fs.FileSystem
    folder: str

    def read(self, path: str) -> bytes:
        """Returns a file's content; raises OSError."""
        with self.system.open_input_stream(_below(self.folder, path), compression=None) as file:
            return file.read()

    def write(self, path: str, content: bytes) -> None:
        """Writes a file: a store shows it when it is whole. Raises OSError."""
        self.system.create_dir(self.folder, recursive=True)
        with self.system.open_output_stream(_below(self.folder, path), compression=None) as file:
            file.write(content)

    def remove(self, path: str) -> None:
        """Removes a file; raises OSError."""
        self.system.delete_file(_below(self.folder, path))

    def files(self, recursive: bool = False) -> list[Listed]:
        """Returns the files in the folder, none where there is no folder; raises OSError."""
        selector = fs.FileSelector(self.folder, allow_not_found=True, recursive=recursive)
        start = len(self.folder.rstrip("/")) + 1
        return [
            Listed(found.path[start:], found.size or 0, found.mtime_ns or 0)
            for found in self.system.get_file_info(selector)
            if found.type == fs.FileType.File
        ]


def local(where: str) -> Path | None:
    """Returns the path that a text means on this machine; None where it is another store's."""
    if "://" not in where:
        return Path(os.path.abspath(os.path.expanduser(where)))
    if not where.startswith("file://"):
        return None
    return Path(urllib.request.url2pathname(urllib.parse.urlsplit(where).path))


def opened(where: str, flag: str) -> Store:
    """Opens a URI's folder, which need not be there; raises UsageError naming `flag`."""
    try:
        return Store(*fs.FileSystem.from_uri(where))
    except pyarrow.ArrowInvalid as error:
        if "Unrecognized filesystem type" not in str(error):
            raise _unusable(where, flag, error) from error
    except OSError as error:
        raise _unusable(where, flag, error) from error
    import fsspec

    try:
        system, folder = fsspec.core.url_to_fs(where)
    except (ValueError, ImportError, OSError) as error:  # not known, not installed, not there
        raise _unusable(where, flag, error) from error
    return Store(fs.PyFileSystem(fs.FSSpecHandler(system)), folder)


def images_in(store: Store, where: str, recursive: bool) -> tuple[str, list[Listed]]:
    """Returns the URI that paths are below, and the images there by suffix, sorted; what is hidden
    is passed over.

    Raises DataError where the store cannot be asked, or holds no image.
    """
    try:
        about = store.system.get_file_info(store.folder)
        if about.type == fs.FileType.File:
            root, _, name = where.partition("?")[0].rpartition("/")
            query = where.partition("?")[2]
            listed = Listed(name, about.size or 0, about.mtime_ns or 0)
            return root + (f"?{query}" if query else ""), [listed]
        found = store.files(recursive) if about.type == fs.FileType.Directory else []
    except OSError as error:
        raise DataError(f"--images={shown(where)}: cannot be listed: {one_line(error)}") from error
    if about.type == fs.FileType.NotFound:
        raise DataError(f"--images={shown(where)}: there is no such folder or image")
    images = [file for file in found if _is_image(file.path)]
    if not images:
        raise DataError(
            f"{shown(where)}: no image in it; suffixes read: {' '.join(sorted(SUFFIXES))}"
        )
    return where, sorted(images)


def shown(where: str, name: str = "") -> str:
    """Returns a place, or a file in it, as it may be shown and kept: without a key in its URI."""
    head, mark, query = where.partition("?")
    query = "&".join(part for part in query.split("&") if "=" not in part or not _KEY.match(part))
    head = re.sub(r"(?<=://)[^/@]*@", "", head)
    return (f"{head.rstrip('/')}/{name}" if name else head) + (mark + query if query else "")


def one_line(error: BaseException) -> str:
    """Returns what an error says, in one line of no more than 300 letters."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def _is_image(path: str) -> bool:
    hidden = any(part.startswith(".") for part in path.split("/"))
    return not hidden and os.path.splitext(path)[1].lower() in SUFFIXES


def _below(folder: str, path: str) -> str:
    return f"{folder.rstrip('/')}/{path}"


def _unusable(where: str, flag: str, error: Exception) -> UsageError:
    return UsageError(f"--{flag}={shown(where)}: cannot be opened: {one_line(error)}")
