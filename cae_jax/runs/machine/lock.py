"""One process at a time in a folder: a second one is refused while the first lives.

The kernel holds the lock (flock) on the file FOLDER/.lock and drops it when its process ends, in
whatever way: what lies there of a dead process is in nobody's way, and no clock decides anything.
Where a file system or an operating system has no such locks, everything goes on without.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from cae_jax.types import DataError, UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def hold(folder: Path, share: tuple[int, int] = (0, 1)) -> Iterator[None]:
    """Keeps every other process out of a folder that is written to.

    Args:
      folder: made when it is not there, and taken away again where it stayed empty.
      share: (i, n), this process is number i of n that share the folder; these do not keep each
        other out, and processes of another n do not join them.

    Raises:
      UsageError: another process holds the folder; the message names it.
      DataError: the folder cannot be made or written to.
    """
    made = _make(folder)
    name = NAME + (f"-{share[0]}-of-{share[1]}" if share[1] > 1 else "")
    try:
        file = _take(folder, folder / name)
        try:
            _refuse_others(folder, share[1])
            yield
        finally:
            if file >= 0:
                _remove(folder / name)  # before the lock goes: the next one makes a file of its own
                os.close(file)
    finally:
        for each in made:
            with contextlib.suppress(OSError):  # not empty
                each.rmdir()


def check(folder: Path) -> None:
    """Raises UsageError where another process holds the folder; writes nothing."""
    for path in folder.glob(f"{NAME}*"):
        _probe(folder, path)


def _make(folder: Path) -> list[Path]:
    """Makes a folder; returns those that were not there before, the innermost first."""
    try:
        missing = [p for p in (folder, *folder.parents) if not p.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(folder, error) from error
    return missing


def _take(folder: Path, path: Path) -> int:
    """Locks the file and writes into it whose it is; returns its descriptor, -1 without locks."""
    if fcntl is None:
        return -1
    while True:
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:  # another process took its empty folder away
            _make(folder)
            continue
        except OSError as error:
            raise _unwritable(folder, error) from error
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not _same(file, path):  # its owner removed it between the two calls
                os.close(file)
                continue
            os.ftruncate(file, 0)
            os.write(file, _me().encode())
        except BlockingIOError as error:
            os.close(file)
            raise _refusal(folder, path) from error
        except OSError as error:
            _remove(path)
            os.close(file)
            if error.errno not in _NO_LOCKS:
                raise _unwritable(folder, error) from error
            print(f"warning: {folder}: no locks on this file system", file=sys.stderr)
            return -1
        return file


def _refuse_others(folder: Path, n: int) -> None:
    """Raises UsageError where a job of another number of processes holds the folder."""
    for path in folder.glob(f"{NAME}*"):
        mine = path.name.endswith(f"-of-{n}") if n > 1 else path.name == NAME
        if not mine:
            _probe(folder, path)


def _probe(folder: Path, path: Path) -> None:
    """Raises UsageError where a process holds the file."""
    if fcntl is None:
        return
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:  # gone meanwhile
        return
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise _refusal(folder, path) from error
    except OSError:  # no locks here
        pass
    finally:
        os.close(file)


def _same(file: int, path: Path) -> bool:
    """Whether the open file is the one that is there under its name."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _me() -> str:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    return f"process {os.getpid()} on {socket.gethostname()}, since {now}"


def _refusal(folder: Path, path: Path) -> UsageError:
    try:
        owner = path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        owner = ""
    return UsageError(
        f"{folder}: in use by {owner or 'another process'}; wait for its end or take another folder"
    )


def _unwritable(folder: Path, error: OSError) -> DataError:
    return DataError(f"{str(folder)!r}: cannot be written: {error.strerror}")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
