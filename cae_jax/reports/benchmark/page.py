"""The benchmark to read: one Markdown page and one HTML page of the same tables."""

from __future__ import annotations

import math
import textwrap
import urllib.parse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from cae_jax.evaluation import ranking
from cae_jax.reports.benchmark import pairs, tables
from cae_jax.reports.benchmark.cells import Found
from cae_jax.reports.html import markup
from cae_jax.reports.html.markup import Cell, Table, figure, rate, words

_TRIVIAL = "trivial: "
_SHORT = {  # what a terminal is shown
    *("category", "method", "image AUROC", "pixel AUROC", "balanced accuracy", "false alarms"),
    *("fit, s", "ms an image"),
}


class Column(NamedTuple):
    """A column of numbers."""

    title: str
    name: str  # in the tables of `tables`
    show: Callable[[Any], str]


COLUMNS = (
    Column("image AUROC", "image_auroc", rate),
    Column("pixel AUROC", "pixel_auroc", rate),
    Column("AU-PRO 0.3", "au_pro_30", rate),
    Column("AU-PRO 0.05", "au_pro_5", rate),
    Column("good right", "good_accuracy", rate),
    Column("defects found", "defect_accuracy", rate),
    Column("balanced accuracy", "balanced_accuracy", rate),
    Column("false alarms", "false_alarms", rate),
    Column("fit, s", "train_seconds", lambda value: _three(value)),
    Column("ms an image", "ms_per_image", lambda value: _three(value)),
    Column("MB", "model_megabytes", lambda value: _three(value)),
)
_SATURATED = (  # behind AU-PRO, where there are any
    Column("AU-sPRO 0.3", "au_spro_30", rate),
    Column("AU-sPRO 0.05", "au_spro_5", rate),
)
NOTE = (
    "Means over seeds ± their standard deviation; in brackets 95 % bootstrap intervals over the "
    "test images, good and defective ones drawn apart. Good right, defects found and false alarms "
    "are by the threshold from good images alone that counts; without such a threshold they are "
    "missing. Seconds and milliseconds are medians over seeds, on the machine that is named on "
    "this page; megabytes are all that scoring needs, pretrained weights included. Trivial scores "
    "take no learning: a method that does not beat them has shown nothing."
)
_PAIRS = (
    "Both judge the same test images, so their difference is surer than their intervals look. "
    "AUROC averaged over seeds, by DeLong; verdicts of the lowest seed, by McNemar. P-values of "
    "Holm allow for all pairs of the category, which are in pairs.csv. Test images are the sample: "
    "nothing is said of other training images, nor of other products."
)
_EMPTY = Cell("", "", numeric=True)


class Section(NamedTuple):
    """A table with what stands above it."""

    title: str
    about: str
    table: Table


class Page(NamedTuple):
    """All that both pages show."""

    about: Sequence[tuple[str, str]]  # label and value: what all of it is of
    notes: Sequence[str]
    sections: Sequence[Section]
    ranks: str  # in words
    cells: Table
    failed: Sequence[tuple[str, str]]
    synthetic: bool


def page(found: Found) -> Page:
    """Returns what the pages show of a benchmark with one finished cell at least."""
    table = found.table
    count, few = tables.whole(table), len(set(table.loc[table["error"] == "", "train_images"])) > 1
    overall, by_category = tables.overall(found), tables.by_category(found)
    base = by_category[by_category["train_images"] == count]
    ranks = tables.ranked(base)
    trivial = tables.trivial(found)
    sections = []
    if base["category"].nunique() > 1:
        at = overall[overall["train_images"] == count]
        sections.append(_overall(at, trivial, ranks, base["category"].nunique()))
    sections.append(_by_category(base, trivial))
    if not (two := pairs.table(found, count)).empty:
        sections.append(_pairs(two))
    if few:
        sections.append(_few(overall, by_category))
    failed = table.loc[table["error"] != "", ["folder", "error"]]
    return Page(
        _facts(table),
        tables.flags_that_differ(found),
        sections,
        tables.words(ranks),
        _cells(table[table["error"] == ""]),
        [*failed.itertuples(index=False, name=None)],
        "synthetic" in set(table["dataset"]),
    )


def markdown(of: Page) -> str:
    """Returns the page as Markdown."""
    lines = [f"# Methods side by side{', on SYNTHETIC data' if of.synthetic else ''}", ""]
    lines += [*(f"- {name}: {_escaped(value)}" for name, value in of.about), "", NOTE, ""]
    for note in of.notes:
        lines += [_escaped(note), ""]
    for name, cause in of.failed:
        lines += [f"Failed: {_escaped(name)}: {_escaped(cause)}", ""]
    for i, section in enumerate(of.sections):
        lines += [f"## {section.title}", "", *([section.about, ""] if section.about else [])]
        lines += [*grid(section.table), ""]
        if i == 0:
            lines += ["## Ranks", "", of.ranks, ""]
    return "\n".join(lines)


