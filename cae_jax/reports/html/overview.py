"""The page over all runs of a workdir: one row a run, and the way to its page."""

from __future__ import annotations

import urllib.parse
from collections.abc import Sequence

from cae_jax.reports.html import charts, markup, page, rules
from cae_jax.reports.html.markup import Cell, figure, percent, rate, real, text, words
from cae_jax.reports.run_files import Run

_COLUMNS = (
    *("category", "model", "loss", "seed", "image AUROC", "from chance", "warning"),
    *("pixel AUROC", "AU-PRO 0.3", "good images right", "defects found"),
)


def overview_page(runs: Sequence[Run]) -> str:
    """Returns the page over runs as one HTML document, to stand in the workdir that holds them.

    A run's page is linked as CATEGORY/MODEL/seed_N/report.html, the end of its folder's path.
    """
    rows = [_row(run) for run in runs]
    names = {name: [] for name in ("category", "model", "loss")}
    for name, values in names.items():
        values += sorted({str(run.metrics[name]) for run in runs if run.metrics.get(name)})
    choices = [
        markup.select(name, values, _COLUMNS.index(name))
        for name, values in names.items()
        if len(values) > 1
    ]
    flagged = sum(bool(run.metrics.get("flag")) for run in runs)
    warning = (
        f'<p class="banner" role="note"><strong>Warning.</strong> {flagged} of {len(runs)} runs '
        "carry a warning about their AUROC.</p>"
        if flagged
        else ""
    )
    synthetic = any(run.metrics.get("dataset") == "synthetic" for run in runs)
    points = [rules.shown(run.metrics) for run in runs]
    used = "; ".join(dict.fromkeys(rules.name(point) for point in points if point))
    return markup.document(
        "All runs",
        f'<header><h1>All runs</h1><p class="about">{len(runs)} finished</p></header>\n'
        f"{page.SYNTHETIC if synthetic else ''}{warning}\n"
        "<main><section>\n"
        f"{markup.filters('runs', choices, len(rows), 'runs')}"
        f"{markup.table(_COLUMNS, rows, 'All runs', name='runs')}\n"
        f'<p class="note">Good images right and defects found: {text(used or "no threshold")}. '
        "Brackets: 95 % intervals.</p></section></main>",
    )


def _row(run: Run) -> list[Cell]:
    m, point = run.metrics, rules.shown(run.metrics) or {}
    parts = (
        urllib.parse.quote(part, safe="", errors="surrogateescape")
        for part in run.folder.parts[-3:]
    )
    auroc = real(m.get("image_auroc"))
    name = m.get("category") or run.folder.parts[-3]
    return [
        Cell(f'<a href="./{"/".join(parts)}/report.html"><bdi>{text(name)}</bdi></a>', text(name)),
        words(m.get("model")),
        words(m.get("loss")),
        figure(markup.amount(m.get("seed")), m.get("seed")),
        figure(rate(auroc) + markup.interval(m.get("image_auroc_interval")), auroc),
        Cell(charts.bar(auroc), "" if auroc != auroc else repr(abs(auroc - 0.5))),
        words(m.get("flag")),
        *(figure(rate(m.get(key)), m.get(key)) for key in ("pixel_auroc", "au_pro_30")),
        *(
            figure(
                percent(point.get(key)) + markup.interval(point.get(f"{key}_interval"), 100, 1),
                point.get(key),
            )
            for key in ("good_accuracy", "defect_accuracy")
        ),
    ]
