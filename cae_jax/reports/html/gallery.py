"""What the model sees: images, reconstructions, residuals on one color scale, masks."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from cae_jax.data import pictures
from cae_jax.reports.html import markup
from cae_jax.reports.run_files import Examples
from cae_jax.types import GOOD

WORST = 6  # misses, and as many false alarms, that stand before the kinds
_THUMBNAIL = 48  # pixels of its longer side, about
# Anchors of the color map, dark to light: its lightness grows evenly, so it reads in gray too.
_ANCHORS = ((0, 0, 4), (40, 11, 84), (101, 21, 110), (159, 42, 99), (212, 72, 66), (245, 125, 21),
            (250, 193, 39), (252, 255, 164))  # fmt: skip
RAMP = np.stack(
    [
        np.interp(np.linspace(0, 1, 256), np.linspace(0, 1, len(_ANCHORS)), channel)
        for channel in np.transpose(_ANCHORS)
    ],
    axis=1,
).round().astype(np.uint8)  # [256, 3]  # fmt: skip


def heat(residual: np.ndarray, scale: float) -> np.ndarray:
    """Returns a residual map [H, W] as colors, uint8 [H, W, 3]: 0 is the bottom of the color map,
    `scale` and what lies above it (NaN too) the top."""
    top = scale if math.isfinite(scale) and scale > 0 else 1.0
    share = np.clip(np.nan_to_num(residual / top, nan=1.0), 0, 1)
    return RAMP[np.round(share * 255).astype(np.uint8)]


def gallery(frame: pd.DataFrame, examples: Examples, verdicts: list[str]) -> str:
    """Returns the examples as HTML: worst misses, worst false alarms, then kind by kind.

    Every example stands once; a kind refers to those that stand above it.

    Args:
      frame: of scores.csv.
      examples: pictures of some of its rows.
      verdicts: of every row, plain text.
    """
    index = {int(row): i for i, row in enumerate(examples.row)}
    misses, alarms = worst(frame)
    misses = [row for row in misses if row in index]
    alarms = [row for row in alarms if row in index]
    kinds = sorted({frame["defect_kind"].iloc[row] for row in index}, key=lambda k: (k != GOOD, k))
    cards = {
        row: _card(frame.iloc[row], row, examples, i, verdicts[row]) for row, i in index.items()
    }
    parts = [_legend(examples)]
    if len(kinds) > 1:
        choice = markup.select("Show kind", kinds)
        parts.append(f'<form class="controls" data-gallery>{choice}</form>')
    for word, rows, order in (
        ("misses", misses, "defective, lowest distance first"),
        ("false alarms", alarms, "good, highest distance first"),
    ):
        all_right = all(verdicts[row] == "right" for row in rows)
        which = f"No {word}, the closest" if all_right else f"Worst {word}"
        parts.append(_section(f"{which}: {order}", rows, cards))
    above = {*misses, *alarms}
    for kind in kinds:
        of_kind = [row for row in index if frame["defect_kind"].iloc[row] == kind]
        links = ", ".join(
            f'<a href="#example-{row}">{markup.text(frame["path"].iloc[row])}</a>'
            for row in of_kind
            if row in above
        )
        rest = sorted(set(of_kind) - above, key=lambda row: frame["distance"].iloc[row])
        name = "Good images" if kind == GOOD else f"Kind: {kind}"
        parts.append(_section(name, rest, cards, kind, f"Also above: {links}." if links else ""))
    return "\n".join(parts)


def worst(frame: pd.DataFrame) -> tuple[list[int], list[int]]:
    """Returns the rows of the WORST defective test images with the lowest distances, lowest first,
    and of the WORST good ones with the highest, highest first."""
    test = frame["split"] == "test"
    order = frame["distance"].to_numpy().argsort(kind="stable")
    defective = (test & (frame["label"] == 1)).to_numpy()[order]
    good = (test & (frame["label"] == 0)).to_numpy()[order]
    return order[defective][:WORST].tolist(), order[good][::-1][:WORST].tolist()


def thumbnails(examples: Examples | None) -> dict[int, str]:
    """Returns a small picture, HTML, of each example by its row of scores.csv."""
    if examples is None:
        return {}
    found = {}
    for row, image in zip(examples.row.tolist(), examples.image, strict=True):
        step = max(1, round(max(image.shape[:2]) / _THUMBNAIL))
        height, width = (max(1, side // step) for side in image.shape[:2])
        cut = image[: height * step, : width * step].astype(np.float64)
        blocks = cut.reshape(height, cut.shape[0] // height, width, cut.shape[1] // width, -1)
        small = blocks.mean((1, 3)).round().astype(np.uint8)
        found[row] = f'<a href="#example-{row}">{_image(small, "thumbnail: go to the example")}</a>'
    return found


def _section(
    title: str, rows: list[int], cards: dict[int, str], kind: str = "", more: str = ""
) -> str:
    if not rows and not more:
        return ""
    of = f' data-kind="{markup.text(kind)}"' if kind else ""
    note = f'<p class="note">{more}</p>' if more else ""
    body = "\n".join(cards[row] for row in rows)
    return f'<section class="examples"{of}><h3>{markup.text(title)}</h3>{note}\n{body}</section>'


def _card(row: pd.Series, number: int, examples: Examples, i: int, verdict: str) -> str:
    path, kind = markup.text(row["path"]), markup.text(row["defect_kind"])
    residual = heat(examples.residual[i], examples.scale)
    shown = [
        ("image", _image(examples.image[i], f"image {path}")),
        ("reconstruction", _image(examples.reconstruction[i], f"reconstruction of {path}")),
        ("residual", _image(residual, f"residual map of {path}")),
        ("ground truth", _image(examples.mask[i], f"ground truth mask of {path}")),
        ("predicted", _image(examples.predicted[i], f"predicted mask of {path}")),
    ]
    if row["defect_kind"] == GOOD:
        shown[3] = ("ground truth", '<span class="empty">no defect</span>')
    elif not examples.has_mask[i]:
        shown[3] = ("ground truth", '<span class="empty">no mask file</span>')
    if math.isnan(examples.segmentation_threshold):
        shown[4] = ("predicted", '<span class="empty">no threshold</span>')
    figures = "".join(
        f"<figure>{image}<figcaption>{name}</figcaption></figure>" for name, image in shown
    )
    judged = f' · <span class="verdict">{markup.text(verdict)}</span>' if verdict else ""
    return (
        f'<article class="example" id="example-{number}" data-kind="{kind}">'
        f"<h4><bdi>{path}</bdi></h4><p>{kind} · distance {markup.amount(float(row['distance']))}"
        f'{judged}</p><div class="pictures">{figures}</div></article>'
    )


def _legend(examples: Examples) -> str:
    cut = examples.segmentation_threshold
    label = f"color scale from 0 to {markup.amount(examples.scale)}"
    mask = "" if math.isnan(cut) else f" Predicted: residual above {markup.amount(cut)}."
    return (
        f'<div class="legend"><span>0</span>{_image(RAMP[None], label)}'
        f"<span>{markup.amount(examples.scale)} and above</span></div>"
        '<p class="note">Residual per pixel, one color scale for all images: its top is a high '
        f"quantile of the good validation images.{mask}</p>"
    )


def _image(array: np.ndarray, alt: str) -> str:
    """An <img> of uint8 or bool [H, W], [H, W, 1] or [H, W, 3]; `alt` is escaped."""
    array = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    height, width = array.shape[:2]
    return (
        f'<img src="{markup.data_uri(pictures.png_bytes(array))}" alt="{alt}" '
        f'width="{width}" height="{height}">'
    )
