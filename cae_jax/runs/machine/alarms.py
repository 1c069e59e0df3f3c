"""XLA's alarms about slow compilation, kept off the screen: a bar says what is compiled instead.

XLA writes them as errors, so a log level that hid them would hide its other errors too. What is
written to file descriptor 2 by others than Python goes through a process that runs this file and
passes on all but alarms. It ends with the last who could write, so that the last words of a process
that dies are not lost. TF_CPP_MIN_LOG_LEVEL in the environment leaves everything as XLA writes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator

_ALARM = re.compile(rb"^[IWEF]\d{4} .*\bslow_operation_alarm\.cc:\d+\] ?(.*)")
_HEAD = re.compile(rb"^([IWEF]\d{4} |\d{4}-\d\d-\d\d |Traceback |Fatal )")  # of another message
_BODY = re.compile(rb"^(\*{8,}$|Constant folding an instruction)")
_TOOK, _LAST = b"The operation took", b"attach the results."
_LINES = 12  # of an alarm, at most
_SECONDS = 5.0  # for which what was written last is waited for


def others(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the lines that are not of an alarm.

    An alarm is its head and what follows up to "attach the results.", and the stars below it where
    there are some above. A head that tells how long it took may stand alone.
    """
    left, unsure, starred = 0, False, False
    for line in lines:
        text = line.rstrip(b"\r\n")
        if head := _ALARM.match(text):
            left, unsure, starred = _LINES, head[1].startswith(_TOOK), False
            continue
        if left and text and unsure:
            unsure = False
            left = left if _BODY.match(text) else 0
        if not left or _HEAD.match(text):
            left = 0
            yield line
            continue
        left -= 1
        if text.startswith(b"***"):
            starred, left = True, 0 if starred else left
        elif text.endswith(_LAST):
            left = int(starred)


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """Hides alarms while the block runs, where standard error is file descriptor 2."""
    if os.name != "posix" or "TF_CPP_MIN_LOG_LEVEL" in os.environ or not _is_standard():
        yield
        return
    from cae_jax.runs.machine import streams  # the process that runs this file knows no package

    screen = os.dup(2)
    try:
        filtering = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__],
            stdin=subprocess.PIPE,
            stdout=screen,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
        )
    except OSError:
        os.close(screen)
        yield
        return
    assert filtering.stdin is not None
    before = sys.stderr
    before.flush()
    os.dup2(filtering.stdin.fileno(), 2)
    filtering.stdin.close()
    # Python's own lines do not take the way round
    sys.stderr = streams.opened(screen, before.encoding)
    try:
        yield
    finally:
        sys.stderr.flush()
        sys.stderr = before
        os.dup2(screen, 2)
        with contextlib.suppress(subprocess.TimeoutExpired):  # another process holds it
            filtering.wait(_SECONDS)
        os.close(screen)


def _is_standard() -> bool:
    try:
        return sys.stderr.fileno() == 2
    except (AttributeError, OSError, ValueError):  # none, or no file
        return False


def _pass_on() -> None:
    for line in others(sys.stdin.buffer):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _pass_on()
