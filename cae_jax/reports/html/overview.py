"""The page over all runs of a workdir: one row a run, and the way to its page."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

from cae_jax.reports import rules
from cae_jax.reports.html import markup
from cae_jax.reports.html.markup import Cell, Table, figure, percent, rate, words
from cae_jax.reports.run_files import Run, label

_COLUMNS = (
    *("category", "model", "loss", "seed", "image AUROC", "from chance", "warning"),
    *("pixel AUROC", "AU-PRO 0.3", "good images right", "defects found"),
)


def overview_page(runs: Sequence[Run]) -> str:
    """Returns the page over runs as one HTML document, to stand in the workdir that holds them.

    A run's page is linked as CATEGORY/MODEL/seed_N/report.html, the end of its folder's path.
    """
    named = (
        [run.metrics.get("category") for run in runs],
        [label(run.metrics) for run in runs],
        [run.metrics.get("loss") for run in runs],
    )
    choices = {i: sorted({str(each) for each in names if each}) for i, names in enumerate(named)}
    points = [rules.shown(run.metrics) for run in runs]
    return markup.document(
        "overview.html",
        "All runs",
        runs=Table("All runs", _COLUMNS, [_row(run) for run in runs], name="runs"),
        choices={column: names for column, names in choices.items() if len(names) > 1},
        flagged=sum(bool(run.metrics.get("flag")) for run in runs),
        synthetic=any(run.metrics.get("dataset") == "synthetic" for run in runs),
        rule="; ".join(dict.fromkeys(rules.name(point) for point in points if point)),
    )


def _row(run: Run) -> list[Cell]:
    m, point = run.metrics, rules.shown(run.metrics) or {}
    parts = (
        urllib.parse.quote(part, safe="", errors="surrogateescape")
        for part in run.folder.parts[-3:]
    )
    auroc = m.get("image_auroc")
    return [
        words(
            m.get("category") or run.folder.parts[-3],
            kind="link",
            href=f"./{'/'.join(parts)}/report.html",
        ),
        words(label(m)),
        words(m.get("loss")),
        figure(markup.amount(m.get("seed")), m.get("seed")),
        figure(rate(auroc), auroc, markup.interval(m.get("image_auroc_interval"))),
        markup.bar(auroc),
        words(m.get("flag")),
        *(figure(rate(m.get(key)), m.get(key)) for key in ("pixel_auroc", "au_pro_30")),
        *(
            figure(
                percent(point.get(key)),
                point.get(key),
                markup.interval(point.get(f"{key}_interval"), 100, 1),
            )
            for key in ("good_accuracy", "defect_accuracy")
        ),
    ]
