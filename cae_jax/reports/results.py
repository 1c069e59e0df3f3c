"""What a run leaves behind as text: the thesis's CSVs, the results of many runs as one table."""

from __future__ import annotations

import math
import os
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from cae_jax.evaluation import summary, thresholds
from cae_jax.files import write_csv

LOCALIZATION = ("pixel_auroc", "pixel_ap", "au_pro_30", "au_pro_5", "au_pro_1")
RESULT_COLUMNS = (
    *("dataset", "category", "model", "seed", "epochs"),
    *("n_train", "n_validation", "n_good", "n_defective", "image_auroc"),
    *summary.ACCURACIES,
    *("ms_per_image", "train_seconds", "loss", "distance", "image_ap", "image_f1_max"),
    *LOCALIZATION,
    "n_out_of_fold",
    "joint",
    *("au_spro_30", "au_spro_5", "au_spro_1"),  # of MVTec LOCO AD
)


_WIDTH = 100  # characters of a line
_UNSEEN = {"n_out_of_fold": "out of fold", "n_validation": "held out"}
_NAMED = {"category": ("category", ""), "model": ("model", ""), "seed": ("seed", "d")}
_HOW = {
    "out of fold": "out of fold, each was judged by a model fitted without it",
    "held out": "held out, they were kept out of learning",
    "test images": "test images, the very ones that are judged, so that the shares flatter",
}
_TOOK = {"ms_per_image": ("ms/image", ".1f"), "train_seconds": ("train s", ".0f")}


def write_thesis_csvs(
    folder: str | os.PathLike[str], frame: pd.DataFrame, excel: bool = False
) -> None:
    """Writes the thesis's good.csv and defective.csv (Sec. 4.1.5): path and distance, test images.

    `excel` as of `files.write_csv`. Raises DataError where a file cannot be written.
    """
    test = frame[frame["split"] == "test"]
    for label, name in enumerate(("good.csv", "defective.csv")):
        write_csv(
            Path(folder) / name, test.loc[test["label"] == label, ["path", "distance"]], excel
        )