def html(of: Page, pictures: Mapping[str, tuple[str, Path]]) -> str:
    """Returns the page as one HTML document that needs nothing else.

    `pictures` are PNG files by where they belong, "ranks" and "few", each with its description.
    """
    shown: dict[str, markup.Image | None] = {"ranks": None, "few": None}
    for name, (alt, path) in pictures.items():
        shown[name] = markup.png(path.read_bytes(), alt)
    choices = {i: sorted({row[i].key for row in of.cells.rows}) for i in (0, 1, 2)}
    return markup.document(
        "benchmark.html",
        "Methods side by side",
        **of._asdict(),
        note=NOTE,
        pictures=shown,
        choices=choices,
    )


def text(of: Page) -> str:
    """Returns the first table for a terminal, in columns."""
    table = of.sections[0].table
    keep = [i for i, title in enumerate(table.columns) if title in _SHORT]
    rows = [[table.columns[i] for i in keep]]
    rows += [[markup.visible(row[i].shown) for i in keep] for row in table.rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(keep))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([*(line.rstrip() for line in lines), "", *textwrap.wrap(of.ranks, 100)])


def grid(table: Table) -> list[str]:
    """Returns a table's lines of Markdown, intervals beside their numbers."""
    rows = [
        [_escaped(f"{markup.visible(c.shown)} {c.interval}".strip()) for c in row]
        for row in table.rows
    ]
    lines = [list(table.columns), ["---"] * len(table.columns), *rows]
    return ["| " + " | ".join(cells) + " |" for cells in lines]


def _overall(
    rows: pd.DataFrame, trivial: pd.DataFrame, ranks: tables.Ranking | None, n: int
) -> Section:
    rank = dict(zip(ranks.entries, ranks.found.mean, strict=True)) if ranks else {}
    made, numbers = [], _columns(rows)
    for row in rows.to_dict("records"):
        of = f"{row['categories']} of {n}" if row["categories"] < n else str(n)
        mean = rank.get(row["entry"], math.nan)
        made.append(
            [
                *(words(row["entry"]), _size(row["image_size"])),
                *(figure(of, row["categories"]), _count(row["seeds"])),
                figure(_three(mean), mean),
                *_numbers(row, numbers),
            ]
        )
    for row in trivial[trivial["category"] == ""].to_dict("records"):
        made.append([words(_TRIVIAL + row["entry"]), *[_EMPTY] * 4, *_numbers(row, numbers)])
    head = ("method", "pixels", "categories", "seeds", "mean rank")
    columns = [*head, *(column.title for column in numbers)]
    return Section(f"Mean over {n} categories", "", Table("Mean over categories", columns, made))


def _by_category(rows: pd.DataFrame, trivial: pd.DataFrame) -> Section:
    made, numbers = [], _columns(rows)
    for category, part in rows.groupby("category", sort=False):
        for row in part.to_dict("records"):
            about = [words(category), words(row["entry"]), _size(row["image_size"])]
            made.append(
                [*about, _count(row["n_train"]), _count(row["seeds"]), *_numbers(row, numbers)]
            )
        for row in trivial[trivial["category"] == category].to_dict("records"):
            about = [words(category), words(_TRIVIAL + row["entry"])]
            made.append([*about, *[_EMPTY] * 3, *_numbers(row, numbers)])
    head = ("category", "method", "pixels", "learned from", "seeds")
    columns = [*head, *(column.title for column in numbers)]
    table = Table("Each category", columns, made, name="runs")
    return Section("Each category", "", table)


def _pairs(rows: pd.DataFrame) -> Section:
    """The best method of each category against every other one."""
    made = []
    for row in rows[rows["one"] == rows.groupby("category")["one"].transform("first")].to_dict(
        "records"
    ):
        ends = markup.interval([row["low"], row["high"]])
        made.append(
            [
                *(words(row["category"]), words(row["one"]), words(row["other"])),
                figure(f"{row['difference']:+.3f}", row["difference"], ends),
                *(_p(row["p_value"]), _p(row["p_holm"])),
                *(_count(row["only_one"]), _count(row["only_other"])),
                *(_p(row["verdicts_p_value"]), _p(row["verdicts_p_holm"])),
            ]
        )
    columns = ["category", "the best", "another", "AUROC, difference", "p (DeLong)", "p (Holm)"]
    columns += ["right by it alone", "by the other alone", "p (McNemar)", "p (Holm)"]
    return Section("Two methods on the same images", _PAIRS, Table("Two methods", columns, made))


