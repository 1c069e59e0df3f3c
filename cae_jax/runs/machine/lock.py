"""One process at a time in a folder: a second one is refused while the first lives.

The operating system holds the lock, on the file FOLDER/.lock, and drops it when its process ends,
in whatever way: what lies there of a dead process is in nobody's way, and no clock decides
anything. Where a file system or an operating system has no such locks, everything goes on without.

Of filelock only `lock_descriptor` is used. Its FileLock makes the file it looks at and, without
such locks, goes by process ids in files.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cae_jax.types import DataError, UsageError

NAME = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
_WINDOWS = os.name == "nt"
_TRIES = 1000  # to open a file that others make and remove; what never ends is not their doing


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
    i, n = share
    mine, ours = (f"{NAME}-{i}-of-{n}", f"{NAME}-*-of-{n}") if n > 1 else (NAME, NAME)
    with contextlib.ExitStack() as stack:
        try:
            for each in (*reversed(folder.parents), folder):
                if not each.exists():
                    stack.callback(_try, each.rmdir)
            stack.enter_context(_take(folder, folder / mine))
        except OSError as error:
            raise DataError(f"{str(folder)!r}: cannot be written: {error.strerror}") from error
        _refuse(folder, [path for path in folder.glob(f"{NAME}*") if not path.match(ours)])
        yield


def check(folder: Path) -> None:
    """Raises UsageError where another process holds the folder; writes nothing."""
    _refuse(folder, folder.glob(f"{NAME}*"))


def _take(folder: Path, path: Path) -> contextlib.ExitStack:
    """Locks the file and writes into it whose it is; returns what removes and unlocks it."""
    fault = OSError(errno.ESTALE, "its lock file is another one at each look")
    for _ in range(_TRIES):
        with contextlib.ExitStack() as undo:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            except (FileExistsError, FileNotFoundError) as error:
                if isinstance(error, FileExistsError) and _is_no_folder(error.filename or folder):
                    raise
                fault = error  # another process took its empty folders away meanwhile
                continue
            if _WINDOWS:  # an open file cannot be removed there
                undo.callback(_try, path.unlink)
            undo.callback(os.close, file)
            ours = False
            try:
                if not _lock(file):
                    raise _refusal(folder, path)
                ours = _same(file, path)
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                print(f"warning: {folder}: no locks on this file system", file=sys.stderr)
                ours = True
            if ours:  # else its owner removed it between the two calls
                # before the lock goes: the next one makes a file of its own
                undo.callback(_try, path.unlink)
                os.ftruncate(file, 0)
                os.write(file, _me().encode())
                return undo.pop_all()
    raise fault


def _refuse(folder: Path, paths: Iterable[Path]) -> None:
    """Raises UsageError where another process holds one of the files."""
    for path in paths:
        with contextlib.suppress(OSError):  # gone meanwhile, or no locks here
            # NFS locks only what is open for writing
            file = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
            try:
                if not _lock(file):
                    raise _refusal(folder, path)
            finally:
                os.close(file)


def lock_descriptor(file: int, blocking: bool) -> bool:
    """Calls filelock's function of that name; who locks nothing needs no filelock of that age."""
    from filelock import lock_descriptor

    return lock_descriptor(file, blocking=blocking)


def _lock(file: int) -> bool:
    """Locks an open file; returns False where another process has it."""
    for _ in range(20):
        if lock_descriptor(file, blocking=False):
            return True
        time.sleep(0.01)  # another one may only be looking, which takes no such time
    return False


def _is_no_folder(path: str | Path) -> bool:
    return os.path.lexists(path) and not os.path.isdir(path)


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
    owner = ""
    with contextlib.suppress(OSError), path.open("rb", buffering=0) as file:
        file.seek(1)  # Windows lets nobody read the first byte, which is locked
        owner = file.read().decode(errors="replace").partition(" ")[2].strip()
    owner = f"process {owner}" if owner else "another process"
    return UsageError(f"{folder}: in use by {owner}; wait for its end or take another folder")


def _try(remove: Callable[[], None]) -> None:
    with contextlib.suppress(OSError):
        remove()
