"""The page of one run: how good, by which threshold, against what, where, and made from what."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from cae_jax.evaluation import metrics, scores, thresholds, trivial_scores, verdict
from cae_jax.evaluation.scores import SCORE_COLUMNS
from cae_jax.evaluation.trivial_scores import CLEAR
from cae_jax.reports import charts, rules
from cae_jax.reports.html import gallery, glance, markup, svg
from cae_jax.reports.html.markup import (
    DASH,
    Cell,
    Table,
    amount,
    figure,
    percent,
    rate,
    words,
)
from cae_jax.reports.run_files import Run, label, real

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
    "au_spro_30": "AU-sPRO 0.3",
    "au_spro_5": "AU-sPRO 0.05",
    "au_spro_1": "AU-sPRO 0.01",
}
_FACTS = {
    "dataset": "data set", "n_train": "training images", "n_validation": "validation images",
    "n_out_of_fold": "scored out of fold",
    "n_good": "good test images", "n_defective": "defective test images", "epochs": "epochs",
    "num_patches": "training patches", "batch_size": "batch size",
    "learning_rate": "learning rate", "image_ap": "image AP", "image_f1_max": "image F1-max",
    "pixel_ap": "pixel AP", "au_pro_5": "AU-PRO 0.05", "au_pro_1": "AU-PRO 0.01",
    "au_spro_30": "AU-sPRO 0.3", "au_spro_5": "AU-sPRO 0.05", "au_spro_1": "AU-sPRO 0.01",
    "region_overlap": "region overlap", "median_distance_good": "median distance, good",
    "median_distance_defective": "median distance, defective",
    "train_seconds": "training, s", "ms_per_image": "scoring, ms per image",
    "ms_per_patch": "scoring, ms per patch", "device": "device",
}  # fmt: skip


def run_page(run: Run) -> str:
    """Returns the page of a run as one HTML document that needs nothing else; what the run's files
    do not tell is a dash or left out."""
    m = run.metrics
    category = DASH if m.get("category") is None else m["category"]
    return markup.document(
        "page.html",
        f"{category} · {label(m) or DASH}",
        about=[(key, m[key]) for key in ("loss", "distance", "seed") if m.get(key) is not None],
        synthetic=m.get("dataset") == "synthetic",
        flag=m.get("flag"),
        collapse=m.get("collapse"),
        few=m.get("few") or thresholds.few(int((run.frame["split"] != scores.TEST).sum())),
        auroc=rate(m.get("image_auroc")),
        sections={
            "At a glance": glance.glance(run),
            "Summary": _summary(m),
            "Threshold rules": _thresholds(m),
            "Distances": _distances(m),
            "Shortcut audit": _audit(m),
            "Curves": _curves(run),
            "Examples": _examples(run),
            "Defect kinds and sizes": _kinds(m),
            "Categories": _categories(m),
            "Every image": _images(run),
            "Provenance": _provenance(run),
        },
    )


def _summary(m: Mapping[str, Any]) -> dict[str, Any]:
    """Tiles of label, number, interval and note; facts of label and value."""
    tiles = [
        ("image AUROC", rate(m.get("image_auroc")), _interval(m, "image_auroc"), "0.5 is chance"),
        ("pixel AUROC", rate(m.get("pixel_auroc")), "", "where the defect is"),
        ("AU-PRO", rate(m.get("au_pro_30")), "", "up to 30 % false positive pixels"),
    ]
    point = rules.shown(m)
    if 0 in (m.get("n_good"), m.get("n_defective")):  # nothing to compare: no tile of a dash
        tiles = []
    if point and m.get("n_good") == m.get("n_defective") == 0:
        value = amount(verdict.value(point))
        tiles = [("threshold", value, "", f"{rules.name(point)}, {amount(point.get('n'))} images")]
    elif point:
        for key, label in (("good", "good images right"), ("defect", "defects found")):
            name = f"{key}_accuracy"
            share, interval = percent(point.get(name)), _interval(point, name, 100)
            if share != DASH:
                tiles.append((label, share, interval, rules.name(point)))
    facts = [
        (label, m[key] if isinstance(m[key], str) else amount(m[key]))
        for key, label in _FACTS.items()
        if m.get(key) is not None
    ]
    return {"tiles": tiles, "facts": facts}


def _interval(record: Mapping[str, Any], key: str, scale: float = 1) -> str:
    return markup.interval(record.get(f"{key}_interval"), scale, 1 if scale == 100 else 3)


def _thresholds(m: Mapping[str, Any]) -> dict[str, Any] | None:
    points = rules.points(m)
    if not points:
        return None
    judged = {
        "good_accuracy": "good images right",
        "defect_accuracy": "defects found",
        "mean_accuracy": "mean",
    }
    if m.get("n_good") == m.get("n_defective") == 0:
        judged = {}
    rows = [
        [
            words(rules.name(point)),
            words("leaks", kind="leaks")
            if point.get("leaks")
            else words("leak-free", kind="honest"),
            words(point.get("source")),
            figure(amount(point.get("n")), point.get("n")),
            figure(amount(verdict.value(point)), verdict.value(point)),
            *(
                figure(percent(point.get(key)), point.get(key), _interval(point, key, 100))
                for key in judged
            ),
        ]
        for point in sorted(points, key=lambda point: bool(point.get("leaks")))
    ]
    columns = ["rule", "leak", "picked on", "images", "threshold", *judged.values()]
    worth = rules.leak_points(m)
    return {
        "table": Table("What each threshold rule gives", columns, rows),
        "leak": ", ".join(f"{value:+.1f} at {share} %" for share, value in worth.items()),
    }


def _distances(m: Mapping[str, Any]) -> Table | None:
    of = _records(m.get("distances"))
    keys = [key for key in list(_METRICS)[1:] if any(rate(v.get(key)) != DASH for v in of.values())]
    if not keys:
        return None
    rows = [
        [
            words(name, kind="verdict" if name == m.get("distance") else ""),
            *(figure(rate(values.get(key)), values.get(key)) for key in keys),
        ]
        for name, values in of.items()
    ]
    columns = ["distance", *(_METRICS[key] for key in keys)]
    return Table("Metrics of each distance", columns, rows) if rows else None


def _records(value: Any) -> dict[str, dict[str, Any]]:
    """The dicts in a dict of metrics.json, which may be anything."""
    if not isinstance(value, dict):
        return {}
    return {name: record for name, record in value.items() if isinstance(record, dict)}


def _audit(m: Mapping[str, Any]) -> Table | None:
    trivial = m.get("trivial_auroc")
    if not isinstance(trivial, dict) or not trivial:
        return None
    ours = real(m.get("image_auroc"))
    share = real(m.get("n_recurring")) / max(1, real(m.get("n_good")) + real(m.get("n_defective")))
    found = [("this model", ours, "")]
    for name, value in trivial.items():
        value, notes = real(value), []
        leak = trivial_scores.recurrence(value, share) if name == "nearest_thumbnail" else ""
        if leak:
            notes.append(leak)
        elif value >= CLEAR or value <= 1 - CLEAR:
            notes.append("a shortcut" + (", upside down" if value < 0.5 else ""))
        if value >= ours:
            notes.append("not beaten by the model")
        if name == "brightness" and m.get("light"):
            notes.append(str(m["light"]))
        found.append((name.replace("_", " "), value, ", ".join(notes)))
    for intensity, of in _records(m.get("light_auroc")).items():
        if intensity != m.get("intensity"):
            how = "images as they are" if intensity == "none" else f"divided by their {intensity}"
            found += [(f"{name}, {how}", real(value), "") for name, value in of.items()]
    rows = [
        [words(name), figure(rate(value), value), markup.bar(value), words(note)]
        for name, value, note in found
    ]
    return Table("Shortcut audit", ["score", "image AUROC", "from chance", "finding"], rows)


def _curves(run: Run) -> list[tuple[Markup, str, list[tuple[str, str]]]]:
    """The charts: each with its name and what its colors, lines and dots mean."""
    m, on_roc = run.metrics, rules.on_roc(run.metrics)
    test = run.frame[run.frame["split"] == "test"]
    curve = run.curves.get("pro")
    curve = curve if isinstance(curve, dict) else {}
    found = [
        (
            svg.roc(*_roc(test), on_roc),
            f"ROC, AUROC {rate(m.get('image_auroc'))}",
            [(f"dot {style}", name) for name, _, _, style in on_roc],
        ),
        (
            svg.pro(curve.get("fpr") or [], curve.get("pro") or []),
            f"PRO, area up to 0.3: {rate(m.get('au_pro_30'))}",
            [],
        ),
    ]
    drawn = charts.of_run(run.frame, m, run.history)
    if drawn.histogram:
        groups = [(group.style, group.name) for group in drawn.histogram.groups]
        key = groups + _key(drawn.histogram.marks)
        found.append((svg.histogram(drawn.histogram), "Distances", key))
    if drawn.whiskers:
        key = _key(drawn.whiskers.marks)
        found.append((svg.whiskers(drawn.whiskers), "Distances per kind", key))
    if drawn.training:
        curves, key = drawn.training.curves, []
        if any(curve.hue for curve in curves):  # more than one loss
            key = [(f"hue{curve.hue}", curve.name) for curve in curves if not curve.dashed]
        key.append(("validation", "dashed: validation"))
        found.append((svg.training(drawn.training), "Training", key))
    return [each for each in found if each[0]]


def _key(marks: Iterable[rules.Mark]) -> list[tuple[str, str]]:
    return [(f"line {mark.style}", f"{mark.name}: {amount(mark.value)}") for mark in marks]


def _roc(test: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    if test.empty:
        return np.empty(0), np.empty(0)
    return metrics.roc_curve(test["label"], test["distance"])


def _examples(run: Run) -> Markup | None:
    if run.examples is None or not len(run.examples.row):
        return None
    return gallery.gallery(run.frame, run.examples, rules.verdicts(run.frame, run.metrics))


def _kinds(m: Mapping[str, Any]) -> dict[str, Table | None]:
    found = {}
    kinds, sizes = _records(m.get("kinds")), m.get("sizes")
    keys = [key for key in _METRICS if any(key in record for record in kinds.values())]
    if keys:
        rows = [
            [
                words(kind),
                *(figure((amount if k == "n" else rate)(of.get(k)), of.get(k)) for k in keys),
            ]
            for kind, of in kinds.items()
        ]
        columns = ["kind", *(_METRICS[key] for key in keys)]
        found["kinds"] = Table("Metrics of each defect kind", columns, rows)
    sizes = [s for s in sizes if isinstance(s, dict) and s] if isinstance(sizes, list) else []
    sizes = sizes if any(real(s.get("n")) > 0 for s in sizes) else []
    if sizes:
        columns = list(dict.fromkeys(key for size in sizes for key in size))
        rows = [[_sized(key, size.get(key)) for key in columns] for size in sizes]
        found["sizes"] = Table("Segmentation by defect size", columns, rows)
    return {"kinds": found.get("kinds"), "sizes": found.get("sizes")} if found else {}


def _categories(m: Mapping[str, Any]) -> dict[str, Any] | None:
    """Of a joint model: each category by itself, at the threshold of all."""
    of_all = rules.shown(m)
    categories = _records(m.get("categories"))
    there = {key for of in categories.values() for key in of} - {"n"}
    keys = [key for key in _METRICS if key in there]
    rows = []
    for category, of in categories.items():
        point = next((p for p in rules.points(of) if _same_rule(p, of_all)), {})
        counts = ("n_train", "n_good", "n_defective")
        rows.append(
            [
                words(category),
                *(figure(amount(of.get(key)), of.get(key)) for key in counts),
                *(figure(rate(of.get(key)), of.get(key)) for key in keys),
                *(figure(amount(point.get(k)), point.get(k)) for k in ("false_alarms", "misses")),
            ]
        )
    if not rows:
        return None
    columns = ["category", *(_FACTS[key] for key in ("n_train", "n_good", "n_defective"))]
    columns += [*(_METRICS[key] for key in keys), "false alarms", "misses"]
    rule = rules.name(of_all) if of_all else ""
    return {"table": Table("Each category by itself", columns, rows), "rule": rule}


def _same_rule(point: Mapping[str, Any], other: Mapping[str, Any] | None) -> bool:
    keys = ("rule", "source", "percent")
    return other is not None and all(point.get(key) == other.get(key) for key in keys)


def _sized(key: str, value: Any) -> Cell:
    if isinstance(value, str):
        return words(value)
    return figure(percent(value) if key in ("from", "to", "overlap") else amount(value), value)


def _images(run: Run) -> dict[str, Any]:
    frame = run.frame.assign(verdict=rules.verdicts(run.frame, run.metrics))
    thumbnails = gallery.thumbnails(run.examples)
    extra = [name for name in run.frame if name not in SCORE_COLUMNS]
    rows = [
        [
            thumbnails.get(i, Cell("")),
            Cell(row["path"], row["path"], kind="name"),
            *(words(row[name]) for name in ("defect_kind", "split", "verdict")),
            *(figure(amount(float(row[k])), float(row[k])) for k in ("distance", *extra)),
        ]
        for i, row in frame.sort_values("distance", ascending=False, kind="stable").iterrows()
    ]
    columns = ["", "image", "kind", "split", "verdict", "distance", *extra]
    names = {2: "defect_kind", 3: "split", 4: "verdict"}  # the columns to filter by
    point = rules.shown(run.metrics)
    return {
        "table": Table("Every image", columns, rows, name="images", descending="distance"),
        "choices": {i: sorted(set(frame[name]) - {""}) for i, name in names.items()},
        "rule": rules.name(point) if point else "",
    }


def _provenance(run: Run) -> dict[str, Any]:
    m, left_out = run.metrics, None
    facts = {
        "data fingerprint": m.get("data_fingerprint") or run.versions.get("data_fingerprint"),
        "seed": m.get("seed", run.versions.get("seed")),
        "folder": "/".join(run.folder.parts[-3:]),
    } | {k: v for k, v in run.versions.items() if k not in ("seed", "data_fingerprint")}
    if run.left_out is not None and len(run.left_out):
        rows = [[words(value) for value in row] for row in run.left_out.itertuples(index=False)]
        left_out = Table("Files left out", list(run.left_out), rows)
    return {
        **{"facts": list(facts.items()), "flags": run.flags},
        **{"left_out": left_out, "absent": run.absent},
    }
