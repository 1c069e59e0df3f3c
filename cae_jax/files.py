"""Files that are whole or absent."""

from __future__ import annotations

import contextlib
import os
import threading
from pathlib import Path

from cae_jax.types import DataError


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Writes a file so that `path` holds all of `content` or what it held before.

    Text is written as UTF-8. Raises DataError where the file cannot be written (no such folder,
    no permission, no space left).
    """
    path = Path(path)
    # surrogateescape: a file name that is no UTF-8 reads back as the same name
    data = content.encode("utf-8", "surrogateescape") if isinstance(content, str) else content
    beside = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        with open(beside, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as error:
        raise DataError(f"{str(path)!r}: cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()
