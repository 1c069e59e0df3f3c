"""Tables of scores that grow while a folder is scored, and the job that they belong to.

Rows are appended batch by batch; a job that was killed leaves whole rows and maybe a torn one. With
several processes each has a part of its own, TABLE.part-I-of-N.csv, until `merge` makes one sorted
table of them. run.json says whose job it is: a folder without it is never touched.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from cae_jax.files import BOM, as_it_was, no_formula, write_whole
from cae_jax.runs.machine.progress import say
from cae_jax.types import DataError, UsageError

COLUMNS = {
    "scores": ("path", "distance", "p_value", "defective", "bytes", "modified", "sha256"),
    "left_out": ("path", "cause"),
}
# What the first columns of a table were before there were more: its rows cannot be gone on with.
_BEFORE = {"scores": ("path", "distance", "p_value", "defective")}
FOLDERS = ("anomaly_maps", "predicted_masks")


def claim(
    output: Path, identity: Mapping[str, Any], overwrite: bool = False, excel: bool = False
) -> None:
    """Makes the folder `output` the job's, and its tables fit to be appended to.

    Args:
      output: made when it is not there.
      identity: what two starts of one job have in common, as JSON's plain values.
      overwrite: clear what another job left; nothing else in the folder is touched.
      excel: the tables are written as `files.write_csv` writes them for Excel; what is there is
        rewritten so.

    Raises:
      UsageError: the folder holds another job, or such tables and no job.
      DataError: a file cannot be read or written.
    """
    if (output / "run.json").exists():
        if overwrite:
            _clear(output)
        else:
            check(output, identity)
    else:
        for pattern in (*(f"{name}*.csv" for name in COLUMNS), *FOLDERS):
            for file in output.glob(pattern):
                raise UsageError(
                    f"--output={output}: {file.name} lies in it without a run.json, so it is not "
                    "of such a job: take another folder"
                )
    output.mkdir(parents=True, exist_ok=True)
    write_whole(output / "run.json", json.dumps(identity, indent=2) + "\n")
    for name, columns in _BEFORE.items():
        for file in (output / f"{name}.csv", *output.glob(f"{name}.part-*.csv")):
            if _head(file) == ",".join(columns) + "\n":
                say(f"{file}: does not tell which files it is of: all are scored anew")
                file.unlink()
    merge(output, "scores", excel)
    _remove_table(output, "left_out")  # what was bad is tried again


def check(output: Path, identity: Mapping[str, Any]) -> None:
    """Raises UsageError where `output` is not this job's."""
    compare(output, _identity_in(output), identity)


def compare(output: object, before: Mapping[str, Any], identity: Mapping[str, Any]) -> None:
    """Raises UsageError where `output`, of the job `before`, is not this job's."""
    for name, was in before.items():  # a later version may ask for more
        now = identity.get(name)
        if was != now:
            raise UsageError(
                f"--output={output}: holds scores with {name}={was}, now {now}: "
                "take another folder, or --overwrite"
            )


def merge(output: Path, name: str, excel: bool = False) -> None:
    """Makes one table, sorted by path, of what was there and the parts; a torn row goes."""
    parts = sorted(output.glob(f"{name}.part-*.csv"))
    found: dict[str, str] = {}
    for file in (output / f"{name}.csv", *parts):
        found |= rows(file, name)
    lines = [found[path] for path in sorted(found)]
    lines = [_with(no_formula, line) for line in lines] if excel else lines
    write_whole(output / f"{name}.csv", _head_of(name, excel) + "".join(lines))
    for file in parts:
        file.unlink()


def rows(file: Path, name: str) -> dict[str, str]:
    """Returns the whole rows of a table by path, as they stand there, or would without Excel; none
    without the file.

    Raises DataError for another table.
    """
    if not file.exists():
        return {}
    found, row = [], ""
    with open(file, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        for line in lines:
            row += line
            if row.endswith("\n") and row.count('"') % 2 == 0:  # else it ends within quotes
                found.append(row)
                row = ""
    if found and found[0].removeprefix(BOM) != _head_of(name):
        raise DataError(f"{file}: not a table of {', '.join(COLUMNS[name])}")
    if found and found[0].startswith(BOM):
        found[1:] = [_with(as_it_was, line) for line in found[1:]]
    return {fields(row)[0]: row for row in found[1:]}  # of a path judged twice the later one


def fields(row: str) -> list[str]:
    """Returns the fields of a row of a table."""
    return next(csv.reader([row]))


def append_to(output: Path, name: str, part: str = "", excel: bool = False) -> TextIO:
    """Opens a table to append rows of `row` to; `part` is "" or ".part-I-of-N"."""
    path = output / f"{name}{part}.csv"
    file = path.open("a", encoding="utf-8", errors="surrogateescape", newline="\n")
    if file.tell() == 0:
        file.write(_head_of(name, excel))
    return file


def _head_of(name: str, excel: bool = False) -> str:
    return (BOM if excel else "") + ",".join(COLUMNS[name]) + "\n"


def _with(change: Callable[[str], str], line: str) -> str:
    """A row with its text changed: its path, and its cause, the last field where there is one."""
    path, *rest = fields(line)
    rest = rest if len(rest) > 1 else [change(cause) for cause in rest]
    return row(change(path), *rest)


def _head(file: Path) -> str:
    if not file.exists():
        return ""
    with open(file, encoding="utf-8", errors="surrogateescape", newline="\n") as lines:
        return lines.readline().removeprefix(BOM)


def row(*fields: str | float | int, excel: bool = False) -> str:
    """Returns a row of a table: floats read back to the last bit, NaN is an empty field; `excel` as
    of `files.no_formula`."""
    if excel:
        fields = tuple(no_formula(each) if isinstance(each, str) else each for each in fields)
    return ",".join(map(_field, fields)) + "\n"


def _field(value: str | float | int) -> str:
    if isinstance(value, str):
        quote = set(value) & set(',"\r\n')
        return '"' + value.replace('"', '""') + '"' if quote else value
    return "" if value != value else repr(value)


def _clear(output: Path) -> None:
    _identity_in(output)  # raises where the run.json is somebody else's
    for name in COLUMNS:
        _remove_table(output, name)
    for folder in FOLDERS:
        shutil.rmtree(output / folder, ignore_errors=True)


def _remove_table(output: Path, name: str) -> None:
    for file in [output / f"{name}.csv", *output.glob(f"{name}.part-*.csv")]:
        file.unlink(missing_ok=True)


def _identity_in(output: Path) -> dict[str, Any]:
    return read_identity(output, (output / "run.json").read_bytes())


def read_identity(output: object, content: bytes) -> dict[str, Any]:
    """Returns the job that a run.json in `output` is of; raises UsageError where it is of none."""
    try:
        found = json.loads(content)
    except ValueError:
        found = None
    if not (isinstance(found, dict) and "weights" in found):
        raise UsageError(f"--output={output}: its run.json is not of such a job: take another one")
    return found
