"""The page over a scored folder: the most unusual images with pictures, from the tables alone."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cae_jax import files
from cae_jax.data import images
from cae_jax.evaluation import thresholds
from cae_jax.reports import rules
from cae_jax.reports.html import markup, verdicts
from cae_jax.reports.html.verdicts import Drawn, Scored, Verdicts
from cae_jax.runs.machine.progress import waiting
from cae_jax.serving import growing_table, overlay
from cae_jax.serving.stream import ScoringCall, scored
from cae_jax.serving.trained import TrainedRun, color_scale
from cae_jax.types import DataError, LeftOut

NAME = "report.html"
_SIDE = 256  # pixels, the longer one of a picture
_LARGE = 2  # times that an image is larger than its picture, in which a small defect is lost then


def write(run: TrainedRun, at: ScoringCall, root: Path, output: Path, pictures: int) -> None:
    """Writes report.html beside the tables of a folder that is scored.

    The most unusual images are read and scored once more, a batch at a time, for their pictures:
    nothing of them was kept.

    Args:
      run: whose verdicts they are.
      at: its scoring call.
      root: the images' folder.
      output: where the tables are.
      pictures: how many images have some, at most.

    Raises:
      DataError: the file cannot be written.
    """
    rows = growing_table.rows(output / "scores.csv", "scores")
    found = sorted(map(_scored, rows.values()), key=lambda each: (-each.distance, each.path))
    lost = growing_table.rows(output / "left_out.csv", "left_out")
    first = {each.path: each for each in found[:pictures]}
    drawn = _drawn(run, at, root, first)
    threshold = run.judge.threshold
    point = dataclasses.asdict(threshold) | {"threshold": threshold.value}
    page = verdicts.verdicts_page(
        Verdicts(
            title=run.cell.title,
            images=str(root),
            scored=found,
            drawn=[drawn[path] for path in first if path in drawn],
            left_out=[LeftOut(*growing_table.fields(row)[:2]) for row in lost.values()],
            threshold=threshold.value,
            rule=f"{rules.name(point)}, {threshold.n} images",
            expected=_expected(point),
            few=thresholds.few(len(run.judge.held_out)) or "",
            outlined=_outlined(run),
        )
    )
    files.write_whole(output / NAME, page)


def _drawn(
    run: TrainedRun, at: ScoringCall, root: Path, first: Mapping[str, Scored]
) -> dict[str, Drawn]:
    """Pictures by path, of the images that are still there."""
    top, frame, opening = color_scale(run.cell), at.frame, run.cell.config.opening
    found = {}
    with (
        contextlib.closing(scored(at, root, list(first), maps=True)) as batches,
        waiting(f"scoring {len(first)} images again for their pictures"),
    ):
        for batch in batches:
            if batch.residuals is None:
                continue
            for path, size, residual in zip(batch.paths, batch.sizes, batch.residuals, strict=True):
                mask = run.judge.mask(residual, opening) if _outlined(run) else None
                if residual.shape != frame.size:  # a strip, of its own size
                    own = dataclasses.replace(frame, image_size=None)
                else:
                    own = frame
                try:
                    pixels, counts = images.decode(root / path, own), own.counts(size)
                except DataError:  # taken away meanwhile
                    continue
                if mask is not None and counts is not None:
                    mask &= counts
                shape = size if frame.plain else pixels.shape[:2]  # where the map lies on it
                image, over = overlay.panels(pixels, residual, mask, top, shape, _SIDE)
                shown = {
                    "image": markup.image(image, f"image {path}", lossy=True),
                    "what is unusual": markup.image(over, f"heat map of {path}", lossy=True),
                }
                if max(residual.shape) > _LARGE * _SIDE:
                    shown |= _close(path, pixels, residual, mask, top)
                found[path] = Drawn(first[path], shown)
    return found


def _close(
    path: str, pixels: np.ndarray, residual: np.ndarray, mask: np.ndarray | None, top: float
) -> dict[str, markup.Image]:
    """Of a large image the pixels around its most unusual place, as many as a picture has."""
    at = np.unravel_index(residual.argmax(), residual.shape)
    first = [
        max(0, min(int(i) - _SIDE // 2, n - _SIDE)) for i, n in zip(at, residual.shape, strict=True)
    ]
    part = tuple(slice(i, i + _SIDE) for i in first)
    cut = (pixels[part], residual[part], None if mask is None else mask[part])
    image, over = overlay.panels(*cut, top, cut[1].shape, _SIDE)
    name = f"around its most unusual place, x {at[1]}, y {at[0]}"
    return {
        name: markup.image(image, f"{name}: {path}", lossy=True),
        "what is unusual there": markup.image(over, f"heat map there of {path}", lossy=True),
    }


def _expected(point: Mapping[str, Any]) -> str:
    rate = rules.expected(point)
    if rate is None:
        return "not known: the threshold is of the images that it was judged on"
    mean, low, high = (f"{1000 * each:.0f}" for each in rate)
    return f"about {mean} of 1000 good images are called defective ({low} to {high}, 95 %)"


def _outlined(run: TrainedRun) -> bool:
    """Whether the run has a threshold for its maps."""
    return math.isfinite(run.judge.map_threshold)


def _scored(row: str) -> Scored:
    path, distance, p_value, defective = growing_table.fields(row)[:4]
    return Scored(path, float(distance), float(p_value or "nan"), defective == "1")
