"""From values to what a page shows: numbers with sensible precision, tables that sort, templates.

The HTML stands in `templates`, which escape everything they are given.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import math
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2
import numpy as np
from jinja2.utils import htmlsafe_json_dumps
from markupsafe import Markup

from cae_jax.data import pictures
from cae_jax.reports.run_files import real

DASH = "\N{EN DASH}"  # what is not known
ROWS = 500  # of a table that stand in the page as they are; more would make it slow
_LONG = 20  # characters of text from which on a column is wide


class Cell(NamedTuple):
    """A cell of a table."""

    shown: Any
    key: str = ""  # what it sorts and filters by; an empty one sorts last
    numeric: bool = False
    interval: str = ""  # beside what is shown, small
    kind: str = ""  # how it is shown, see macro `shown` in macros.html
    href: str = ""


class Table(NamedTuple):
    """A table of a page."""

    caption: str  # what a screen reader announces
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    name: str = ""  # the element's id, which filters refer to
    descending: str = ""  # the column that the rows are sorted by already, from the largest down

    @property
    def styles(self) -> list[str]:
        """The CSS class of each column's cells."""
        return [_style([row[i] for row in self.rows]) for i in range(len(self.columns))]

    @property
    def first(self) -> Sequence[Sequence[Cell]]:
        """The rows that stand in the page as they are."""
        return self.rows[:ROWS]

    @property
    def data(self) -> Markup:
        """All rows as JSON for the page's script, which shows ROWS of them at a time; "" of a table
        that stands whole.

        A cell is its text, or with another key [text, key], or ["", key, HTML].
        """
        if len(self.rows) <= ROWS:
            return Markup()
        return htmlsafe_json_dumps([[_datum(cell) for cell in row] for row in self.rows])


class Image(NamedTuple):
    """A picture that stands in the page itself."""

    uri: Markup
    alt: str
    width: int
    height: int


def visible(value: Any) -> str:
    """Returns a value as text in which everything can be seen; a dash for None.

    What does not print (control characters, bidirectional overrides, lone surrogates of a file
    name that is no UTF-8) is shown as its escape, so that it can be seen and does nothing. HTML of
    our own, which is Markup, is returned as it is.
    """
    if isinstance(value, Markup):
        return value
    text = DASH if value is None else str(value)
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


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
    """Returns a number in [0, 1] to three decimals; "> 0.999" where 1.000 is untrue."""
    number = real(value)
    if math.isnan(number):
        return DASH
    if 0.9995 <= number < 1:
        return "> 0.999"
    return "< 0.001" if 0 < number < 0.0005 else f"{number:.3f}"


def percent(value: Any) -> str:
    """Returns a share in [0, 1] as percent to one decimal."""
    number = real(value)
    return DASH if math.isnan(number) else f"{100 * number:.1f} %"


def interval(pair: Any, scale: float = 1, decimals: int = 3) -> str:
    """Returns a [low, high] of metrics.json as text; "" where there is none."""
    if not isinstance(pair, list | tuple) or len(pair) != 2:
        return ""
    low, high = (real(end) * scale for end in pair)
    if math.isnan(low) or math.isnan(high):
        return ""
    return f"[{low:.{decimals}f}, {high:.{decimals}f}]"


def words(value: Any, kind: str = "", href: str = "") -> Cell:
    """Returns a cell of text, a dash for None and ""; `kind` and `href` are those of Cell."""
    missing = value is None or value == ""
    return Cell(DASH) if missing else Cell(value, str(value), kind=kind, href=href)


def figure(shown: str, value: Any, interval: str = "") -> Cell:
    """Returns a cell that shows `shown` and sorts by the number `value`."""
    number = real(value)
    return Cell(shown, "" if math.isnan(number) else repr(number), True, interval)


def bar(auroc: Any) -> Cell:
    """Returns a cell with a small bar from chance, 0.5, to an AUROC in [0, 1]; empty for NaN."""
    number = real(auroc)
    return Cell("") if math.isnan(number) else Cell(number, repr(abs(number - 0.5)), kind="bar")


def image(array: np.ndarray, alt: str, lossy: bool = False) -> Image:
    """Returns a picture of [H, W], [H, W, 1] or [H, W, 3], uint8, bool or float in [0, 1]; `alt`
    says what it is.

    A `lossy` one is a JPEG, about a fifth as large.
    """
    if lossy:
        return _inside(pictures.jpeg_bytes(array), "jpeg", alt, *array.shape[1::-1])
    return png(pictures.png_bytes(array), alt)


def png(content: bytes, alt: str) -> Image:
    """Returns a PNG file's content as a picture of the page."""
    width, height = struct.unpack(">II", content[16:24])  # of the first chunk
    return _inside(content, "png", alt, width, height)


def render(template: str, **values: Any) -> Markup:
    """Returns a template of `templates` filled in; every value in it that is no Markup is escaped.

    Raises jinja2.UndefinedError for a name that the template asks for and `values` lack.
    """
    return Markup(environment().get_template(template).render(**values))


def document(template: str, title: str, **values: Any) -> str:
    """Returns a whole page: a template with style and script inside and nothing from outside.

    The page's security policy lets run the one script that is known by its hash, and load nothing
    but data: images.
    """
    style, script = (static_file(name) for name in ("report.css", "report.js"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    ours = {"style": Markup(style), "script": Markup(script), "hash": digest}
    return str(render(template, title=title, **ours, **values))


def static_file(name: str) -> str:
    """Returns the text of "report.css" or "report.js": the look of every page, and its theme."""
    folder = importlib.resources.files("cae_jax.reports.html") / "templates"
    return (folder / name).read_text(encoding="utf-8")


@functools.cache
def environment(package: str = "cae_jax.reports.html") -> jinja2.Environment:
    """Returns what renders the `templates` of a package: escaped, and nothing that is not there."""
    return jinja2.Environment(
        loader=jinja2.PackageLoader(package),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _datum(cell: Cell) -> str | list[str]:
    text, key = visible(cell.shown), visible(cell.key)
    if cell.interval or cell.kind not in ("", "name"):
        return ["", key, render("cell.html", cell=cell)]
    if cell.numeric and key:
        key = f"{float(key):.9g}"  # to sort by; all 17 digits of many cells are half of a page
    return text if text == key else [text, key]


def _inside(content: bytes, format: str, alt: str, width: int, height: int) -> Image:
    text = base64.b64encode(content).decode("ascii")
    return Image(Markup(f"data:image/{format};base64,{text}"), alt, width, height)


def _style(column: Sequence[Cell]) -> str:
    if column and all(cell.numeric for cell in column):
        return "number"
    return "long" if any(len(cell.key) > _LONG for cell in column) else ""
