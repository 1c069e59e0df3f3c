"""What was judged: OUT/watch.sqlite is the truth, and the tables are written from it.

An image is judged when its row is committed, in one transaction with its alarms. Everything after
that can be cut short at any point and is done again from the row: the lines of results.csv, which
carry the row's number, and the move of the file, see `moves`.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
import os
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cae_jax.files import BOM, as_it_was, no_formula, write_whole
from cae_jax.serving import growing_table
from cae_jax.serving.watch.inbox import Entry
from cae_jax.types import DataError

NAME = "watch.sqlite"
# By table, which rows it has and its columns, in terms of the columns of `images`.
TABLES = {
    "results.csv": (
        "cause = ''",
        ("number", "time", "path", "sha256", "score", "threshold", "p_value", "defective",
         "model", "file"),
    ),
    "refused.csv": ("cause != ''", ("number", "time", "path", "sha256", "cause", "file")),
}  # fmt: skip
_TEXTS = frozenset(["path", "cause", "file", "model"])  # anybody's words, of their columns
_SCHEMA = """
CREATE TABLE IF NOT EXISTS images (
  number INTEGER PRIMARY KEY, time TEXT, path BLOB, size INTEGER, mtime_ns INTEGER, sha256 TEXT,
  score REAL, threshold REAL, p_value REAL, defective INTEGER, model TEXT, cause TEXT, file BLOB,
  moving INTEGER);
CREATE INDEX IF NOT EXISTS identity ON images (path, size, mtime_ns, sha256);
CREATE INDEX IF NOT EXISTS unmoved ON images (number) WHERE moving;
CREATE INDEX IF NOT EXISTS refused ON images (number) WHERE cause != '';
CREATE TABLE IF NOT EXISTS alarms (
  number INTEGER, kind TEXT, body TEXT, PRIMARY KEY (number, kind));
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value);
"""


class Row(NamedTuple):
    """An image that was judged or refused."""

    number: int  # counts up
    time: str  # ISO 8601, when it was judged
    path: str  # relative to the inbox
    size: int
    mtime_ns: int
    sha256: str  # "" of a file that could not be read
    score: float  # NaN of a refused one, as are
    threshold: float
    p_value: float
    defective: int  # 1 or 0
    model: str  # the version
    cause: str  # why it was refused; "" of a judged one
    file: str  # where it goes, relative to the output; "" for nowhere
    moving: bool  # and is not there yet

    @property
    def entry(self) -> Entry:
        """The file as it was seen."""
        return Entry(self.path, self.size, self.mtime_ns)

    @property
    def folder(self) -> str:
        """The output's folder that it belongs to."""
        return "refused" if self.cause else "defective" if self.defective else "good"


