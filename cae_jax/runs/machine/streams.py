"""Standard streams that end no work: one that is closed, or whose reader has gone, takes whatever
is written to it and keeps nothing."""

from __future__ import annotations

import errno
import io
import os
import sys
from typing import Any, TextIO

_GONE = (errno.EPIPE, errno.EINVAL) if os.name == "nt" else (errno.EPIPE,)  # of a reader


class _Out(io.FileIO):
    """A descriptor that goes on as the null device where it can no longer be written to."""

    def write(self, data: Any, /) -> int:
        """Writes as FileIO does; raises OSError for all but a reader that has gone, once."""
        try:
            return super().write(data)
        except OSError as error:
            _to_null(self.fileno())
            if error.errno not in _GONE:
                raise
            return memoryview(data).nbytes


def opened(file: int, encoding: str, at_once: bool = True) -> TextIO:
    """Returns a descriptor as a stream to write to, which leaves it open and takes any path: that
    need not be text. `at_once`: line by line."""
    raw = io.BufferedWriter(_Out(file, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding, "backslashreplace", line_buffering=at_once)


def mend() -> None:
    """Gives a process standard streams that end no work; a second time changes nothing more.

    A closed one would be None to Python, and its number would be given to the next file opened,
    into which XLA would then write its errors. Streams that a program put in their place stay.
    """
    for file, name in enumerate(("stdin", "stdout", "stderr")):
        found = getattr(sys, name)
        if found is None:
            _fill(file)
            null = open(os.devnull, "w" if file else "r", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, null)
        elif file and isinstance(found, io.TextIOWrapper):
            found.reconfigure(errors="backslashreplace")
            if found is getattr(sys, f"__{name}__") and not found.isatty():
                found.flush()
                at_once = found.line_buffering or found.write_through
                setattr(sys, name, opened(found.fileno(), found.encoding, at_once))


def _fill(file: int) -> None:
    """Opens the null device as this descriptor, where it is closed."""
    try:
        os.fstat(file)
    except OSError:
        _to_null(file)


def _to_null(file: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null == file:
        os.set_inheritable(file, True)
        return
    os.dup2(null, file)
    os.close(null)
