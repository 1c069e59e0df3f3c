"""From values to HTML: everything escaped, numbers with sensible precision, tables that sort."""

from __future__ import annotations

import base64
import hashlib
import html
import importlib.resources
import math
import string
from collections.abc import Sequence
from typing import Any, NamedTuple

DASH = "\N{EN DASH}"  # what is not known
_LONG = 20  # characters of text from which on a column is wide


class Cell(NamedTuple):
    """A cell of a table."""

    shown: str  # HTML
    key: str = ""  # what it sorts and filters by; an empty one sorts last
    numeric: bool = False


def text(value: Any) -> str:
    """Returns a value as text that is safe in HTML, in content and in quoted attributes.

    What does not print (control characters, bidirectional overrides, lone surrogates of a file
    name that is no UTF-8) is shown as its escape, so that it can be seen and does nothing.
    """
    seen = (
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in str(value)
    )
    return html.escape("".join(seen))


def real(value: Any) -> float:
    """Returns a value of metrics.json as float; NaN where it is missing or no number."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number else math.nan


def amount(value: Any) -> str:
    """Returns a number to four digits, a large one in full: 0.01235, 12.35, 51,224,188."""
    number = real(value)
    if math.isnan(number):
        return DASH
    if math.isinf(number):
        return "∞" if number > 0 else "-∞"
    if number == int(number) or abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.4g}"


def rate(value: Any) -> str:
    """Returns a number in [0, 1] as HTML, to three decimals; "> 0.999" where 1.000 is untrue."""
    number = real(value)
    if math.isnan(number):
        return DASH
    if 0.9995 <= number < 1:
        return "&gt; 0.999"
    return "&lt; 0.001" if 0 < number < 0.0005 else f"{number:.3f}"


def percent(value: Any) -> str:
    """Returns a share in [0, 1] as percent to one decimal."""
    number = real(value)
    return DASH if math.isnan(number) else f"{100 * number:.1f} %"


def interval(pair: Any, scale: float = 1, decimals: int = 3) -> str:
    """Returns a [low, high] of metrics.json as HTML beside its number; "" where there is none."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return ""
    low, high = (real(end) * scale for end in pair)
    if math.isnan(low) or math.isnan(high):
        return ""
    return f' <small class="interval">[{low:.{decimals}f}, {high:.{decimals}f}]</small>'


def words(value: Any) -> Cell:
    """A cell of text; None is a dash."""
    return Cell(DASH) if value is None or value == "" else Cell(text(value), text(value))


def figure(shown: str, value: Any) -> Cell:
    """A cell that shows `shown`, HTML, and sorts by the number `value`."""
    number = real(value)
    return Cell(shown, "" if math.isnan(number) else repr(number), numeric=True)


def table(
    columns: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    caption: str,
    name: str = "",
    descending: str = "",
) -> str:
    """Returns an HTML table.

    Args:
      columns: the head, plain text.
      rows: a cell for each column.
      caption: plain text, what a screen reader announces.
      name: the element's id, which filters refer to.
      descending: the column that the rows are sorted by already, from the largest down.
    """
    styles = [_style([row[i] for row in rows]) for i in range(len(columns))]
    sorted_by = ' aria-sort="descending"'
    head = "".join(
        f'<th scope="col"{style}'
        f"{sorted_by if column and column == descending else ''}>{text(column)}</th>"
        for column, style in zip(columns, styles, strict=True)
    )
    body = "\n".join(
        "<tr>"
        + "".join(
            f'<td{style} data-key="{cell.key}">{cell.shown}</td>'
            for cell, style in zip(row, styles, strict=True)
        )
        + "</tr>"
        for row in rows
    )
    identity = f' id="{name}"' if name else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{text(caption)}">'
        f"<table data-sortable{identity}>"
        f'<caption class="hidden">{text(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )


def select(label: str, values: Sequence[str], column: int | None = None) -> str:
    """Returns a labelled choice among `values` or all; `column` is the table column it filters."""
    options = "".join(f'<option value="{text(v)}">{text(v)}</option>' for v in values)
    of = "" if column is None else f' data-column="{column}"'
    return (
        f'<label>{text(label)} <select{of}><option value="">all</option>{options}</select></label>'
    )


def filters(name: str, selects: Sequence[str], n: int, what: str) -> str:
    """Returns the controls that filter table `name` of `n` rows: free text and `selects`."""
    return (
        f'<form class="controls" data-table="{name}">'
        '<label>Filter <input type="search" placeholder="any text" autocomplete="off"></label>'
        f"{''.join(selects)}"
        f'<span><output aria-live="polite">{n} of {n}</output> {text(what)}</span></form>'
    )


def data_uri(png: bytes) -> str:
    """Returns the bytes of a PNG as data: URI."""
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"


def document(title: str, body: str) -> str:
    """Returns a whole page: the template with style and script inside and nothing from outside.

    `title` is plain text, `body` HTML. The page's security policy lets run the one script that is
    known by its hash, and load nothing but data: images.
    """
    folder = importlib.resources.files("cae_jax.reports.html") / "templates"
    page, style, script = (
        (folder / f"report.{ending}").read_text(encoding="utf-8")
        for ending in ("html", "css", "js")
    )
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return string.Template(page).substitute(
        title=text(title), style=style, script=script, hash=digest, body=body
    )


def _style(column: Sequence[Cell]) -> str:
    """The class of a column's cells."""
    if column and all(cell.numeric for cell in column):
        return ' class="number"'
    return ' class="long"' if any(len(cell.key) > _LONG for cell in column) else ""
