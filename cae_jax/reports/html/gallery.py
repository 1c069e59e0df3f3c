"""What the model sees: images, reconstructions, residuals on one color scale, masks."""

from __future__ import annotations

import math
from typing import Any

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
_LARGE, _AROUND = 1024, 256  # pixels of the longer side: of what is large, and is shown of it
_LOSSLESS = 5_000_000  # values of all images up to which they are PNG, about a byte a value
_PIXELS = 8_000_000  # of all images; as JPEG, with their maps, about a byte a pixel


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
    step, lossy = _shrunk(examples)
    return markup.render(
        "gallery.html",
        legend=markup.image(charts.RAMP[None], f"color scale from 0 to {scale}"),
        scale=scale,
        cut="" if math.isnan(cut) else markup.amount(cut),
        shrunk=step if lossy else 0,
        kinds=kinds,
        cards=cards,
        sections=[section for section in sections if section["rows"] or section["above"]],
    )


def thumbnails(examples: Examples | None) -> dict[int, Cell]:
    """Returns a cell with a small picture of each example by its row of scores.csv."""
    if examples is None:
        return {}
    found, lossy = {}, _shrunk(examples)[1]
    for row, image in zip(examples.row.tolist(), examples.image, strict=True):
        small = _means(image, max(1, round(max(image.shape[:2]) / _THUMBNAIL)))
        picture = markup.image(small, "thumbnail: go to the example", lossy)
        found[row] = Cell(picture, kind="thumbnail", href=f"#example-{row}")
    return found


def pictures(examples: Examples, i: int, path: str) -> dict[str, markup.Image]:
    """Returns what there is to see of example i, an image of that path, by what it is called.

    Few and small examples are shown as they are. Many or large ones would make a page of tens of
    megabytes: their images are JPEG, and blocks of pixels are one, an image's mean, the largest
    residual, and a mask's where any pixel is in it.
    """
    step, lossy = _shrunk(examples)
    shown = {"image": markup.image(_means(examples.image[i], step), f"image {path}", lossy)}
    if examples.reconstruction is not None:
        made = _means(examples.reconstruction[i], step)
        shown["reconstruction"] = markup.image(made, f"reconstruction of {path}", lossy)
    residual = charts.heat(_blocks(examples.residual[i], step).max((1, 3)), examples.scale)
    shown["residual"] = markup.image(residual, f"residual map of {path}", lossy)
    for name, masks, what in (
        ("ground truth", examples.mask, "ground truth mask"),
        ("predicted", examples.predicted, "predicted mask"),
    ):
        any_of_it = np.asarray(_blocks(masks[i], step).any((1, 3)))
        shown[name] = markup.image(any_of_it, f"{what} of {path}")
    return shown


def around(examples: Examples, i: int) -> tuple[Examples, str] | None:
    """Returns of a large example i the pixels around its largest residual, as an example alone, for
    in a small picture a small defect would be lost; and where that is, in words.

    None of one that is not large.
    """
    if max(examples.residual.shape[1:]) <= _LARGE:
        return None
    cut, place = around_largest(examples.residual[i], _AROUND)
    part = (slice(i, i + 1), *cut)
    found: dict[str, Any] = {
        name: array[part if array.ndim > 2 else part[0]]
        for name, array in examples._asdict().items()
        if isinstance(array, np.ndarray)
    }
    return examples._replace(**found), f"shown around {place}"


def around_largest(residual: np.ndarray, side: int) -> tuple[tuple[slice, ...], str]:
    """Returns the part of a map [H, W] around its largest value, `side` pixels or all there are,
    and where that value is, in words."""
    y, x = np.unravel_index(residual.argmax(), residual.shape)
    ends = zip((y, x), residual.shape, strict=True)
    first = [max(0, min(int(at) - side // 2, n - side)) for at, n in ends]
    return tuple(slice(at, at + side) for at in first), f"x {x}, y {y}"


def _shrunk(examples: Examples) -> tuple[int, bool]:
    """How many pixels of a side are one, and whether the images are JPEG."""
    k, height, width, channels = examples.image.shape
    step = math.ceil(math.sqrt(k * height * width / _PIXELS))
    return max(1, step), k * height * width * channels > _LOSSLESS


def _means(image: np.ndarray, step: int) -> np.ndarray:
    """An image, uint8 [H, W, C], with each block of step x step pixels as one, their mean."""
    return image if step == 1 else _blocks(image, step).mean((1, 3)).round().astype(np.uint8)


def _blocks(array: np.ndarray, step: int) -> np.ndarray:
    """[H, W, ...] -> [h, step, w, step, ...]; the last blocks repeat the edge where they lack."""
    height, width = (math.ceil(side / step) for side in array.shape[:2])
    more = [(0, height * step - array.shape[0]), (0, width * step - array.shape[1])]
    padded = np.pad(array, more + [(0, 0)] * (array.ndim - 2), "edge")
    return padded.reshape(height, step, width, step, *array.shape[2:])


def _card(
    row: pd.Series, number: int, examples: Examples, i: int, verdict: str
) -> dict[str, object]:
    """What the template shows of one example: text, and a picture or why there is none."""
    path, kind = row["path"], row["defect_kind"]
    shown: dict[str, markup.Image | str] = {**pictures(examples, i, path)}
    if kind == GOOD or not examples.has_mask[i]:
        shown["ground truth"] = "no defect" if kind == GOOD else "no mask file"
    if math.isnan(examples.segmentation_threshold):
        shown["predicted"] = "no threshold"
    distance = markup.amount(float(row["distance"]))
    return {
        **{"row": number, "path": path, "kind": kind, "distance": distance},
        **{"verdict": verdict, "pictures": shown},
    }