def _p(value: float) -> Cell:
    if pd.isna(value):
        return Cell(markup.DASH, "", numeric=True)
    return figure("< 0.001" if value < 0.001 else f"{value:.3f}", value)


def _few(overall: pd.DataFrame, by_category: pd.DataFrame) -> Section:
    counts = sorted(set(overall["train_images"]) - {0})
    counts += [0] * (0 in set(overall["train_images"]))
    parts = dict(list(by_category.groupby("category", sort=True)))
    if len(parts) > 1:
        parts = {"mean": overall, **parts}
    made = []
    for name, part in parts.items():
        values = part.set_index(["entry", "train_images"])
        for entry in sorted(set(part["entry"])):
            row = [words(name), words(entry)]
            for count in counts:
                there = (entry, count) in values.index
                row.append(_number(values.loc[(entry, count)], COLUMNS[0]) if there else _EMPTY)
            made.append(row)
    columns = ["category", "method", *(str(count or "all") for count in counts)]
    about = "Image AUROC by the number of good training images, drawn by the seed."
    return Section("Few images", about, Table("Few images", columns, made))


def _columns(table: pd.DataFrame) -> list[Column]:
    """The columns of numbers of a table's rows."""
    return [*COLUMNS[:4], *(each for each in _SATURATED if each.name in table), *COLUMNS[4:]]


def _numbers(row: Mapping[str, Any], columns: Sequence[Column]) -> list[Cell]:
    return [_number(row, column) for column in columns]


def _number(row: Mapping[str, Any] | pd.Series, column: Column) -> Cell:
    name = column.name
    value, spread = row.get(name, math.nan), row.get(f"{name}_spread", math.nan)
    if pd.isna(value):
        return Cell(markup.DASH, "", numeric=True)
    shown = column.show(float(value))
    if not pd.isna(spread):
        shown += f" ± {spread:.3f}"
    ends = [row.get(f"{name}_low", math.nan), row.get(f"{name}_high", math.nan)]
    return figure(shown, float(value), markup.interval([float(end) for end in ends]))


def _cells(table: pd.DataFrame) -> Table:
    """Every finished cell, linked to its own page."""
    made, numbers = [], _columns(table)
    for row in table.to_dict("records"):
        way = urllib.parse.quote(row["folder"], errors="surrogateescape")
        made.append(
            [
                words(row["category"]),
                words(row["entry"], kind="link", href=f"./{way}/report.html"),
                words(str(row["train_images"] or "all")),
                *(_count(row[name]) for name in ("seed", "n_train")),
                *(_size(row["image_size"]), _count(row["channels"])),
                *_numbers(row, numbers),
                words(row["threshold"]),
                words(row["flag"]),
            ]
        )
    head = ("category", "method", "training images", "seed", "learned from", "pixels", "channels")
    columns = [*head, *(column.title for column in numbers), "threshold", "warning"]
    return Table("Every run", columns, made, name="images")


def _facts(table: pd.DataFrame) -> list[tuple[str, str]]:
    """What all numbers are of."""
    done = table[table["error"] == ""]

    def each(name: str) -> str:
        values = done[name].dropna()
        if name == "image_size":  # some of them may be words
            values = values.astype(str)
        return ", ".join(dict.fromkeys(str(v) for v in values.sort_values(kind="stable"))) or "-"

    categories = []
    for name, part in done.groupby("category", sort=True):
        sizes = part[["n_train", "n_validation", "n_good", "n_defective"]].astype(float).max()
        learned = sizes["n_train"] + sizes["n_validation"]
        good, bad = sizes["n_good"], sizes["n_defective"]
        categories.append(f"{name} ({learned:.0f} training, {good:.0f} good, {bad:.0f} defective)")
    return [
        ("data set", each("dataset")),
        ("categories", ", ".join(categories)),
        ("seeds", each("seed")),
        ("images, in pixels", each("image_size")),
        ("accuracies by", each("threshold")),
        ("computed on", f"{each('device')}, jax {each('jax')}"),
        ("level of the tests", f"{100 * ranking.ALPHA:.0f} %"),
    ]


def _count(value: Any) -> Cell:
    return _EMPTY if pd.isna(value) else figure(f"{float(value):.0f}", float(value))


def _size(value: Any) -> Cell:
    if pd.isna(value):
        return _EMPTY
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return figure(text, tables.n_pixels(value))


def _three(value: Any) -> str:
    """Three digits of a number: 3.14, 314, 3142."""
    if pd.isna(value):
        return markup.DASH
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _escaped(value: str) -> str:
    """On one line of Markdown, in a table or out of one."""
    return markup.visible(value).replace("|", "\\|")
