"""How far a long part is: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import contextlib
import datetime
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from tqdm import tqdm

from cae_jax.runs.machine import foretold

PATIENCE = 3.0  # seconds without a word, after which it is told what is waited for
_LATEST = 12.0  # the same where it may soon be known how long it will take
_SECONDS_BETWEEN_LINES = 10.0


def say(message: str) -> None:
    """Prints a line on standard error, at once."""
    print(message, file=sys.stderr, flush=True)


@contextlib.contextmanager
def waiting(what: str, more: str = "", program: str = "") -> Iterator[None]:
    """Says what is waited for and `more` of it, where the block has not ended after PATIENCE; then
    now and again for how long, and how long it took. Of a `program` of `foretold` it says about
    how long it will take in place of `more`, where that is known in time."""
    told = False

    def tell(seconds: float) -> bool:
        nonlocal told
        about = forecast() if forecast else 0
        if not told and forecast and not about and seconds < _LATEST:
            return False
        first = what + (f", about {about} s the first time, then kept" if about else more)
        say(f"{what}, {seconds:.0f} s so far" if told else first)
        told = True
        return True

    began = time.monotonic()
    with (
        foretold.heard(program) as forecast,
        _now_and_again(tell, PATIENCE, _SECONDS_BETWEEN_LINES),
    ):
        yield
    if told:
        say(f"{what} took {time.monotonic() - began:.0f} s")


@contextlib.contextmanager
def _now_and_again(tell: Callable[[float], bool], first: float, every: float) -> Iterator[None]:
    """Calls `tell` with the seconds since the block began: after the first ones, then every so
    many, or one second where it says False, until the block ends; not afterwards."""
    over, began = threading.Event(), time.monotonic()

    def watch() -> None:
        pause = first
        while not over.wait(pause):
            pause = every if tell(time.monotonic() - began) else 1.0

    thread = threading.Thread(target=watch, name="waiting", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class Bar:
    """Counts units of work on standard error; a context manager.

    Rate and time left are of what came after the first update: before it something is compiled,
    which happens once.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        done: int = 0,
        first: str = "",
        brief: bool = False,
    ) -> None:
        """Starts at `done` of `total` units, 0 for an unknown total; `unit` in the plural.

        `first` is told where the first update is long in coming: what is done before it. Of what
        is mostly `brief` nothing is left behind where it was.
        """
        self._label, self._total, self._unit = label, total, unit
        self._done = self._start = self._first = self._told = done
        self._began = self._last_line = time.monotonic()
        self._note, self._measured, self._brief = "", False, brief
        self._what = first
        self._bar = None
        self._forecast: Callable[[], int] | None = None
        self._waiting = contextlib.ExitStack()
        if sys.stderr.isatty():
            self._bar = tqdm(
                desc=label, total=total or None, initial=done, unit=f" {unit}", dynamic_ncols=True
            )
            if first and done != total:
                self._bar.set_postfix_str(first)
                self._forecast = self._waiting.enter_context(foretold.heard(first))
                self._waiting.enter_context(_now_and_again(self._tick, PATIENCE, 1.0))
        elif first and done != total:
            more = ", which takes longest at the first start and is then kept"
            self._waiting.enter_context(waiting(f"{label}: {first}", more, first))

    def update(self, n: int, note: str = "") -> None:
        """Counts `n` more units; `note` is shown beside the count."""
        self._waiting.close()
        self._done += n
        self._note = note or self._note
        if self._bar is not None:
            self._bar.set_postfix_str(self._note, refresh=False)
            if self._measured:
                self._bar.update(n)
            else:  # tqdm's clock starts here too
                self._bar.n = self._bar.initial = self._bar.last_print_n = self._done
                self._bar.unpause()
                self._bar.refresh()
        elif time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._line()
        if not self._measured:
            self._measured, self._first, self._began = True, self._done, time.monotonic()

    def _tick(self, seconds: float) -> bool:
        assert self._bar is not None
        about = self._forecast() if self._forecast else 0
        of = f" of about {about}" if about else ""
        self._bar.set_postfix_str(f"{self._what}, {seconds:.0f} s so far{of}")
        return True

    def _line(self) -> None:
        self._last_line, self._brief, self._told = time.monotonic(), False, self._done
        count = f"{self._done}/{self._total}" if self._total else f"{self._done}"
        words = [f"{self._label}: {count} {self._unit}"]
        rate, to_do = 0.0, self._total - self._done
        if self._measured and self._done > self._first:
            rate = (self._done - self._first) / max(self._last_line - self._began, 1e-9)
            each = f"{self._unit}/s"
            words.append(f"{rate:.3g} {each}" if rate < 100 else f"{rate:.0f} {each}")
        if self._total and to_do <= 0:
            words.append("done")
        elif self._total and rate:
            words.append(f"{datetime.timedelta(seconds=round(to_do / rate))} left")
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
        self._waiting.__exit__(kind, error, trace)  # what did not end took no time
        if self._bar is not None:
            self._bar.leave = self._done > self._start and not self._brief
            self._bar.close()
        elif self._done > self._told and not self._brief:
            self._line()
