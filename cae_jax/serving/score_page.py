"""The page over a scored folder: the most unusual images with pictures, from the tables alone."""

from __future__ import annotations

import contextlib
import dataclasses
import heapq
import itertools
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cae_jax import files
from cae_jax.data import images
from cae_jax.evaluation import thresholds
from cae_jax.reports import rules
from cae_jax.reports.html import gallery, markup, verdicts
from cae_jax.reports.html.verdicts import Drawn, Scored, Verdicts
from cae_jax.runs.machine.progress import waiting
from cae_jax.serving import growing_table, overlay
from cae_jax.serving.stream import Batch, ScoringCall, Stamp, scored
from cae_jax.serving.trained import TrainedRun, color_scale
from cae_jax.types import DataError, LeftOut

NAME = "report.html"
_SIDE = 256  # pixels, the longer one of a picture
_LARGE = 2  # times that an image is larger than its picture, in which a small defect is lost then
_MOST = 2**27  # bytes of maps that are kept


class Found(NamedTuple):
    """What a picture needs of an image that was scored."""

    path: str
    stamp: Stamp
    size: tuple[int, int]  # (height, width) of the file
    residual: np.ndarray  # float32 [H, W]


class Kept:
    """The maps of the images with the largest distances of those seen: of as many as have pictures,
    or as memory is granted for."""

    def __init__(self, pictures: int) -> None:
        """For so many images at most; 0: nothing is kept."""
        self.pictures = pictures
        self._heap: list[tuple[float, int, Found]] = []  # the smallest distance first
        self._bytes, self._n = 0, itertools.count()

    def see(self, batch: Batch) -> None:
        """Keeps what is larger than what was seen before."""
        if batch.residuals is None or not self.pictures:
            return
        of = (batch.paths, batch.stamps, batch.sizes, batch.residuals)
        for distance, found in zip(batch.distances, map(Found, *of), strict=True):
            if len(self._heap) == self.pictures and distance <= self._heap[0][0]:
                continue
            own = found._replace(residual=found.residual.copy())  # not of a view on its batch
            heapq.heappush(self._heap, (float(distance), next(self._n), own))
            self._bytes += own.residual.nbytes
            while len(self._heap) > self.pictures or self._bytes > _MOST:
                self._bytes -= heapq.heappop(self._heap)[2].residual.nbytes

    def by_path(self) -> dict[str, Found]:
        """Returns what was kept."""
        return {found.path: found for _, _, found in self._heap}


def write(run: TrainedRun, at: ScoringCall, root: Path, output: Path, kept: Kept) -> None:
    """Writes report.html beside the tables of a folder that is scored.

    The most unusual images are read once more for their pictures. Those whose maps were not kept,
    for an earlier start or another process scored them, or for want of memory, are scored once more
    too, a batch at a time.

    Args:
      run: whose verdicts they are.
      at: its scoring call.
      root: the images' folder.
      output: where the tables are.
      kept: of what was scored now; says how many images have pictures, at most.

    Raises:
      DataError: the file cannot be written.
    """
    rows = growing_table.rows(output / "scores.csv", "scores")
    found = sorted(map(_scored, rows.values()), key=lambda each: (-each.distance, each.path))
    lost = growing_table.rows(output / "left_out.csv", "left_out")
    first = {each.path: each for each in found[: kept.pictures]}
    drawn = _drawn(run, at, root, first, kept.by_path())
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
    run: TrainedRun,
    at: ScoringCall,
    root: Path,
    first: Mapping[str, Scored],
    kept: Mapping[str, Found],
) -> dict[str, Drawn]:
    """Pictures by path, of the images that are still there."""
    top = color_scale(run.cell)
    there = [kept[path] for path in first if path in kept]
    still = (each for each in there if each.stamp.still(root / each.path))
    others = [path for path in first if path not in kept]
    found = {}
    for each in itertools.chain(still, _again(at, root, others)):
        if shown := _pictures(run, at, root, each, top):
            found[each.path] = Drawn(first[each.path], shown)
    return found


def _again(at: ScoringCall, root: Path, paths: list[str]) -> Iterator[Found]:
    if not paths:
        return
    with (
        contextlib.closing(scored(at, root, paths, maps=True)) as batches,
        waiting(f"scoring {len(paths)} images again for their pictures"),
    ):
        for batch in batches:
            if batch.residuals is not None:
                yield from map(Found, batch.paths, batch.stamps, batch.sizes, batch.residuals)


def _pictures(
    run: TrainedRun, at: ScoringCall, root: Path, of: Found, top: float
) -> dict[str, markup.Image]:
    """The image and its map; none where it was taken away meanwhile."""
    own, residual = at.frame, of.residual
    mask = run.judge.mask(residual, run.cell.config.opening) if _outlined(run) else None
    if residual.shape != own.size:  # a strip, of its own size
        own = dataclasses.replace(own, image_size=None)
    try:
        pixels, counts = images.decode(root / of.path, own), own.counts(of.size)
    except DataError:
        return {}
    if mask is not None and counts is not None:
        mask &= counts
    shape = of.size if at.frame.plain else pixels.shape[:2]  # where the map lies on it
    image, over = overlay.panels(pixels, residual, mask, top, shape, _SIDE)
    shown = {
        "image": markup.image(image, f"image {of.path}", lossy=True),
        "what is unusual": markup.image(over, f"heat map of {of.path}", lossy=True),
    }
    if max(residual.shape) > _LARGE * _SIDE:
        shown |= _close(of.path, pixels, residual, mask, top)
    return shown


def _close(
    path: str, pixels: np.ndarray, residual: np.ndarray, mask: np.ndarray | None, top: float
) -> dict[str, markup.Image]:
    """Of a large image the pixels around its most unusual place, as many as a picture has."""
    part, place = gallery.around_largest(residual, _SIDE)
    cut = (pixels[part], residual[part], None if mask is None else mask[part])
    image, over = overlay.panels(*cut, top, cut[1].shape, _SIDE)
    name = f"around its most unusual place, {place}"
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
