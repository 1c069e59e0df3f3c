"""What a watcher may be told."""

from __future__ import annotations

import dataclasses
import os
import shlex
import shutil
import urllib.parse
from pathlib import Path

from cae_jax.types import UsageError, unknown_name

ALARM_ON = ("defective", "all")
CSV = ("plain", "excel")  # forms of the tables, see `files.write_csv`
_WINDOWS = os.name == "nt"
FOLDERS = ("good", "defective", "refused", "repeated")  # of the output, by what an image is


@dataclasses.dataclass(frozen=True)
class Options:
    """How to watch; its fields are the flags that `flags.define` defines."""

    keep: bool = False  # leave images where they are
    settle: float = 1.0  # seconds without a change after which a file is taken
    give_up: float = (
        30.0  # seconds, since it was first read, after which what is no image is refused
    )
    poll: float = 0.25  # seconds between two looks
    once: bool = False  # leave when what was there at the start is judged
    csv: str = "plain"  # one of CSV
    screen: str = ""  # the file of the picture for a screen; "" for OUT/latest.png
    alarm_command: str = ""
    alarm_seconds: float = 10.0  # that the command, or the webhook's answer, may take
    webhook: str = ""
    alarm_on: str = "defective"  # or "all"

    def check(self, inbox: Path, output: Path) -> None:
        """Raises UsageError for options or folders that cannot work, naming the flag."""
        for name, least in (("settle", 0), ("give_up", 0), ("poll", 0.01), ("alarm_seconds", 0.1)):
            if not getattr(self, name) >= least:
                raise UsageError(f"--{name}={getattr(self, name)}: must be at least {least}")
        if self.alarm_on not in ALARM_ON:
            raise unknown_name("--alarm_on", self.alarm_on, ALARM_ON)
        if self.csv not in CSV:
            raise unknown_name("--csv", self.csv, CSV)
        if self.alarm_command:
            _program(self.alarm_command)
        if self.webhook:
            address = urllib.parse.urlsplit(self.webhook)
            if address.scheme not in ("http", "https") or not address.hostname:
                raise UsageError(f"--webhook={self.webhook}: must be http://... or https://...")
        if not inbox.is_dir():
            raise UsageError(f"--watch={inbox}: no such folder")
        real = inbox.resolve()
        ours = [output.resolve(), *(output.resolve() / name for name in FOLDERS)]
        if real == ours[0] or any(real.is_relative_to(folder) for folder in ours[1:]):
            raise UsageError(f"--watch={inbox} --output={output}: judged images go there")
        screen = Path(self.screen or output).resolve()
        if self.screen and screen.parent != ours[0] and not screen.parent.is_dir():
            raise UsageError(f"--screen={self.screen}: no such folder")
        if screen.is_relative_to(real) and not screen.is_relative_to(ours[0]):
            raise UsageError(f"--screen={self.screen}: what lies in --watch={inbox} is judged")


def words(command: str) -> list[str]:
    """Returns a command's words, as a shell would tell them apart, ~ at a word's beginning filled
    in. On Windows a backslash is part of a path; elsewhere it takes the next letter's meaning.

    Raises UsageError for a quotation without an end.
    """
    reader = shlex.shlex(command, posix=True, punctuation_chars=False)
    reader.whitespace_split, reader.commenters = True, ""
    if _WINDOWS:
        reader.escape = ""
    try:
        return [os.path.expanduser(word) for word in reader]
    except ValueError as error:
        raise UsageError(f"--alarm_command={command}: {error}") from error


def _program(command: str) -> None:
    found = words(command)
    if not found or not shutil.which(found[0]):
        raise UsageError(f"--alarm_command={command}: no such program")
