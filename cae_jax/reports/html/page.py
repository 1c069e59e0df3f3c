"""The page of one run: how good, by which threshold, against what, where, and made from what."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from cae_jax.evaluation import metrics
from cae_jax.reports import results
from cae_jax.reports.html import charts, gallery, markup, rules
from cae_jax.reports.html.markup import Cell, figure, percent, rate, real, text, words
from cae_jax.reports.run_files import Run
from cae_jax.types import GOOD

_METRICS = {  # of every distance and of every kind
    "n": "images",
    "image_auroc": "image AUROC",
    "image_ap": "image AP",
    "image_f1_max": "image F1-max",
    "pixel_auroc": "pixel AUROC",
    "pixel_ap": "pixel AP",
    "au_pro_30": "AU-PRO 0.3",
    "au_pro_5": "AU-PRO 0.05",
    "au_pro_1": "AU-PRO 0.01",
}
_CLEAR = 0.9  # an AUROC from which on, or 1 minus it down from which, a trivial score is a shortcut
SYNTHETIC = '<p class="banner">Synthetic data: made up from a seed, no benchmark.</p>'


def run_page(run: Run) -> str:
    """Returns the page of a run as one HTML document that needs nothing else; what the run's files
    do not tell is a dash or left out."""
    m = run.metrics
    sections = {
        "Summary": _summary(run),
        "Threshold rules": _thresholds(run),
        "Distances": _distances(m),
        "Shortcut audit": _audit(m),
        "Curves": _curves(run),
        "Examples": _examples(run),
        "Defect kinds and sizes": _kinds(m),
        "Every image": _images(run),
        "Provenance": _provenance(run),
    }
    sections = {title: body for title, body in sections.items() if body}
    names = {title: title.lower().replace(" ", "-") for title in sections}
    links = "".join(f'<a href="#{names[title]}">{title}</a>' for title in sections)
    title = f"{_word(m, 'category')} · {_word(m, 'model')}"
    about = " · ".join(
        f"{label} {text(m[key])}"
        for label, key in (("loss", "loss"), ("distance", "distance"), ("seed", "seed"))
        if m.get(key) is not None
    )
    warning = (
        f'<p class="banner" role="note"><strong>Warning.</strong> AUROC '
        f"{rate(m.get('image_auroc'))}: {text(m['flag'])}.</p>"
        if m.get("flag")
        else ""
    )
    body = "\n".join(
        f'<section id="{names[title]}"><h2>{title}</h2>\n{content}\n</section>'
        for title, content in sections.items()
    )
    return markup.document(
        title,
        f'<header><h1><bdi>{text(title)}</bdi></h1><p class="about">{about}</p></header>\n'
        f"{SYNTHETIC if m.get('dataset') == 'synthetic' else ''}{warning}\n"
        f'<nav aria-label="Sections">{links}</nav>\n<main>\n{body}\n</main>',
    )


def _word(m: Mapping[str, Any], key: str) -> str:
    value = m.get(key)
    return markup.DASH if value is None else str(value)


def _summary(run: Run) -> str:
    m = run.metrics
    point = rules.shown(m)
    tiles = [
        ("image AUROC", rate(m.get("image_auroc")) + _interval(m, "image_auroc"), "0.5 is chance"),
        ("pixel AUROC", rate(m.get("pixel_auroc")), "where the defect is"),
        ("AU-PRO", rate(m.get("au_pro_30")), "up to 30 % false positive pixels"),
    ]
    if point:
        name = rules.name(point)
        for key, label in (("good", "good images right"), ("defect", "defects found")):
            share = percent(point.get(f"{key}_accuracy"))
            tiles.append((label, share + _interval(point, f"{key}_accuracy", 100), name))
    shown = "".join(
        f"<div><dt>{label}</dt><dd>{value}<small>{text(note)}</small></dd></div>"
        for label, value, note in tiles
    )
    names = {
        "dataset": "data set", "n_train": "training images", "n_validation": "validation images",
        "n_good": "good test images", "n_defective": "defective test images", "epochs": "epochs",
        "num_patches": "training patches", "batch_size": "batch size",
        "learning_rate": "learning rate", "image_ap": "image AP", "image_f1_max": "image F1-max",
        "pixel_ap": "pixel AP", "au_pro_5": "AU-PRO 0.05", "au_pro_1": "AU-PRO 0.01",
        "region_overlap": "region overlap", "median_distance_good": "median distance, good",
        "median_distance_defective": "median distance, defective",
        "train_seconds": "training, s", "ms_per_image": "scoring, ms per image",
        "ms_per_patch": "scoring, ms per patch", "device": "device",
    }  # fmt: skip
    facts = "".join(
        f"<div><dt>{label}</dt><dd>{_fact(m[key])}</dd></div>"
        for key, label in names.items()
        if m.get(key) is not None
    )
    note = '<p class="note">Brackets: 95 % intervals.</p>' if "interval" in shown else ""
    return f'<dl class="tiles">{shown}</dl>{note}<dl class="facts">{facts}</dl>'


def _fact(value: Any) -> str:
    return text(value) if isinstance(value, str) else markup.amount(value)


def _interval(record: Mapping[str, Any], key: str, scale: float = 1) -> str:
    return markup.interval(record.get(f"{key}_interval"), scale, 1 if scale == 100 else 3)


def _thresholds(run: Run) -> str:
    points = rules.points(run.metrics)
    if not points:
        return ""
    rows = []
    for point in sorted(points, key=lambda point: bool(point.get("leaks"))):
        leaks = (
            '<span class="badge leaks">leaks</span>'
            if point.get("leaks")
            else '<span class="badge honest">leak-free</span>'
        )
        rows.append(
            [
                words(rules.name(point)),
                Cell(leaks, "leaks" if point.get("leaks") else "leak-free"),
                words(point.get("source")),
                figure(markup.amount(point.get("n")), point.get("n")),
                figure(markup.amount(rules.threshold(point)), rules.threshold(point)),
                *(
                    figure(percent(point.get(key)) + _interval(point, key, 100), point.get(key))
                    for key in ("good_accuracy", "defect_accuracy", "mean_accuracy")
                ),
            ]
        )
    columns = ["rule", "leak", "picked on", "images", "threshold", "good images right"]
    columns += ["defects found", "mean"]
    return (
        "<p>Every rule on the same saved scores: a distance up to the threshold is called good. A "
        "rule that leaks has seen the test images it is judged on; with good images alone to hand "
        "only the others can be had.</p>"
        f"{markup.table(columns, rows, 'What each threshold rule gives')}{_leak(run.metrics)}"
    )


def _leak(m: Mapping[str, Any]) -> str:
    """What the thesis's leak is worth, in words."""
    worth = rules.leak_points(m)
    if not worth:
        return ""
    parts = ", ".join(f"{value:+.1f} at {share} %" for share, value in worth.items())
    return (
        '<p class="finding"><strong>What the leak is worth:</strong> the balanced accuracy of the '
        "thesis's threshold, picked on the good test images, minus that of the same rule on "
        f"held-out validation images, in points: {parts}.</p>"
    )


