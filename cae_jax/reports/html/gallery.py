"""What the model sees: images, reconstructions, residuals on one color scale, masks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from markupsafe import Markup

from cae_jax.reports import charts
from cae_jax.reports.examples import worst
from cae_jax.reports.html import markup
from cae_jax.reports.html.markup import Cell
from cae_jax.reports.run_files import Examples
from cae_jax.types import GOOD

_THUMBNAIL = 48  # pixels of its longer side, about


def gallery(frame: pd.DataFrame, examples: Examples, verdicts: list[str]) -> Markup:
    """Returns the examples as HTML: worst misses, worst false alarms, then kind by kind.

    Every example stands once; a kind refers to those that stand above it.

    Args:
      frame: of scores.csv.
      examples: pictures of some of its rows.
      verdicts: of every row, plain text.
    """
    index = {int(row): i for i, row in enumerate(examples.row)}
    cards = {
        row: _card(frame.iloc[row], row, examples, i, verdicts[row]) for row, i in index.items()
    }
    test = np.flatnonzero(frame["split"] == "test")
    of_test = frame.iloc[test]
    misses, alarms = (
        [int(row) for row in test[part] if int(row) in index]
        for part in worst(of_test["label"], of_test["distance"])
    )
    kind_of, path_of, distance_of = (
        dict(zip(index, frame[name].iloc[list(index)], strict=True))
        for name in ("defect_kind", "path", "distance")
    )
    kinds = sorted(set(kind_of.values()), key=lambda kind: (kind != GOOD, kind))
    sections = []
    for word, rows, order in (
        ("misses", misses, "defective, lowest distance first"),
        ("false alarms", alarms, "good, highest distance first"),
    ):
        all_right = all(verdicts[row] == "right" for row in rows)
        which = f"No {word}, the closest" if all_right else f"Worst {word}"
        sections.append({"title": f"{which}: {order}", "kind": "", "above": [], "rows": rows})
    above = {*misses, *alarms}
    for kind in kinds:
        of_kind = [row for row in index if kind_of[row] == kind]
        section = {"title": "Good images" if kind == GOOD else f"Kind: {kind}", "kind": kind}
        section["above"] = [(row, path_of[row]) for row in of_kind if row in above]
        section["rows"] = sorted(set(of_kind) - above, key=distance_of.__getitem__)
        sections.append(section)
    cut, scale = examples.segmentation_threshold, markup.amount(examples.scale)
    return markup.render(
        "gallery.html",
        legend=markup.image(charts.RAMP[None], f"color scale from 0 to {scale}"),
        scale=scale,
        cut="" if math.isnan(cut) else markup.amount(cut),
        kinds=kinds,
        cards=cards,
        sections=[section for section in sections if section["rows"] or section["above"]],
    )


def thumbnails(examples: Examples | None) -> dict[int, Cell]:
    """Returns a cell with a small picture of each example by its row of scores.csv."""
    if examples is None:
        return {}
    found = {}
    for row, image in zip(examples.row.tolist(), examples.image, strict=True):
        step = max(1, round(max(image.shape[:2]) / _THUMBNAIL))
        height, width = (max(1, side // step) for side in image.shape[:2])
        cut = image[: height * step, : width * step].astype(np.float64)
        blocks = cut.reshape(height, cut.shape[0] // height, width, cut.shape[1] // width, -1)
        small = blocks.mean((1, 3)).round().astype(np.uint8)
        picture = markup.image(small, "thumbnail: go to the example")
        found[row] = Cell(picture, kind="thumbnail", href=f"#example-{row}")
    return found


def _card(
    row: pd.Series, number: int, examples: Examples, i: int, verdict: str
) -> dict[str, object]:
    """What the template shows of one example: text, and a picture or why there is none."""
    path, kind = row["path"], row["defect_kind"]
    residual = charts.heat(examples.residual[i], examples.scale)
    made = {}
    if examples.reconstruction is not None:
        picture = markup.image(examples.reconstruction[i], f"reconstruction of {path}")
        made["reconstruction"] = picture
    pictures: dict[str, markup.Image | str] = {
        "image": markup.image(examples.image[i], f"image {path}"),
        **made,
        "residual": markup.image(residual, f"residual map of {path}"),
        "ground truth": markup.image(examples.mask[i], f"ground truth mask of {path}"),
        "predicted": markup.image(examples.predicted[i], f"predicted mask of {path}"),
    }
    if kind == GOOD or not examples.has_mask[i]:
        pictures["ground truth"] = "no defect" if kind == GOOD else "no mask file"
    if math.isnan(examples.segmentation_threshold):
        pictures["predicted"] = "no threshold"
    distance = markup.amount(float(row["distance"]))
    return {
        **{"row": number, "path": path, "kind": kind, "distance": distance},
        **{"verdict": verdict, "pictures": pictures},
    }
