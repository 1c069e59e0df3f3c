"""How far a long part is: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import datetime
import sys
import time
from types import TracebackType

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 10.0


def say(message: str) -> None:
    """Prints a line on standard error, at once."""
    print(message, file=sys.stderr, flush=True)


class Bar:
    """Counts units of work on standard error; a context manager."""

    def __init__(
        self, label: str, total: int, unit: str, done: int = 0, brief: bool = False
    ) -> None:
        """Starts at `done` of `total` units, 0 for an unknown total; `unit` in the plural. Of what
        is mostly `brief` nothing is left behind where it was."""
        self._label, self._total, self._unit = label, total, unit
        self._done = self._first = done
        self._began = self._last_line = time.monotonic()
        self._brief = brief
        self._note = ""
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=label, total=total or None, initial=done, unit=f" {unit}", dynamic_ncols=True
            )

    def update(self, n: int, note: str = "") -> None:
        """Counts `n` more units; `note` is shown beside the count."""
        self._done += n
        self._note = note or self._note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            self._bar.update(n)
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._line()

    def _line(self) -> None:
        self._last_line, self._brief = time.monotonic(), False
        rate = (self._done - self._first) / max(self._last_line - self._began, 1e-9)
        count = f"{self._done}/{self._total}" if self._total else f"{self._done}"
        words = [f"{self._label}: {count} {self._unit}"]
        words.append(f"{rate:.3g} {self._unit}/s" if rate < 100 else f"{rate:.0f} {self._unit}/s")
        if self._total:
            left = datetime.timedelta(seconds=round((self._total - self._done) / max(rate, 1e-9)))
            words.append(f"{left} left" if self._done < self._total else "done")
        say(", ".join([*words, *filter(None, [self._note])]))

    def __enter__(self) -> Bar:
        """Returns itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leaves the bar, or a last line, behind."""
        if self._bar is not None:
            self._bar.leave = self._done > self._first and not self._brief
            self._bar.close()
        elif self._done > self._first and not self._brief:
            self._line()
