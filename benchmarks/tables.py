"""Writes the tables of benchmarks/README.md from the records in benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from benchmarks import table_rows
from benchmarks.accelerator import page as accelerators
from cae_jax import files
from cae_jax.reports.thesis import page

_HERE = Path(__file__).resolve().parent
_BEGIN, _END = "<!-- tables: python -m benchmarks.tables -->\n", "<!-- end of tables -->"


def tables_page(results: Path) -> str:
    """Returns the tables, a section per benchmark, from the JSON files of a folder; after them
    those of the accelerators, from the folders accelerator/DEVICE in it."""
    read = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(results.glob("*.json"))
    }
    lines = []
    for row_of in table_rows.SECTIONS:
        title = row_of.__name__
        records = [
            record
            for stem, found in read.items()
            if stem.startswith(title)
            for record in (found if isinstance(found, list) else [found])
        ]
        rows = [row for record in records for row in row_of(record)]
        if rows:
            commands = dict.fromkeys(f"    {record['command']}" for record in records)
            first = records[0]
            where = f"{first['device']} ({first['cpu']}), jax {first['jax']}"
            lines += [f"### {title}", "", f"On {where}:", "", *commands, ""]
            lines += [*page.grid(pd.DataFrame(rows)), ""]
    lines += [accelerators.tables(path) for path in accelerators.folders(results / "accelerator")]
    return "\n".join(lines)


if __name__ == "__main__":
    before, _, rest = (_HERE / "README.md").read_text(encoding="utf-8").partition(_BEGIN)
    made = f"{before}{_BEGIN}\n{tables_page(_HERE / 'results')}{_END}{rest.partition(_END)[2]}"
    files.write_whole(_HERE / "README.md", made)