class Journal:
    """The database of an output folder, which one process at a time holds; threads may share it."""

    def __init__(self, output: Path, excel: bool = False) -> None:
        """Opens it, or makes it; `excel` as of `files.write_csv`, for the tables: those that are
        there are rewritten. Raises DataError for what is no such database."""
        self._excel = excel
        self.output = output
        self._lock = threading.Lock()
        path = output / NAME
        self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        try:
            # exclusive: else WAL needs shared memory, which not every file system has
            for pragma in ("locking_mode = EXCLUSIVE", "journal_mode = WAL", "synchronous = FULL"):
                self._base.execute(f"PRAGMA {pragma}")
            with self._transaction():
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    self._base.execute(statement)
                self._base.execute(
                    "INSERT OR IGNORE INTO facts VALUES ('station', ?)", (uuid.uuid4().hex,)
                )
        except sqlite3.DatabaseError as error:
            self._base.close()
            raise DataError(f"{path}: not the journal of a watched folder: {error}") from error
        self.station: str = self._fact("station", "")
        (last,) = self._base.execute("SELECT IFNULL(MAX(number), 0) FROM images").fetchone()
        # of a journal that was taken away the tables may be there: a number is not given twice
        self._last: int = max(
            last, *(_whole(output / name, 0)[0] for name in TABLES if not last), 0
        )
        self._file = os.stat(path)
        for name in TABLES:
            self._rewrite(name)

    def close(self) -> None:
        """Closes the database."""
        with self._lock:
            self._base.close()

    def check(self) -> None:
        """Raises DataError where its file lies there no more: rows in it would be lost."""
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.stat(self.output / NAME), self._file):
                return
        raise DataError(f"{NAME} was taken away; put it back, or start anew")

    @property
    def next_number(self) -> int:
        """The number of the next row."""
        return self._last + 1

    def record(self, rows: Sequence[Row], alarms: Iterable[tuple[int, str, Any]]) -> None:
        """Commits rows, numbered on from `next_number`, with alarms as (number, kind, JSON's plain
        values): all of it or, where an sqlite3.Error is raised, nothing."""
        with self._lock, self._transaction():
            self._base.executemany(
                f"INSERT INTO images VALUES ({','.join('?' * len(Row._fields))})",
                [_stored(row) for row in rows],
            )
            self._base.executemany(
                "INSERT INTO alarms VALUES (?, ?, ?)",
                [(number, kind, json.dumps(body)) for number, kind, body in alarms],
            )
        self._last = rows[-1].number

    def find(self, entry: Entry, sha256: str) -> Row | None:
        """Returns the row of an image that was judged before."""
        found = self._rows(
            "path = ? AND size = ? AND mtime_ns = ? AND sha256 = ?",
            os.fsencode(entry.name), entry.size, _time(entry.mtime_ns), sha256,
        )  # fmt: skip
        return found[0] if found else None

    def unmoved(self) -> list[Row]:
        """Returns the rows whose file is not where it goes yet."""
        return self._rows("moving")

    def entries(self) -> set[Entry]:
        """Returns every file that has a row."""
        with self._lock:
            rows = self._base.execute("SELECT path, size, mtime_ns FROM images").fetchall()
        return {Entry(os.fsdecode(path), size, int(mtime)) for path, size, mtime in rows}

    def goes_to(self, row: Row, file: str) -> Row:
        """Commits another place that a file goes to; returns the row."""
        with self._lock, self._transaction():
            self._base.execute(
                "UPDATE images SET file = ?, moving = 1 WHERE number = ?",
                (os.fsencode(file), row.number),
            )
        return row._replace(file=file, moving=True)

    def moved(self, rows: Iterable[Row]) -> None:
        """Commits that files are where they go."""
        numbers = [(row.number,) for row in rows]
        if numbers:
            with self._lock, self._transaction():
                self._base.executemany("UPDATE images SET moving = 0 WHERE number = ?", numbers)

    def next_alarm(self, kind: str) -> tuple[int, str] | None:
        """Returns the oldest alarm of a kind that is not delivered, as (number, JSON)."""
        with self._lock:
            found: tuple[int, str] | None = self._base.execute(
                "SELECT number, body FROM alarms WHERE kind = ? ORDER BY number LIMIT 1", (kind,)
            ).fetchone()
        return found

    def delivered(self, number: int, kind: str) -> None:
        """Commits that an alarm is out of the way."""
        with self._lock, self._transaction():
            self._base.execute("DELETE FROM alarms WHERE number = ? AND kind = ?", (number, kind))

    def write_tables(self) -> None:
        """Appends the rows that the tables lack, in whole lines, and waits for the disk.

        A line that was cut short is taken back first. A table that was taken away begins anew, with
        the rows that follow. Raises OSError where it cannot be written; the next call goes on.
        """
        for name in TABLES:
            self._append(name)

    def _append(self, name: str) -> None:
        which, columns = TABLES[name]
        path = self.output / name
        written, known = self._fact(f"{name} number", 0), self._fact(f"{name} bytes", 0)
        size = path.stat().st_size if path.exists() else 0
        if size != known:
            last, whole = _whole(path, known if size > known else 0)
            written = max(written, last)
            if whole < size:
                os.truncate(path, whole)
        rows = self._rows(f"number > ? AND {which}", written)
        if not rows and size == known > 0:
            return
        with open(path, "a", encoding="utf-8", errors="surrogateescape", newline="\n") as file:
            if file.tell() == 0:
                file.write((BOM if self._excel else "") + ",".join(columns) + "\n")
            for row in rows:
                fields = (getattr(row, column) for column in columns)
                file.write(growing_table.row(*fields, excel=self._excel))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        with self._lock, self._transaction():
            self._base.executemany(
                "INSERT OR REPLACE INTO facts VALUES (?, ?)",
                [(f"{name} number", rows[-1].number if rows else written), (f"{name} bytes", size)],
            )

    def _rewrite(self, name: str) -> None:
        """Brings a table that is there to the form asked for, its whole lines."""
        path = self.output / name
        content = path.read_bytes()[: _whole(path, 0)[1]] if path.exists() else b""
        if not content or content.startswith(BOM.encode()) == self._excel:
            return
        change = no_formula if self._excel else as_it_was
        text = content.decode("utf-8", "surrogateescape").removeprefix(BOM)
        head, *lines = csv.reader(io.StringIO(text, newline=""))
        texts = [column in _TEXTS for column in head]
        lines = [
            [change(f) if t else f for f, t in zip(line, texts, strict=True)] for line in lines
        ]
        whole = "".join(growing_table.row(*line) for line in [head, *lines])
        # first, so that a start after a kill looks into the file for what it has
        with self._lock, self._transaction():
            self._base.execute("INSERT OR REPLACE INTO facts VALUES (?, 0)", (f"{name} bytes",))
        write_whole(path, (BOM if self._excel else "") + whole)

    def _rows(self, where: str, *values: Any) -> list[Row]:
        with self._lock:
            found = self._base.execute(
                f"SELECT * FROM images WHERE {where} ORDER BY number", values
            ).fetchall()
        return [_read(each) for each in found]

    def _fact(self, name: str, default: Any) -> Any:
        with self._lock:
            found = self._base.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return found[0] if found else default

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._base.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._base.execute("COMMIT")
        except BaseException:
            if self._base.in_transaction:
                self._base.execute("ROLLBACK")
            raise


