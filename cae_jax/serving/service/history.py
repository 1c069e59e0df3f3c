"""What a service has judged, and what an operator said of it, in SQLite.

Of every image there is a row; of the last hundred there are also the pictures, so that they can be
looked at again.
"""

from __future__ import annotations

import contextlib
import csv
import io
import math
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from cae_jax.files import no_formula
from cae_jax.reports.html import markup
from cae_jax.serving.detector import Verdict
from cae_jax.serving.service import words
from cae_jax.types import DataError, UsageError, unknown_name

PICTURES = 100  # images whose pictures are kept
PARTS = ("picture", "map", "mask")
# What an operator may say of a part, by whether it was called defective; "" takes it back.
REVIEWS = {True: ("agree", "false alarm"), False: ("agree", "missed")}
_IN_MEMORY = 10_000  # rows of a history without a file, which must not grow for ever
_NAME = 300  # characters of a name that are kept
_AT_ONCE = 1000  # rows read for a part of the CSV
_LOCKED = 0.5  # seconds that a verdict waits for another program that writes in the file
_FORMAT = 1
_TABLES = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS judged (
  number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, time REAL NOT NULL,
  model TEXT NOT NULL, version TEXT NOT NULL, name TEXT NOT NULL, defective INTEGER NOT NULL,
  score REAL NOT NULL, threshold REAL NOT NULL, p_value REAL, sentence TEXT NOT NULL,
  review TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS of_model ON judged (model, number);
CREATE TABLE IF NOT EXISTS pictures (
  number INTEGER PRIMARY KEY, picture BLOB NOT NULL, map BLOB NOT NULL, mask BLOB NOT NULL);
PRAGMA user_version = {_FORMAT};
COMMIT;
"""


class Row(NamedTuple):
    """An image that was judged."""

    number: int  # counts the images of the history, rising
    id: str
    time: float  # seconds since 1970, UTC
    model: str
    version: str
    name: str  # of the file, as `markup.visible` shows it
    defective: bool
    score: float
    threshold: float
    p_value: float  # NaN where there is none
    sentence: str  # see `words.sentence`
    review: str  # what the operator said, "" for nothing; see REVIEWS
    pictures: bool  # whether they are still kept


class History:
    """A table of what was judged; all its methods may be called from any thread."""

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Opens a history, or begins one.

        Args:
          path: the SQLite file, made when it is not there; None keeps the last 10,000 rows in
            memory, and they end with the process.

        Raises:
          DataError: no such folder, or the file is no history.
        """
        self._path = None if path is None else Path(path)
        self._lock = threading.Lock()
        with self._named():
            self._database = sqlite3.connect(
                self._path or ":memory:", _LOCKED, isolation_level=None, check_same_thread=False
            )
            (found,) = self._database.execute("PRAGMA user_version").fetchone()
            (tables,) = self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()
            if found != _FORMAT and (found or tables):
                raise DataError(f"--history={path}: an SQLite file, but not one of this service")
            self._database.execute("PRAGMA journal_mode = WAL")
            # what a power failure may cost is the last verdicts, never the file
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.executescript(_TABLES)
            self._opened = self._file()

    def record(
        self,
        model: str,
        version: str,
        name: str,
        verdict: Verdict,
        picture: bytes,
        map: bytes,
        mask: bytes,
        id: str = "",
    ) -> str:
        """Writes down what was said of an image; returns its id, 16 hexadecimal digits.

        Args:
          model: the name it is served by.
          version: see `detector.Model`.
          name: the image's, a label only: shown as `markup.visible` has it, and cut when long.
          verdict: what the detector said.
          picture: a PNG or JPEG of the image, for people to look at, in its own proportions.
          map: PNG, 8-bit gray: 0..255 is 0..scale.
          mask: PNG, black and white.
          id: the image's, where it has one already.

        Raises:
          DataError: the file cannot be written.
        """
        number = id or secrets.token_hex(8)
        # a threshold's n counts the unseen good images, unless there are none of them
        n = 0 if math.isnan(verdict.p_value) else verdict.threshold.n
        p_value = None if math.isnan(verdict.p_value) else verdict.p_value
        said = (bool(verdict.defective), verdict.distance, verdict.threshold.value, p_value)
        values = (number, time.time(), model, version, markup.visible(name)[:_NAME], *said)
        with self._named(), self._transaction() as database:
            at = database.execute(
                "INSERT INTO judged (id, time, model, version, name, defective, score, threshold,"
                " p_value, sentence) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (*values, words.sentence(verdict, n)),
            ).lastrowid
            assert at is not None
            database.execute("INSERT INTO pictures VALUES (?, ?, ?, ?)", (at, picture, map, mask))
            database.execute("DELETE FROM pictures WHERE number <= ?", (at - PICTURES,))
            if self._path is None:
                database.execute("DELETE FROM judged WHERE number <= ?", (at - _IN_MEMORY,))
        return number

    def rows(
        self,
        limit: int,
        model: str | None = None,
        verdict: str | None = None,
        review: str | None = None,
    ) -> list[Row]:
        """Returns the newest rows, newest first.

        Args:
          limit: how many at most.
          model: only those of this name.
          verdict: only "good" or "defective" ones.
          review: only those of which the operator said this; "" for those not yet spoken of.

        Raises:
          UsageError: an unknown verdict or review.
        """
        asked: dict[str, Any] = {} if model is None else {"model": model}
        if verdict is not None:
            _check("verdict", verdict, ("good", "defective"))
            asked["defective"] = verdict == "defective"
        if review is not None:
            _check("review", review, ("", *REVIEWS[True], *REVIEWS[False]))
            asked["review"] = review
        return self._rows(asked, "DESC", limit)

    def review(self, id: str, word: str) -> None:
        """Writes down what the operator says of a part.

        Args:
          id: as `record` returned it.
          word: "agree", "false alarm" of one called defective, "missed" of one called good; ""
            takes back what was said.

        Raises:
          UsageError: no such id, or a word that does not fit the verdict.
          DataError: the file cannot be written.
        """
        with self._named(), self._transaction() as database:
            known = id.encode("utf-8", "replace").decode()  # a lone surrogate is no text to SQLite
            found = database.execute(
                "SELECT defective FROM judged WHERE id = ?", (known,)
            ).fetchone()
            if found is None:
                raise UsageError(f"no image {id!r} in the history")
            _check("review", word, ("", *REVIEWS[bool(found[0])]))
            database.execute("UPDATE judged SET review = ? WHERE id = ?", (word, id))

    def picture(self, id: str, part: str) -> bytes | None:
        """Returns one of PARTS of an image as `record` took it; None where it is not kept.

        Raises UsageError for an unknown part.
        """
        _check("part", part, PARTS)
        query = f"SELECT {part} FROM pictures JOIN judged USING (number) WHERE id = ?"
        with self._named(), self._lock:
            found = self._database.execute(query, (id,)).fetchone()
        return None if found is None else found[0]

    def csv(self) -> Iterator[str]:
        """Yields all rows as CSV with a head, oldest first, in parts of whole lines.

        Time is ISO 8601 in UTC. What a spreadsheet would take for a formula begins with an
        apostrophe, since a file's name may be anybody's.
        """
        yield _lines([("id", "time", "model", "version", "name", "verdict", "score", "threshold",
                       "p_value", "operator")])  # fmt: skip
        after = -1
        while rows := self._rows({}, "ASC", _AT_ONCE, after):
            after = rows[-1].number
            yield _lines(
                (row.id, _iso(row.time), row.model, row.version, row.name,
                 "defective" if row.defective else "good", row.score, row.threshold,
                 "" if math.isnan(row.p_value) else row.p_value, row.review)
                for row in rows
            )  # fmt: skip

    def close(self) -> None:
        """Closes the file; the history cannot be used any more."""
        with self._lock:
            self._database.close()

    def _rows(self, asked: dict[str, Any], order: str, limit: int, after: int = -1) -> list[Row]:
        where = " AND ".join(["j.number > ?", *(f"j.{name} = ?" for name in asked)])
        query = (
            f"SELECT j.*, p.number IS NOT NULL FROM judged j LEFT JOIN pictures p USING (number)"
            f" WHERE {where} ORDER BY j.number {order} LIMIT ?"
        )
        with self._named(), self._lock:
            found = self._database.execute(query, (after, *asked.values(), limit)).fetchall()
        return [_row(each) for each in found]

    def _file(self) -> tuple[int, int] | None:
        """Which file is at the path; None for none."""
        try:
            found = os.stat(self._path) if self._path is not None else None
        except OSError:
            return None
        return None if found is None else (found.st_dev, found.st_ino)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            if self._file() != self._opened:  # SQLite would go on writing into what nobody can open
                raise DataError(
                    f"--history={self._path}: was removed or replaced since the start of this "
                    "service, and nothing more is kept until it is started again"
                )
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DataError(f"--history={self._path}: {error}") from error


def _row(values: tuple[Any, ...]) -> Row:
    row = Row(*values)
    p_value = math.nan if row.p_value is None else row.p_value
    return row._replace(defective=bool(row.defective), p_value=p_value, pictures=bool(row.pictures))


def _check(what: str, word: str, known: tuple[str, ...]) -> None:
    if word not in known:
        raise unknown_name(what, word, known)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def _lines(rows: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in rows:
        writer.writerow([no_formula(each) if isinstance(each, str) else each for each in row])
    return text.getvalue()