def _distances(m: Mapping[str, Any]) -> str:
    found = _records(m.get("distances"))
    if not found:
        return ""
    rows = [
        [
            Cell(f"<strong>{text(name)}</strong> (verdict)", text(name))
            if name == m.get("distance")
            else words(name),
            *(figure(rate(values.get(key)), values.get(key)) for key in list(_METRICS)[1:]),
        ]
        for name, values in found.items()
    ]
    return "<p>One trained model, scored by every distance in the same pass.</p>" + markup.table(
        ["distance", *list(_METRICS.values())[1:]], rows, "Metrics of each distance"
    )


def _records(value: Any) -> dict[str, dict[str, Any]]:
    """The dicts in a dict of metrics.json, which may be anything."""
    if not isinstance(value, dict):
        return {}
    return {name: record for name, record in value.items() if isinstance(record, dict)}


def _audit(m: Mapping[str, Any]) -> str:
    trivial = m.get("trivial_auroc")
    if not isinstance(trivial, dict) or not trivial:
        return ""
    ours = real(m.get("image_auroc"))
    rows = [_audited("this model", ours, "")]
    for name, value in trivial.items():
        value, notes = real(value), []
        if value >= _CLEAR or value <= 1 - _CLEAR:
            notes.append("a shortcut" + (", upside down" if value < 0.5 else ""))
        if value >= ours:
            notes.append("not beaten by the model")
        rows.append(_audited(name.replace("_", " "), value, ", ".join(notes)))
    return (
        "<p>Scores that take no learning (how far an image's brightness or contrast lies from the "
        "training images') beside the model's. One near 1 ranks the defective images above the "
        "good ones by that alone, and one near 0 does so just as surely, upside down: in either "
        "case good and defective images differ by more than the defect (exposure, focus, pose), "
        "and the model's AUROC may tell of that and not of defects. 0.5 is chance.</p>"
        + markup.table(["score", "image AUROC", "from chance", "finding"], rows, "Shortcut audit")
    )


