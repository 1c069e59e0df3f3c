"""Writes the tables of benchmarks/README.md from the records in benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd

from cae_jax import files, markdown

_HERE = Path(__file__).resolve().parent
_BEGIN, _END = "<!-- tables: python -m benchmarks.tables -->\n", "<!-- end of tables -->"


def page(results: Path) -> str:
    """Returns the tables, a section per benchmark, from the JSON files of a folder."""
    read = {path.stem: json.loads(path.read_text()) for path in sorted(results.glob("*.json"))}
    lines = []
    for row_of in (_inference, _training, _members, _precision, _scoring):
        title = row_of.__name__[1:]
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
            lines += [*markdown.grid(pd.DataFrame(rows)), ""]
    return "\n".join(lines)


def _inference(r: dict[str, Any]) -> list[dict[str, Any]]:
    row = {"model": r["model"], "images": r["batch_size"]}
    row |= {f"{p}, ms an image": round(r[f"{p}_ms_per_image"]) for p in ("p50", "p95")}
    row |= {"images/s": r["images_per_second"], "share of peak": r["share_of_peak"]}
    return [row | {f"{name} / ours": ratio for name, ratio in r["ratio"].items()}]


def _training(r: dict[str, Any]) -> list[dict[str, Any]]:
    row = {"model": r["model"], "ms a step of 128": round(r["p50_ms_per_step"])}
    row |= {"patches/s": r["patches_per_second"], "s an epoch": r["seconds_per_epoch"]}
    row |= {"h per 200 epochs": r["seconds_per_200_epochs"] / 3600}
    row |= {"share of peak": r["share_of_peak"]}
    return [row | {f"{name} / ours": ratio for name, ratio in r["ratio"].items()}]


def _members(r: dict[str, Any]) -> list[dict[str, Any]]:
    row = {"model": r["model"], "members": r["num_members"], "batch": r["batch_size"]}
    row |= {f"{name}, ms a step of all": ms for name, ms in r["ms_per_step_of_all"].items()}
    return [row | {"default": r["default"]}]


def _precision(r: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"category": r["category"], "model": r["model"]} | mode for mode in r["modes"]]


def _scoring(r: dict[str, Any]) -> list[dict[str, Any]]:
    given = {"model": r["model"], "patches an image": r["patches_per_image"]}
    return [
        given
        | {"images": one["n_images"], "peak memory, MB": round(one["peak_memory_mb"])}
        | {f"{name}, images/s": speed for name, speed in one["images_per_second"].items()}
        for one in r["folders"]
    ]


if __name__ == "__main__":
    before, _, rest = (_HERE / "README.md").read_text().partition(_BEGIN)
    made = f"{before}{_BEGIN}\n{page(_HERE / 'results')}{_END}{rest.partition(_END)[2]}"
    files.write_whole(_HERE / "README.md", made)