def _stored(row: Row) -> tuple[Any, ...]:
    """Names as bytes: they need not be text."""
    fields = row._asdict() | {"mtime_ns": _time(row.mtime_ns)}
    return tuple({**fields, **{n: os.fsencode(fields[n]) for n in ("path", "file")}}.values())


def _time(mtime_ns: int) -> int | bytes:
    """A file's time: of a clock beyond 2262 it is no integer of SQLite's, and kept as digits."""
    return mtime_ns if -(2**63) <= mtime_ns < 2**63 else str(mtime_ns).encode()


def _read(stored: tuple[Any, ...]) -> Row:
    row = Row(*stored)
    numbers: dict[str, Any] = {
        name: math.nan for name in ("score", "threshold", "p_value") if getattr(row, name) is None
    }
    path, file = (os.fsdecode(name) for name in (row.path, row.file))
    time_of = int(row.mtime_ns)
    return row._replace(path=path, file=file, mtime_ns=time_of, moving=bool(row.moving), **numbers)


def _whole(path: Path, start: int) -> tuple[int, int]:
    """The number of the last line of a table behind `start`, 0 for none, and where its whole lines
    end: a line may go on behind a line break that is within quotes."""
    last, end, line = 0, start, b""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        file.seek(start)
        for part in file:
            line += part
            if line.endswith(b"\n") and line.count(b'"') % 2 == 0:
                end += len(line)
                number = line.partition(b",")[0]
                last = int(number) if number.isdigit() else last
                line = b""
    return last, end
