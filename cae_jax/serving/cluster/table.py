"""The table of a cluster's scores, in Parquet: whole in the end, in parts until then.

In the output folder, which may be a URI::

    scores.parquet             one row per image, sorted by path: SCHEMA
    scores.part-NUMBER.parquet rows of a job that is not finished; the next start goes on from them
    run.json                   whose scores these are
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
from pyarrow import parquet

from cae_jax import files
from cae_jax.serving import growing_table
from cae_jax.serving.cluster import places
from cae_jax.types import DataError, UsageError

NAME, _PART, _JOB = "scores.parquet", "scores.part-", "run.json"
SCHEMA = pyarrow.schema(
    [
        pyarrow.field("path", pyarrow.string()),  # below the folder of the images
        pyarrow.field("distance", pyarrow.float64()),  # null where there is an error
        pyarrow.field("p_value", pyarrow.float64()),  # null without unseen good images, too
        pyarrow.field("defective", pyarrow.bool_()),
        pyarrow.field("error", pyarrow.string()),  # why an image was not scored; null of others
        pyarrow.field("bytes", pyarrow.int64()),
        pyarrow.field("modified", pyarrow.int64()),  # nanoseconds since 1970
        pyarrow.field("sha256", pyarrow.string()),
    ]
)


class Output(NamedTuple):
    """The folder that a job's table is in."""

    where: str  # as it is named to the user
    at: Path | places.Store  # of this machine, or of a URI


def at(where: str) -> Output:
    """Returns an output, which need not be there; raises UsageError for a URI that cannot be."""
    return Output(places.shown(where), places.local(where) or places.opened(where, "output"))


def text(path: bytes) -> str:
    """Returns a file's name as a table can hold it: of what is not UTF-8 its bytes, as \\xff."""
    return path.decode("utf-8", "backslashreplace")


def claim(output: Output, identity: Mapping[str, Any], overwrite: bool) -> None:
    """Makes the folder the job's.

    Raises:
      UsageError: it holds another job, or such tables and no job.
      DataError: it cannot be read or written.
    """
    tables = _tables(output)
    job = _read(output, _JOB) if _JOB in _names(output) else None
    if job is None and tables:
        raise UsageError(
            f"--output={output.where}: {tables[0]} lies in it without a {_JOB}, so it is not of "
            "such a job: take another folder"
        )
    if job is not None:
        before = growing_table.read_identity(output.where, job)
        if overwrite:
            _remove(output, tables)
        else:
            growing_table.compare(output.where, before, identity)
    _write(output, _JOB, (json.dumps(identity, indent=2) + "\n").encode())


def rows(output: Output) -> pyarrow.Table:
    """Returns the rows that there are, sorted by path, of an image that was scored again the last
    one; raises DataError."""
    tables = [SCHEMA.empty_table()]
    for name in _tables(output):
        try:
            read = parquet.read_table(pyarrow.BufferReader(_read(output, name)))
            tables.append(read.select(SCHEMA.names).cast(SCHEMA))
        except (pyarrow.ArrowException, KeyError) as error:
            raise DataError(f"{output.where}: {name} is no table of such scores") from error
    whole = pyarrow.concat_tables(tables)
    last = {path: i for i, path in enumerate(whole.column("path").to_pylist())}
    return whole.take(pyarrow.array([last[path] for path in sorted(last)], pyarrow.int64()))


def add(output: Output, blocks: list[pyarrow.Table]) -> None:
    """Writes a part of some blocks of rows; raises DataError."""
    numbers = [int(name[len(_PART) : -len(".parquet")]) for name in _parts(output)]
    number = max(numbers, default=-1) + 1
    _write(output, f"{_PART}{number:06}.parquet", _parquet(pyarrow.concat_tables(blocks)))


def finish(output: Output) -> pyarrow.Table:
    """Makes one table of what there is, and returns it; raises DataError."""
    whole, parts = rows(output), _parts(output)
    if parts:
        _write(output, NAME, _parquet(whole))
        _remove(output, parts)
    return whole


def _parquet(rows: pyarrow.Table) -> bytes:
    stream = pyarrow.BufferOutputStream()
    parquet.write_table(rows, stream, compression="zstd")
    return stream.getvalue().to_pybytes()


def _tables(output: Output) -> list[str]:
    """The files of rows, the oldest first."""
    return [name for name in _names(output) if name == NAME] + _parts(output)


def _parts(output: Output) -> list[str]:
    found = [name for name in _names(output) if name.startswith(_PART)]
    return sorted(name for name in found if name[len(_PART) :].removesuffix(".parquet").isdecimal())


def _names(output: Output) -> list[str]:
    with _named(output, "cannot be read"):
        if isinstance(output.at, places.Store):
            return [file.path for file in output.at.files()]
        return os.listdir(output.at) if output.at.exists() else []


def _read(output: Output, name: str) -> bytes:
    with _named(output, f"{name} cannot be read"):
        if isinstance(output.at, places.Store):
            return output.at.read(name)
        return (output.at / name).read_bytes()


def _write(output: Output, name: str, content: bytes) -> None:
    with _named(output, f"{name} cannot be written"):
        if isinstance(output.at, places.Store):
            output.at.write(name, content)
        else:
            output.at.mkdir(parents=True, exist_ok=True)
            files.write_whole(output.at / name, content)


def _remove(output: Output, names: list[str]) -> None:
    with _named(output, "cannot be written"):
        for name in names:
            if isinstance(output.at, places.Store):
                output.at.remove(name)
            else:
                (output.at / name).unlink()


@contextlib.contextmanager
def _named(output: Output, what: str) -> Iterator[None]:
    """An OSError of the body is a DataError that names the output."""
    try:
        yield
    except OSError as error:
        cause = error.strerror or places.one_line(error)
        raise DataError(f"--output={output.where}: {what}: {cause}") from error
