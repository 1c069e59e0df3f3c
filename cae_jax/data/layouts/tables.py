"""Tables as people and programs write them: CSV by any separator, JSON, a record of JSON a line."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cae_jax import files
from cae_jax.data.layouts.found import entries, plain, subfolders
from cae_jax.types import DataError

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl")
_HEAD = 2**16  # bytes that tell what a table is of
_LOOKED_AT = 8  # texts of a folder
_SEPARATORS = ",;\t|"
_PARTS = re.compile(r'\s*\{\s*"(train|val|test)\w*"\s*:\s*\[', re.IGNORECASE)
_TEXTS = (*SUFFIXES, ".txt", ".xml")
_BOX = re.compile(r"\d+( +-?[\d.]+){4,} *[\r\n]")
_TELLING = re.compile(
    r"\b(labels?|class(es)?|masks?|split|defect(s|ive)?|anomal\w+|abnormal|good|bad|normal|ok|n?ok"
    r"|ng|bndbox)\b"
)


def tables_in(folder: Path) -> list[Path]:
    """Returns the tables in a folder, CSV first, sorted by name; none of one that cannot be
    listed, for who lists it says so."""
    try:
        there = [each for each in folder.iterdir() if not each.name.startswith(".")]
    except OSError:
        return []
    found = [each for each in there if each.suffix.lower() in SUFFIXES]
    return sorted(found, key=lambda each: (SUFFIXES.index(each.suffix.lower()), each.name))


def records(table: Path, whole: bool = True) -> list[dict[str, Any]]:
    """Returns the rows of a table, or of its beginning, by the names of its columns as `plain` has
    them; a JSON of {"train": [...], "test": [...]} has these as column "split".

    Raises DataError where it cannot be read.
    """
    try:
        kind = table.suffix.lower()
        if kind == ".json":
            rows = _of_json(_text(table, _HEAD), table)
        elif kind == ".jsonl":
            lines = _lines(_text(table, None if whole else _HEAD), whole)
            rows = [json.loads(line) for line in lines]
        else:
            rows = _of_csv(_lines(_text(table, None if whole else _HEAD), whole))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{table}: cannot be read as a table of images: {error}") from error
    rows = [row for row in rows if isinstance(row, dict) and any(map(_says, row.values()))]
    return [{plain(str(name).strip()): value for name, value in row.items()} for row in rows]


def value(row: Mapping[str, Any], columns: Iterable[str]) -> tuple[str, str]:
    """Returns the first of these columns that a row has, and its text; "" and "" without any."""
    name = next((each for each in columns if each in row), None)
    if name is None:
        return "", ""
    found = row[name]
    return name, "" if found is None else str(found).strip()


def telling(folder: Path, names: Iterable[str]) -> Path | None:
    """Returns a text in a folder, or in a folder in it, that names one of these images and has a
    word for what images show, or is called like one and holds boxes of YOLO; None where there is
    none among the first ones."""
    wanted = set(names)
    stems = {Path(name).stem for name in wanted}
    for where in (folder, *subfolders(folder)):
        texts = [each for each in entries(where) if each.suffix.lower() in _TEXTS]
        texts = [each for each in texts if each.is_file() and each.stat().st_size]
        for each in texts[:_LOOKED_AT]:
            try:
                text = _text(each, _HEAD)
            except OSError:
                continue
            words = set(re.split(r"[\s,;:|\"'<>/\\]+", text))
            boxes = each.stem in stems and _BOX.match(text)
            if boxes or (words & wanted and _TELLING.search(text.lower())):
                return each
    return None


def _says(value: Any) -> bool:
    """Whether a cell holds anything: spreadsheets write rows of nothing but commas, too."""
    return value is not None and bool(str(value).strip())


def _text(table: Path, most: int | None) -> str:
    with open(table, "rb") as file:
        content = file.read(-1 if most is None else most)
    encoding = files.encoding(content)
    if encoding != "utf-8-sig":
        return content.decode(encoding, "replace")
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        if most is not None and error.start > most - 4:  # cut in the midst of a letter
            return content[: error.start].decode("utf-8-sig")
        return content.decode("cp1252", "replace")  # as Excel on Windows writes CSV


def _lines(text: str, whole: bool) -> list[str]:
    """Lines that are no comments, of a beginning without the last one, which may be cut."""
    lines = text.splitlines(keepends=True)
    lines = lines if whole or len(text) < _HEAD // 4 else lines[:-1]
    return [line for line in lines if line.strip() and not line.startswith("#")]


def _of_csv(lines: list[str]) -> list[dict[str, Any]]:
    if not lines:
        return []
    separator = max(_SEPARATORS, key=lines[0].count)
    if told := re.match("sep=(.)", lines[0], re.IGNORECASE):  # as Excel is told it
        separator, lines = told[1], lines[1:]
    text = io.StringIO("".join(lines), newline="")
    return list(csv.DictReader(text, delimiter=separator, skipinitialspace=True))


def _of_json(head: str, table: Path) -> list[Any]:
    """A list of records, or one for each part; other tools' files, which may be large, are none."""
    parts = _PARTS.match(head)
    if not parts and not head.lstrip().startswith("["):
        raise DataError(f"{table}: not a list of records")
    read = json.loads(_text(table, None))
    if isinstance(read, list):
        return read
    lists = {part: rows for part, rows in read.items() if isinstance(rows, list)}
    return [
        {"split": part, **row}
        for part, rows in lists.items()
        for row in rows
        if isinstance(row, dict)
    ]