def results_table(rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Returns the table of results.csv: one row per category, model and seed, in the order given.

    A row is `summary.summarize`'s dict and the rest of RESULT_COLUMNS; what a row lacks is NaN,
    what is no column of the table is left out.
    """
    known = [{name: row.get(name) for name in RESULT_COLUMNS} for row in rows]
    # None would make a column of objects where no row has a number
    numbers = [{k: math.nan if v is None else v for k, v in row.items()} for row in known]
    return pd.DataFrame(numbers, columns=list(RESULT_COLUMNS))


def format_table(frame: pd.DataFrame) -> str:
    """Returns a table of `results_table` as text of at most 100 columns, with title and legend.

    Where every run was asked for a rate of false alarms, the threshold for that stands in place of
    the leak-free 90 %. Runs whose test lacks good or defective images have a table of their own.
    """
    rows = frame.to_dict("records")
    names = ["synthetic data" if name == "synthetic" else str(name) for name in frame["dataset"]]
    rule = ("val_90", "leak-free 90 %")
    if rows and all(not math.isnan(row["good_accuracy_false_alarms"]) for row in rows):
        rule = ("false_alarms", "false alarms")
    lines = [f"Results: {', '.join(dict.fromkeys(names)) or 'none'}"]
    whole = [row for row in rows if row["n_good"] != 0 and row["n_defective"] != 0]
    if whole or not rows:
        lines += ["", *_compared(whole, *rule)]
    if len(whole) < len(rows):
        lines += ["", *_judged_alone([row for row in rows if row not in whole], rule[0])]
    return "\n".join([*lines, *_few(rows)])


def _compared(rows: Sequence[Mapping[str, Any]], rule: str, title: str) -> list[str]:
    """The table of runs that were judged on good and on defective images."""
    legend = "threshold from good images alone that the model had not seen."
    if rule == "false_alarms":
        legend = "threshold for the --false_alarms asked for, from such good images alone."
    columns = {
        **_NAMED,
        "image_auroc": ("AUROC", ".3f"),
        "good_accuracy_70": ("good", ".2f"),
        "defect_accuracy_70": ("defect", ".2f"),
        f"good_accuracy_{rule}": ("good", ".2f"),
        f"defect_accuracy_{rule}": ("defect", ".2f"),
        **_TOOK,
    }
    groups = ["", "", "", "", "thesis 70 %", "", title, "", "", ""]
    body, widths = _lines(columns, rows, dict.fromkeys(range(4, 8), 7))  # two hold a group's name
    head = "".join(
        f"{group:>{widths[i] + widths[i + 1] + 2}}  " if group else " " * (widths[i] + 2)
        for i, group in enumerate(groups)
        if i not in (5, 7)
    ).rstrip()
    return [
        *(head, *body),
        "good, defect: share of the good and of the defective test images that are told right.",
        "thesis 70 %: threshold from the good test images themselves (it leaks);",
        f"{title}: {legend}",
    ]


def _judged_alone(rows: Sequence[Mapping[str, Any]], rule: str) -> list[str]:
    """The table of runs whose test lacks a class: what the threshold rests on."""
    columns = {
        **_NAMED,
        "n_train": ("learned from", "d"),
        "rests_on": ("threshold from", ""),
        f"good_accuracy_{rule}": ("good right", ".2f"),
        f"defect_accuracy_{rule}": ("defects found", ".2f"),
        **_TOOK,
    }
    rows = [{**row, "rests_on": _rests_on(row)} for row in rows]
    known = {name for name in columns for row in rows if _cell(row[name], columns[name][1]) != "-"}
    body, _ = _lines({name: columns[name] for name in columns if name in known}, rows, {})
    texts = [
        "No AUROC: it needs good and defective test images. What is found of defects is not known "
        "without them.",
        "threshold from: how many good images set what is still called good, and how: "
        + "; ".join(_HOW[how] for how in _HOW if any(how in row["rests_on"] for row in rows))
        + ".",
    ]
    return [*body, *(line for text in texts for line in textwrap.wrap(text, _WIDTH))]


def _rests_on(row: Mapping[str, Any]) -> str:
    for name, how in _UNSEEN.items():
        if row[name] > 0:
            return f"{row[name]:.0f} {how}"
    return "test images"


def _few(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """What the smallest number of unseen good images comes to, where it is small."""
    found = [row[name] for row in rows for name in _UNSEEN if row[name] > 0]
    n = int(min(found, default=0))
    if not thresholds.few(n):
        return []
    needed = [(rate, thresholds.images_needed(1 / rate)) for rate in (10, 20)]
    more = ", ".join(f"{count} for 1 in {rate}" for rate, count in needed if count > n)
    text = (
        f"{n} good image{'s are' if n > 1 else ' is'} few to set a threshold by: expect it to call "
        f"1 in {n + 1} good images defective, or more; it takes {more}."
    )
    return textwrap.wrap(text, _WIDTH)


def _lines(
    columns: Mapping[str, tuple[str, str]], rows: Sequence[Mapping[str, Any]], least: dict[int, int]
) -> tuple[list[str], list[int]]:
    """A table's lines, with rules below the titles and the last row, and its columns' widths, of
    which some have a least one."""
    lines = [[title for title, _ in columns.values()]]
    for row in rows:
        lines.append([_cell(row[name], style) for name, (_, style) in columns.items()])
    widths = [max(least.get(i, 0), *(len(line[i]) for line in lines)) for i in range(len(columns))]
    body = ["  ".join(_pad(line, widths)).rstrip() for line in lines]
    rule = "-" * max(map(len, body))
    return [body[0], rule, *body[1:], rule], widths


def _cell(value: Any, style: str) -> str:
    if style == "":
        text = "-" if value is None else str(value)
        return text if len(text) <= 15 else f"{text[:13]}.."
    if value is None or math.isnan(value):
        return "-"
    return format(int(value) if style == "d" else value, style)


def _pad(line: Sequence[str], widths: Sequence[int]) -> list[str]:
    """Names to the left, numbers to the right."""
    return [
        text.ljust(width) if i < 2 else text.rjust(width)
        for i, (text, width) in enumerate(zip(line, widths, strict=True))
    ]
