"""The templates' doors: everything is escaped, seen, and there."""

import pathlib
import re

import jinja2
import pytest
from html_pages import Document
from markupsafe import Markup

from cae_jax.reports.html import markup
from cae_jax.reports.html.markup import Cell, Table

TEMPLATES = pathlib.Path(markup.__file__).parent / "templates"


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ("plain 日本 é", "plain 日本 é"),
        ("a\tb\nc\x00", r"a\tb\nc\x00"),
        ("\u202eevil", r"\u202eevil"),
        ("\u2028", r"\u2028"),
        ("no utf8 \udcff", r"no utf8 \udcff"),
        (12, "12"),
        (None, "\N{EN DASH}"),
        ("<b>", "<b>"),  # escaped by the template, not here
    ],
)
def test_what_does_not_print_is_seen(value, seen):
    assert markup.visible(value) == seen


def test_our_own_html_stays():
    assert markup.visible(Markup("<b>\n</b>")) == "<b>\n</b>"


@pytest.mark.parametrize("kind", ["", "name", "link", "verdict", "leaks"])
def test_every_kind_of_cell_is_escaped(kind):
    hostile = "\"'><script>x</script>\u202e"
    cell = Cell(hostile, hostile, interval=hostile, kind=kind, href=hostile)
    table = Table(hostile, [hostile, "b"], [[cell, Cell("")]], name="t", descending="b")
    template = markup.environment().from_string(
        '{% from "macros.html" import table, filters, facts %}'
        "{{ table(of) }}{{ filters(of, {0: [hostile]}, hostile) }}{{ facts([(hostile, hostile)]) }}"
    )
    page = template.render(of=table, hostile=hostile)
    document = Document(page)
    assert not document.all("script")
    assert "\u202e" not in page
    assert document.text.count(r"><script>x</script>\u202e") >= 6
    assert document.all("td")[0]["data-key"] == hostile.replace("\u202e", r"\u202e")


def test_what_a_template_lacks_is_an_error():
    with pytest.raises(jinja2.UndefinedError, match="legend"):
        markup.render("gallery.html", kinds=[])


def test_no_template_calls_anything_safe():
    for path in TEMPLATES.iterdir():
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\|\s*(safe|e|escape|tojson|join)\b", text), path.name
        assert "autoescape" not in text, path.name


def test_a_column_is_styled_by_its_cells():
    rows = [
        [markup.figure("1", 1), markup.words("x" * 21), markup.words("y"), markup.figure("", None)],
        [markup.figure("2", 2), markup.words("x"), markup.figure("3", 3), markup.figure("4", 4)],
    ]
    assert Table("", ["a", "b", "c", "d"], rows).styles == ["number", "long", "", "number"]
    assert Table("", ["a"], []).styles == [""]


@pytest.mark.parametrize(
    ("auroc", "left", "width"),
    [(0.75, "50.0", "25.0"), (0.2, "20.0", "30.0"), (0.5, "50.0", "0.5")],
)
def test_a_bar_reaches_from_chance_to_the_auroc(auroc, left, width):
    cell = markup.bar(auroc)
    assert float(cell.key) == abs(auroc - 0.5)
    template = markup.environment().from_string(
        '{% from "macros.html" import shown %}{{ shown(cell) }}'
    )
    bar = Document(template.render(cell=cell)).all("rect")[1]
    assert (bar["x"], bar["width"]) == (left, width)
    assert markup.bar(None) == Cell("")


def test_intervals():
    assert markup.interval([0.25, 0.75]) == "[0.250, 0.750]"
    assert markup.interval([0.25, 0.75], 100, 1) == "[25.0, 75.0]"
    assert markup.interval([None, 1]) == markup.interval("ab") == markup.interval(None) == ""
