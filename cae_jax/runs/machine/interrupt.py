"""Ctrl-C and SIGTERM held back until what must not be cut short is done."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_NOTICE = b"\nstopping: a checkpoint comes first; once more to stop at once\n"


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Holds the first SIGINT or SIGTERM back until the block ends; a second one kills at once.

    Yields a function that says whether one came. At the end it is delivered to the handlers of
    before, which are back in place; where these return, KeyboardInterrupt is raised all the same.
    In a thread other than the main one nothing is held back: handlers can only be set there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        came.append(number)
        for each in before:
            signal.signal(each, signal.SIG_DFL)
        if sys.__stderr__ is not None:  # None where the process began without one
            with contextlib.suppress(OSError):
                os.write(sys.__stderr__.fileno(), _NOTICE)  # print may be what it interrupts

    found = {each: signal.getsignal(each) for each in _SIGNALS}
    # one that is ignored (nohup) stays so; None was not set from Python and could not be put back
    before = {each: h for each, h in found.items() if h not in (signal.SIG_IGN, None)}
    try:
        for each in before:
            signal.signal(each, note)
        yield lambda: bool(came)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    if came:
        signal.raise_signal(came[0])
        raise KeyboardInterrupt