def _audited(name: str, value: float, note: str) -> list[Cell]:
    return [
        words(name),
        figure(rate(value), value),
        Cell(charts.bar(value), "" if math.isnan(value) else repr(abs(value - 0.5))),
        words(note),
    ]


def _curves(run: Run) -> str:
    frame, m = run.frame, run.metrics
    good, defective, validation = results.distances_of(frame)
    test = frame[frame["split"] == "test"]
    # compared one by one: pandas' own grouping refuses a name that is no UTF-8
    kinds = sorted(set(test["defect_kind"]) - {GOOD})
    label = f"distance {text(m['distance'])}" if m.get("distance") else "distance"
    marks = rules.marks(m)
    groups = [
        charts.Group("validation good", validation, "validation"),
        charts.Group("test good", good, "good"),
        charts.Group("defective", defective, "defective"),
    ]
    by_kind = [
        charts.Group(kind, test["distance"][test["defect_kind"] == kind].to_numpy(), "defective")
        for kind in kinds
    ]
    on_roc = rules.on_roc(m)
    of_groups = [(group.style, group.name) for group in groups if group.distances.size]
    of_marks = [
        (f"line {mark.style}", f"{mark.name}: {markup.amount(mark.value)}") for mark in marks
    ]
    curve = run.curves.get("pro")
    curve = curve if isinstance(curve, dict) else {}
    found = [
        (
            charts.roc(*_roc(test), on_roc),
            f"ROC, AUROC {rate(m.get('image_auroc'))}",
            _key((f"dot {style}", name) for name, _, _, style in on_roc),
        ),
        (
            charts.pro(curve.get("fpr") or [], curve.get("pro") or []),
            f"PRO, area up to 0.3: {rate(m.get('au_pro_30'))}",
            "",
        ),
        (charts.histogram(groups, marks, label), "Distances", _key(of_groups + of_marks)),
        (
            charts.whiskers([*groups[:2], *by_kind], marks, label),
            "Distances per kind",
            _key(of_marks),
        ),
        (_training(run.history, m), "Training", '<i class="validation"></i>dashed: validation'),
    ]
    figures = "".join(
        f"<figure>{svg}<figcaption><strong>{caption}</strong> {key}</figcaption></figure>"
        for svg, caption, key in found
        if svg
    )
    return f'<div class="charts">{figures}</div>' if figures else ""


