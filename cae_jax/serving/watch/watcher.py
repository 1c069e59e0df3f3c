"""The watcher: reads what is whole, judges it, records it, puts it away.

Of each image, in this order, and from the rows on all can be cut short and is gone on with:

    read and judged      nothing is kept: after a kill it is judged as if for the first time
    rows and alarms      one transaction of `journal`: from here on the image is judged
    lines of the tables  appended from the rows
    the file             moved to where its row says, by `moves`
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import glob
import math
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cae_jax.data.frame import lost_of
from cae_jax.files import write_whole
from cae_jax.runs.machine import lock
from cae_jax.runs.machine.progress import say
from cae_jax.serving.detector import MANY, Detector, Verdict
from cae_jax.serving.watch import moves, screen
from cae_jax.serving.watch.alarms import Alarms
from cae_jax.serving.watch.inbox import Entry, Taken, Waiting, read, scan
from cae_jax.serving.watch.journal import Journal, Row
from cae_jax.serving.watch.options import Options
from cae_jax.types import CaeError, DataError

_READERS = 4  # threads that decode
_SHOWN = 0.5  # seconds that a picture stays on the screen at least
_NAP = 0.25  # seconds after which a stop is noticed at the latest
# of a row, in an alarm
_FACTS = ["number", "time", "path", "sha256", "score", "threshold", "p_value", "model", "cause"]
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Counts(NamedTuple):
    """What a watcher has done."""

    judged: int
    defective: int
    refused: int


def watch(
    detector: Detector,
    inbox: Path,
    output: Path,
    options: Options | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Counts:
    """Judges each image that is written into a folder exactly once, until it is stopped.

    SIGTERM and SIGINT stop it after the images in hand, a second one at once; what goes wrong on
    the way (a full disk, a network share that is gone) is said once and waited for.

    Args:
      detector: what judges.
      inbox: the folder; also what is in its folders.
      output: where results.csv, watch.sqlite and, unless they are kept, judged images go; made
        when it is not there.
      options: see `Options`.
      stop: asked between images; True stops it too.

    Returns:
      How many images this start has judged and refused.

    Raises:
      UsageError: options or folders that cannot work, or another process holds `output`.
      DataError: `output` cannot be written to, or holds no such journal.
    """
    options = options or Options()
    options.check(inbox, output)
    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.hold(output))
        journal = stack.enter_context(contextlib.closing(Journal(output, options.csv == "excel")))
        alarms = stack.enter_context(Alarms(journal, options))
        stopped = stack.enter_context(_signals())
        pool = stack.enter_context(ThreadPoolExecutor(_READERS))
        watcher = _Watcher(detector, inbox, output, options, journal, alarms, pool)
        watcher.run(lambda: stopped() or stop())
        return Counts(watcher.judged, watcher.defective, watcher.refused)


class _Judged(NamedTuple):
    """What goes on the screen."""

    verdict: Verdict
    pixels: np.ndarray
    size: tuple[int, int]


class _Sorted(NamedTuple):
    """What some files are."""

    whole: list[Taken]  # to be judged
    refused: list[Taken]
    done: set[str]  # the names of these, and of what was judged before


class _Watcher:
    def __init__(
        self,
        detector: Detector,
        inbox: Path,
        output: Path,
        options: Options,
        journal: Journal,
        alarms: Alarms,
        pool: ThreadPoolExecutor,
    ) -> None:
        self.detector, self.inbox, self.output, self.options = detector, inbox, output, options
        self.journal, self.alarms, self.pool = journal, alarms, pool
        self.judged = self.defective = self.refused = 0
        self._waiting = Waiting(options.settle, options.give_up)
        self._kept = journal.entries() if options.keep else set()
        self._lost = False  # whether it was said that images lose their shape
        self._unmoved: dict[Entry, str] = {}  # what could not be moved, and where it goes
        self._pause = options.poll
        self._troubles: dict[str, str] = {}  # by what was tried: said, and not over yet
        self._latest: _Judged | None = None  # not on the screen yet
        self._screen = Path(options.screen or output / "latest.png")
        for beside in self._screen.parent.glob(f".{glob.escape(self._screen.name)}.*.tmp"):
            beside.unlink(missing_ok=True)  # of one that was killed while it wrote
        self._shown = -math.inf

    def run(self, stopped: Callable[[], bool]) -> None:
        wanted: set[str] | None = None
        while not stopped():
            left = self._look(stopped)
            if self.options.once and left is not None:
                wanted = left if wanted is None else wanted & left
                if not wanted:
                    break
            until = time.monotonic() + self._pause
            while not stopped() and (rest := until - time.monotonic()) > 0:
                time.sleep(min(rest, _NAP))
        self._show(at_once=True)

    def _look(self, stopped: Callable[[], bool]) -> set[str] | None:
        """Judges what is ready; returns the names of what waits, None where that is not known."""
        if not self._try("journal", self.output, self.journal.check):
            return None
        self._finish()  # before anything else is read: it may be of the same name
        began = time.monotonic()
        found: list[Entry] = []
        if not self._try("look", self.inbox, lambda: found.extend(scan(self.inbox, self.output))):
            return None
        self._pause = max(self.options.poll, time.monotonic() - began)
        found = [e for e in found if e not in self._kept and e not in self._unmoved]
        ready = self._waiting.ready(found, time.monotonic())
        left = {entry.name for entry in found}
        for i in range(0, len(ready), MANY):
            if stopped():
                break
            done = self._take(ready[i : i + MANY])
            if done is None:
                return None
            left -= done
        self._show()
        return left

    def _take(self, entries: Sequence[Entry]) -> set[str] | None:
        """Judges files and puts them away; returns the names of those that are dealt with, None
        where that could not be written down."""
        found = _Sorted([], [], set())
        if not self._try("find", self.output, lambda: self._sort(entries, found)):
            return None
        self._see_shapes(found.whole)
        verdicts = self._verdicts(found.whole)
        judged = [*zip(found.whole, verdicts, strict=True)]
        refused = [(each, each.cause) for each in found.refused]
        rows = [self._row(i, *each) for i, each in enumerate([*judged, *refused])]
        if rows:
            record = functools.partial(self.journal.record, rows, self._alarms_of(rows))
            if not self._try("record", self.output, record):
                return None
            self._recorded(rows)
            for taken, verdict in judged:
                if taken.pixels is not None and isinstance(verdict, Verdict):
                    self._latest = _Judged(verdict, taken.pixels, taken.size)
        self._finish()
        self._show()
        return found.done

    def _sort(self, entries: Sequence[Entry], found: _Sorted) -> None:
        """Reads files and says what each is; what has a row already is put aside."""
        read_one = functools.partial(read, self.inbox, detector=self.detector)
        for taken in filter(None, self.pool.map(read_one, entries)):
            if taken.pixels is None and not self._waiting.is_over(taken.entry, time.monotonic()):
                continue
            row = self.journal.find(taken.entry, taken.sha256)
            if row is not None:
                again = functools.partial(self._come_again, row)
                self._try(f"again {row.number}", self.inbox / row.path, again)
            else:
                (found.whole if taken.pixels is not None else found.refused).append(taken)
            found.done.add(taken.entry.name)

    def _see_shapes(self, taken: Sequence[Taken]) -> None:
        """Says, once, that images lose their shape or their borders."""
        sizes = [each.size for each in taken]
        if not self._lost and (lost := lost_of(str(self.inbox), self.detector.model.frame, sizes)):
            self._lost = True
            say(f"warning: {lost[0]}")

    def _verdicts(self, taken: Sequence[Taken]) -> list[Verdict | str]:
        """A verdict of each image, or why there is none."""
        if not taken:
            return []
        pixels = np.stack([each.pixels for each in taken if each.pixels is not None])
        names = [repr(each.entry.name) for each in taken]
        try:
            return list(self.detector.verdicts(pixels, names))
        except CaeError as error:  # of one of them
            if len(taken) == 1:
                return [str(error).removeprefix(f"{names[0]}: ")]
            return [verdict for each in taken for verdict in self._verdicts([each])]

    def _row(self, i: int, taken: Taken, verdict: Verdict | str) -> Row:
        name, size, mtime_ns = taken.entry
        row = Row(
            number=self.journal.next_number + i,
            time=datetime.datetime.now().astimezone().isoformat(timespec="milliseconds"),
            path=name,
            size=size,
            mtime_ns=mtime_ns,
            sha256=taken.sha256,
            score=math.nan,
            threshold=math.nan,
            p_value=math.nan,
            defective=0,
            model=self.detector.model.version,
            cause=verdict if isinstance(verdict, str) else "",
            file="",
            moving=False,
        )
        if isinstance(verdict, Verdict):
            row = row._replace(
                score=verdict.distance,
                threshold=verdict.threshold.value,
                p_value=verdict.p_value,
                defective=int(verdict.defective),
            )
        if self.options.keep:
            return row
        taken_names = self._unmoved.values()
        file = moves.free_name(self.output, row.folder, name, row.number, taken_names)
        return row._replace(file=file, moving=True)

    def _alarms_of(self, rows: Sequence[Row]) -> list[tuple[int, str, dict[str, Any]]]:
        found = []
        for row in rows:
            if row.defective or self.options.alarm_on == "all":
                place = self.output / row.file if row.file else self.inbox / row.path
                facts = {
                    "id": f"{self.journal.station}-{row.number}",
                    **{name: getattr(row, name) for name in _FACTS},
                    "defective": bool(row.defective),
                    "file": str(place.absolute()),
                    "title": self.detector.model.title,
                }
                facts = {
                    name: None if isinstance(fact, float) and not math.isfinite(fact) else fact
                    for name, fact in facts.items()
                }
                found += [(row.number, kind, facts) for kind in self.alarms.kinds]
        return found

    def _recorded(self, rows: Sequence[Row]) -> None:
        self.refused += sum(bool(row.cause) for row in rows)
        self.judged += sum(not row.cause for row in rows)
        self.defective += sum(row.defective for row in rows)
        if self.options.keep:
            self._kept |= {row.entry for row in rows}
        for row in rows:
            if row.cause:
                say(f"{self.inbox / row.path}: refused: {row.cause}")
        self.alarms.wake()

    def _come_again(self, row: Row) -> None:
        """Deals with a file that has a row."""
        if self.options.keep:
            self._kept.add(row.entry)
        elif moves.is_there(self.output, row):
            moves.put_repeated(self.inbox, self.output, row.entry, row.number)
            say(
                f"{self.inbox / row.path}: judged before, as number {row.number}; put into repeated"
            )
        else:  # it was kept, or a power cut has undone its move
            place = moves.free_name(self.output, row.folder, row.path, row.number)
            self.journal.goes_to(row, row.file or place)

    def _finish(self) -> None:
        """Does what follows from the rows: lines of the tables, and moves."""
        self._try("tables", self.output, self.journal.write_tables)
        rows: list[Row] = []
        self._try("unmoved", self.output, lambda: rows.extend(self.journal.unmoved()))
        moved: list[Row] = []
        for row in rows:
            move = functools.partial(self._move, row, moved)
            self._try(f"move {row.number}", self.inbox / row.path, move)
        if moved:
            self._try("moved", self.output, lambda: self.journal.moved(moved))
        self._unmoved = {row.entry: row.file for row in rows if row not in moved}

    def _move(self, row: Row, moved: list[Row]) -> None:
        said = moves.move(self.inbox, self.journal, row)
        moved.append(row)
        if said:
            say(said)

    def _show(self, at_once: bool = False) -> None:
        now = time.monotonic()
        if self._latest and (at_once or now - self._shown >= _SHOWN):
            picture = screen.draw(self.detector.model, *self._latest)
            self._try("screen", self._screen, lambda: write_whole(self._screen, picture))
            self._latest, self._shown = None, now

    def _try(self, what: str, where: Path, do: Callable[[], Any]) -> bool:
        """Does what can fail for a while; says so once, and once that it is over."""
        try:
            do()
        except (OSError, sqlite3.Error, DataError) as error:
            cause = getattr(error, "strerror", None) or str(error)
            if self._troubles.get(what) != cause:
                self._troubles[what] = cause
                say(f"warning: {where}: {cause}; tried again until it works")
            return False
        if self._troubles.pop(what, None):
            say(f"{where}: works again")
        return True


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], bool]]:
    """Yields what says whether SIGTERM or SIGINT came; a second one ends the process at once."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came: list[int] = []

    def note(number: int, _: object) -> None:
        came.append(number)
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_DFL)

    before = {each: signal.signal(each, note) for each in _SIGNALS}
    try:
        yield lambda: bool(came)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
