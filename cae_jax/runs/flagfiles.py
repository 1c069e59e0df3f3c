"""Flagfiles as any editor of any system writes them: with a byte order mark, in UTF-16, with CRLF.

absl reads them in the locale's encoding and takes a mark for part of the first flag; so they are
read here before absl sees the command line.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cae_jax import files
from cae_jax.types import UsageError


def expanded(argv: Sequence[str], within: Sequence[Path] = ()) -> list[str]:
    """Returns a command line with the lines of each --flagfile in its place.

    Raises UsageError for a file that cannot be read, or that names itself.
    """
    found, words = [], iter(argv)
    for word in words:
        name, equals, given = word.partition("=")
        if name not in ("--flagfile", "-flagfile"):
            found.append(word)
            continue
        path = Path(os.path.expanduser(given if equals else next(words, "")))
        if path in within:
            raise UsageError(f"--flagfile={path}: names itself")
        found += expanded(lines(path), [*within, path])
    return found


def lines(path: Path) -> list[str]:
    """Returns the flags of a flagfile, one a line; without blank lines and comments, # or //.

    Raises UsageError where it cannot be read.
    """
    try:
        content = path.read_bytes()
        encoding = files.encoding(content)
        text = content.decode(encoding)
    except OSError as error:
        raise UsageError(f"--flagfile={path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        name = "UTF-8" if encoding.startswith("utf-8") else "UTF-16"
        raise UsageError(f"--flagfile={path}: is not {name}: {error.reason}") from error
    if "\0" in text:
        raise UsageError(f"--flagfile={path}: is no text in UTF-8 or UTF-16: it has zero bytes")
    stripped = [line.strip() for line in text.replace("\r\n", "\n").split("\n")]
    return [line for line in stripped if line and not line.startswith(("#", "//"))]
