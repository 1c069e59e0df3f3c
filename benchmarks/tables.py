"""Writes the tables of benchmarks/README.md from the records in benchmarks/results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks import table_rows
from benchmarks.accelerator import page as accelerators
from cae_jax import files
from cae_jax.reports.thesis import page

_HERE = Path(__file__).resolve().parent
_BEGIN, _END = "<!-- tables: python -m benchmarks.tables -->\n", "<!-- end of tables -->"


def tables_page(results: Path) -> str:
    """Returns the tables, those of one kind together, from the JSON files of a folder; after them
    those of the accelerators, from the folders accelerator/DEVICE in it."""
    read = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(results.glob("*.json"))
    }
    lines = []
    for group, some in table_rows.GROUPS.items():
        if found := [line for table in some for line in _section(table, read)]:
            lines += [f"### {group}", "", *found]
    lines += [accelerators.tables(path) for path in accelerators.folders(results / "accelerator")]
    return "\n".join(lines)


def _section(table: table_rows.Table, read: Mapping[str, Any]) -> list[str]:
    """A table under its title, with where and by which commands; nothing without rows."""
    stem = table.stem or table.title
    # a name goes on after the table's own with what was measured
    records = [
        record
        for name, found in read.items()
        if f"{name}_".startswith(f"{stem}_")
        for record in (found if isinstance(found, list) else [found])
    ]
    with_rows = [(record, table.rows_of(record)) for record in records]
    with_rows = [(record, rows) for record, rows in with_rows if rows]
    if not with_rows:
        return []
    commands = dict.fromkeys(f"    {record['command']}" for record, _ in with_rows)
    first = with_rows[0][0]
    where = f"{first['device']} ({first['cpu']}), jax {first['jax']}"
    lines = [f"#### {table.title}", "", f"On {where}:", "", *commands, ""]
    frame = pd.DataFrame([row for _, rows in with_rows for row in rows])
    return [*lines, *page.grid(frame), ""]


if __name__ == "__main__":
    before, _, rest = (_HERE / "README.md").read_text(encoding="utf-8").partition(_BEGIN)
    made = f"{before}{_BEGIN}\n{tables_page(_HERE / 'results')}{_END}{rest.partition(_END)[2]}"
    files.write_whole(_HERE / "README.md", made)
