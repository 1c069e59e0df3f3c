"""Flagfiles as any editor of any system writes them: with a byte order mark, in UTF-16, with CRLF.

absl reads them in the locale's encoding and takes a mark for part of the first flag; so they are
read here before absl sees the command line.
"""

from __future__ import annotations

import codecs
import os
from collections.abc import Sequence
from pathlib import Path

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
        utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        text = content.decode("utf-16" if utf16 else "utf-8-sig")
    except OSError as error:
        raise UsageError(f"--flagfile={path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"--flagfile={path}: is not UTF-8: {error.reason}") from error
    stripped = [line.strip() for line in text.replace("\r\n", "\n").split("\n")]
    return [line for line in stripped if line and not line.startswith(("#", "//"))]
