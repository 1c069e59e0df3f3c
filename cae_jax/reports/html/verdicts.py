"""The page over a folder of scored images: what is called defective, and why, worst first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from cae_jax.reports.html import markup
from cae_jax.reports.html.markup import Cell, Image, Table, amount, figure, words
from cae_jax.types import LeftOut

ROWS = 20_000  # of a page, 2 MB of them
_WORDS = {True: "defective", False: "good"}


class Scored(NamedTuple):
    """A row of scores.csv."""

    path: str
    distance: float
    p_value: float  # NaN where no good image was left unseen
    defective: bool


class Drawn(NamedTuple):
    """An image with pictures."""

    scored: Scored
    pictures: dict[str, Image]  # by what they show


class Verdicts(NamedTuple):
    """What the page tells."""

    title: str  # of the run that judged
    images: str  # the folder
    scored: Sequence[Scored]  # the largest distance first
    drawn: Sequence[Drawn]  # the first of them
    left_out: Sequence[LeftOut]
    threshold: float
    rule: str  # where the threshold comes from, in words
    expected: str  # what to expect of false alarms, in words
    few: str  # what too few good images come to; "" where they are enough
    outlined: bool  # whether pictures have outlines


def verdicts_page(of: Verdicts) -> str:
    """Returns the page as one HTML document that needs nothing else: the first ROWS images and
    files left out, and how many more there are."""
    n, bad = len(of.scored), sum(each.defective for each in of.scored)
    shown = {each.scored.path: f"#image-{i}" for i, each in enumerate(of.drawn, 1)}
    rows = [
        [
            words(each.path, "link", shown[each.path])
            if each.path in shown
            else Cell(each.path, each.path, kind="name"),
            words(_WORDS[each.defective]),
            figure(amount(each.distance), each.distance),
            figure(amount(each.p_value), each.p_value),
        ]
        for each in of.scored[:ROWS]
    ]
    columns = ["image", "verdict", "distance", "p-value"]
    left_out = [[Cell(e.path, e.path, kind="name"), words(e.cause)] for e in of.left_out[:ROWS]]
    return markup.document(
        "verdicts.html",
        f"{n} images, {bad} defective",
        about=f"{of.images}, judged by {of.title}",
        few=of.few,
        tiles=[
            ("defective", amount(bad), f"distance above {amount(of.threshold)}"),
            ("good", amount(n - bad), f"up to {amount(of.threshold)}"),
            ("left out", amount(len(of.left_out)), "files that cannot be used"),
        ],
        pairs=[("threshold", of.rule), ("false alarms", of.expected)],
        cards=[_card(each) for each in of.drawn],
        outlined=of.outlined,
        images=Table("Every image", columns, rows, name="images", descending="distance"),
        choices={1: ["defective", "good"]},
        more=amount(n - ROWS) if n > ROWS else "",
        left_out=Table("Files left out", ["file", "cause"], left_out),
        n_left_out=amount(len(of.left_out)),
    )


def _card(of: Drawn) -> dict[str, object]:
    each = of.scored
    return {
        "path": each.path,
        "verdict": _WORDS[each.defective],
        "numbers": f"distance {amount(each.distance)}, p-value {amount(each.p_value)}",
        "pictures": of.pictures,
    }