def _roc(test: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    if test.empty:
        return np.empty(0), np.empty(0)
    return metrics.roc_curve(test["label"], test["distance"])


def _key(named: Iterable[tuple[str, str]]) -> str:
    """What the colors, lines and dots mean: (CSS class, plain text) each."""
    return " ".join(
        f'<span class="key"><i class="{style}"></i>{text(name)}</span>' for style, name in named
    )


def _training(history: pd.DataFrame | None, m: Mapping[str, Any]) -> str:
    if history is None or "epoch" not in history:
        return ""
    columns = {name: history[name].to_numpy() for name in history}
    return charts.training(columns, f"loss ({m['loss']})" if m.get("loss") else "loss")


def _examples(run: Run) -> str:
    if run.examples is None or not len(run.examples.row):
        return ""
    return gallery.gallery(run.frame, run.examples, rules.verdicts(run.frame, run.metrics))


def _kinds(m: Mapping[str, Any]) -> str:
    kinds, sizes = _records(m.get("kinds")), m.get("sizes")
    body = ""
    keys = [key for key in _METRICS if any(key in record for record in kinds.values())]
    if keys:
        rows = [
            [
                words(kind),
                *(
                    figure((markup.amount if k == "n" else rate)(record.get(k)), record.get(k))
                    for k in keys
                ),
            ]
            for kind, record in kinds.items()
        ]
        body += "<p>Each kind against all good test images.</p>" + markup.table(
            ["kind", *(_METRICS[key] for key in keys)], rows, "Metrics of each defect kind"
        )
    sizes = [s for s in sizes if isinstance(s, dict) and s] if isinstance(sizes, list) else []
    if sizes:
        columns = list(dict.fromkeys(key for size in sizes for key in size))
        rows = [[_sized(key, size.get(key)) for key in columns] for size in sizes]
        body += (
            "<p>Defective regions by size, from and to as shares of the image's area: how many "
            "there are, how many the predicted mask hits, and what share of them it covers.</p>"
            + markup.table(columns, rows, "Segmentation by defect size")
        )
    return body


def _sized(key: str, value: Any) -> Cell:
    if isinstance(value, str):
        return words(value)
    shown = percent(value) if key in ("from", "to", "overlap") else markup.amount(value)
    return figure(shown, value)


def _images(run: Run) -> str:
    frame = run.frame.assign(verdict=rules.verdicts(run.frame, run.metrics))
    thumbnails = gallery.thumbnails(run.examples)
    extra = [name for name in run.frame if name not in results.SCORE_COLUMNS]
    rows = [
        [
            Cell(thumbnails.get(i, "")),
            Cell(f"<bdi>{text(row['path'])}</bdi>", text(row["path"])),
            words(row["defect_kind"]),
            words(row["split"]),
            words(row["verdict"]),
            *(figure(markup.amount(float(row[k])), float(row[k])) for k in ("distance", *extra)),
        ]
        for i, row in frame.sort_values("distance", ascending=False, kind="stable").iterrows()
    ]
    choices = [("kind", "defect_kind", 2), ("split", "split", 3), ("verdict", "verdict", 4)]
    selects = [
        markup.select(label, sorted(set(frame[name]) - {""}), column)
        for label, name, column in choices
    ]
    columns = ["", "image", "kind", "split", "verdict", "distance", *extra]
    table = markup.table(columns, rows, "Every image", name="images", descending="distance")
    point = rules.shown(run.metrics)
    note = f'<p class="note">Verdict by {text(rules.name(point))}.</p>' if point else ""
    return markup.filters("images", selects, len(rows), "images") + table + note


def _provenance(run: Run) -> str:
    m, parts = run.metrics, []
    facts = {
        "data fingerprint": m.get("data_fingerprint") or run.versions.get("data_fingerprint"),
        "seed": m.get("seed", run.versions.get("seed")),
        "folder": "/".join(run.folder.parts[-3:]),
    } | {k: v for k, v in run.versions.items() if k not in ("seed", "data_fingerprint")}
    rows = "".join(
        f"<div><dt>{text(key)}</dt><dd>{markup.DASH if value is None else text(value)}</dd></div>"
        for key, value in facts.items()
    )
    parts.append(f'<dl class="facts wide">{rows}</dl>')
    if run.flags:
        lines = "\n".join(text(line) for line in run.flags)
        parts.append(f'<h3>Flags</h3><pre tabindex="0">{lines}</pre>')
    if run.left_out is not None and len(run.left_out):
        rows = [[words(value) for value in row] for row in run.left_out.itertuples(index=False)]
        table = markup.table(list(run.left_out), rows, "Files left out")
        parts.append(f"<h3>Files left out: {len(rows)}</h3>{table}")
    if run.absent:
        parts.append(f'<p class="note">Not in this run: {text(", ".join(run.absent))}.</p>')
    return "\n".join(parts)
