"""A folder of any size, scored by a trained run in bounded memory, restartable.

Every batch's rows are written before the next one's. In the output folder::

    scores.csv      path, distance, p_value, defective: one row per image, sorted by path; bytes,
                    modified, sha256: which file it was
    left_out.csv    path, cause: what could not be used
    run.json        whose scores these are
    report.html the most unusual images first, with pictures, see `score_page`
    anomaly_maps/PATH.tiff, predicted_masks/PATH.png    on demand

An image is known by its path and its file: one that was replaced is judged anew.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax
import numpy as np

from cae_jax.data import images, pictures
from cae_jax.data.frame import Frame, lost_of
from cae_jax.data.layouts.found import MASK_NAMES, is_result, leads_back, no_image, plain
from cae_jax.evaluation import finite, thresholds
from cae_jax.evaluation.verdict import Judge
from cae_jax.options import IDENTITY, SCORING
from cae_jax.runs.config import identity
from cae_jax.runs.machine import lock, multihost
from cae_jax.runs.machine.foretold import CALL
from cae_jax.runs.machine.progress import Bar, say
from cae_jax.serving import growing_table, score_page
from cae_jax.serving.stream import Batch, ScoringCall, Stamp, scored, scoring_call
from cae_jax.serving.trained import TrainedRun
from cae_jax.types import DataError, Scores, UsageError, unknown_name

_ON_BAD_IMAGE = ("error", "skip")
# Of a run's flags, where its images were does not tell its scores from another run's.
_NOT_OF_SCORES = ("dataset", "on_bad_image")


class Summary(NamedTuple):
    """What a table of scores holds."""

    n_images: int
    n_defective: int
    n_left_out: int


def find(root: Path, recursive: bool = True, but: Path | None = None) -> list[str]:
    """Returns the images in a folder, by suffix: relative paths with forward slashes, sorted.

    What is hidden, and what a job wrote to the folder `but` or to one in the folder, is passed
    over. Raises DataError where the folder cannot be listed or holds no image.
    """

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    seen, top = {os.path.realpath(but)} if but else set(), os.path.realpath(root)
    if top in seen or is_result(root):  # an output of this kind, beside the images
        seen = seen - {top} | {os.path.realpath(root / name) for name in growing_table.FOLDERS}
    found = []
    for folder, folders, names in os.walk(root, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        real = os.path.realpath(folder)  # linked folders may go round in a circle
        below = real != top
        if real in seen or (below and (is_result(Path(folder)) or leads_back(Path(folder)))):
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in images.SUFFIXES and not name.startswith("."):
                found.append(Path(folder, name).relative_to(root).as_posix())
    if not found:
        raise DataError(no_image(root))
    return sorted(found)


def score_folder(
    run: TrainedRun,
    root: Path,
    output: Path,
    *,
    recursive: bool = True,
    batch_size: int | None = None,
    on_bad_image: str = "error",
    save_maps: bool = False,
    overwrite: bool = False,
    csv: str = "plain",
    pictures_in_report: int = 0,
) -> Summary:
    """Scores all images of a folder, or those that an earlier start has not.

    Several processes (`multihost.start`) take a share each.

    Args:
      run: as `trained.open_run` opens it, with its threshold.
      root: the images' folder, or one image.
      output: where the tables go, see the top of this file; made when it is not there.
      recursive: also the images in the folder's folders.
      batch_size: see `scoring_call`.
      on_bad_image: "error", or "skip" to list what cannot be used; a next start tries it again.
      save_maps: also write each image's residual map and, where the run has a threshold for it,
        predicted mask, at the image's own size.
      overwrite: throw away what another run left in `output`.
      csv: "plain", or "excel" as of `files.write_csv`; another one may go on.
      pictures_in_report: so many images have pictures in report.html; 0 for no report.

    Returns the counts of the whole table.

    Raises:
      UsageError: a flag cannot work, no `root`, or `output` is another job's or process's.
      DataError: no image, one that cannot be used, or a file that cannot be written. The rows
        before it are written.
      CaeError: a distance or a map is not finite. The rows of the batches before are written.
    """
    if on_bad_image not in _ON_BAD_IMAGE:
        raise unknown_name("--on_bad_image", on_bad_image, _ON_BAD_IMAGE)
    at = scoring_call(run.cell.config, run.variables, batch_size, run.cell.frame)
    excel, identity = csv == "excel", _identity(run, root, recursive, save_maps)
    kept = score_page.Kept(pictures_in_report)
    with contextlib.ExitStack() as stack:
        with multihost.together("claim"):
            root, paths = _images(root, recursive, output)
            stack.enter_context(lock.hold(output, (jax.process_index(), jax.process_count())))
            if multihost.is_first():
                _say_of_masks(root, paths)
                growing_table.claim(output, identity, overwrite, excel)
        growing_table.check(output, identity)
        with multihost.together("merge"):
            with multihost.together("score"):
                _score_share(run, at, root, output, paths, on_bad_image, save_maps, excel, kept)
            if multihost.is_first():
                for name in growing_table.COLUMNS:
                    growing_table.merge(output, name, excel)
                if pictures_in_report:
                    score_page.write(run, at, root, output, kept)
    return _summary(output, paths)


def _summary(output: Path, paths: list[str]) -> Summary:
    """The counts of the whole table, where it is whole."""
    rows, left_out = (growing_table.rows(output / f"{n}.csv", n) for n in growing_table.COLUMNS)
    if not all(path in rows or path in left_out for path in paths):
        raise DataError(f"{output}: not all images are scored yet; the same command goes on")
    return Summary(len(rows), sum(map(_defective, rows.values())), len(left_out))


def _images(root: Path, recursive: bool, output: Path) -> tuple[Path, list[str]]:
    """The folder and the images in it, or the one image that is meant."""
    if root.is_file():
        return root.parent, [root.name]
    if not root.is_dir():
        raise UsageError(f"--images={root}: no such folder; a folder or one image is expected")
    return root, find(root, recursive, but=output)


def _say_of_masks(root: Path, paths: list[str]) -> None:
    """Warns of images that lie where masks do: a data set's folder has these, too."""
    masks = [path for path in paths if MASK_NAMES & set(map(plain, path.split("/")[:-1]))]
    if masks:
        say(
            f"warning: {root}: {len(masks)} of {len(paths)} images lie in folders with a name for "
            f"masks ({masks[0]}): they are judged as products"
        )


def _score_share(
    run: TrainedRun,
    at: ScoringCall,
    root: Path,
    output: Path,
    paths: list[str],
    on_bad_image: str,
    save_maps: bool,
    excel: bool,
    kept: score_page.Kept,
) -> None:
    """Scores what is missing of this process's share, each batch's rows written at once; `kept`
    sees them."""
    before = growing_table.rows(output / "scores.csv", "scores")
    mine = multihost.share(paths)
    done = {path for path in mine if path in before and _same(before[path], root / path)}
    if said := thresholds.few(len(run.judge.held_out)):
        say(f"warning: {run.cell.title}: {said}")
    if changed := sum(path in before and path not in done for path in mine):
        say(f"{root}: {changed} images are not the files that were scored: they are scored anew")
    left = [path for path in mine if path not in done]
    n = jax.process_count()
    part = f".part-{jax.process_index()}-of-{n}" if n > 1 else ""
    with (
        growing_table.append_to(output, "scores", part, excel) as scores,
        growing_table.append_to(output, "left_out", part, excel) as left_out,
        Bar("score", len(mine), "images", len(mine) - len(left), CALL) as bar,
        contextlib.closing(scored(at, root, left, save_maps or kept.pictures > 0)) as batches,
    ):
        sizes: Counter[tuple[int, int]] = Counter()
        for batch in batches:
            sizes.update(batch.sizes)
            name = at.config.distance
            maps = {} if batch.residuals is None else {name: batch.residuals}
            found = Scores({name: batch.distances}, maps, None)
            finite.check_finite(found, [str(root / path) for path in batch.paths])
            if save_maps:
                _write_maps(run, at.frame, output, batch)
            _write_rows(run.judge, batch, scores, excel)
            kept.see(batch)
            for each in batch.left_out:
                left_out.write(growing_table.row(*each, excel=excel))
            scores.flush()
            left_out.flush()
            if batch.left_out and on_bad_image == "error":
                path, cause = batch.left_out[0]
                raise DataError(
                    f"{root / path}: {cause}; --on_bad_image=skip lists what is bad and goes on"
                )
            bar.update(len(batch.paths) + len(batch.left_out))
    for said in lost_of(str(root), at.frame, [*sizes.elements()]):
        say(f"warning: {said}")


def _write_rows(judge: Judge, batch: Batch, table: TextIO, excel: bool) -> None:
    distances = batch.distances.astype(np.float64)
    found = (distances.tolist(), judge.p_values(distances).tolist(), judge.defective(distances))
    for path, stamp, distance, p_value, defective in zip(
        batch.paths, batch.stamps, *found, strict=True
    ):
        about = (distance, p_value, int(defective), *stamp)
        table.write(growing_table.row(path, *about, excel=excel))


def _defective(row: str) -> bool:
    return growing_table.fields(row)[growing_table.COLUMNS["scores"].index("defective")] == "1"


def _same(row: str, file: Path) -> bool:
    """Whether a row of scores.csv is of the file that is there now."""
    size, modified, sha256 = growing_table.fields(row)[-3:]
    return Stamp(int(size), int(modified), sha256).still(file)


def _write_maps(run: TrainedRun, frame: Frame, output: Path, batch: Batch) -> None:
    if batch.residuals is None:
        return
    judge, opening = run.judge, run.cell.config.opening
    for path, size, residual in zip(batch.paths, batch.sizes, batch.residuals, strict=True):
        mask = judge.mask(residual, opening) if math.isfinite(judge.map_threshold) else None
        if mask is not None and (counts := frame.counts(size)) is not None:
            mask &= counts
        # With the suffix: two images of a folder may differ in nothing else.
        own = frame if residual.shape == frame.size else None  # a strip has the file's size
        pictures.write_prediction(output, path, size, residual, mask, own)


def _identity(run: TrainedRun, root: Path, recursive: bool, save_maps: bool) -> dict[str, Any]:
    """What two starts must have in common to write the same table."""
    about = {"images": os.path.realpath(root), "recursive": recursive, "save_maps": save_maps}
    return about | identity_of(run)


def identity_of(run: TrainedRun) -> dict[str, Any]:
    """Returns whose scores a run's are, as JSON's plain values: two runs of one identity give the
    same scores and verdicts."""
    digest = hashlib.sha256(run.judge.held_out.tobytes())
    for leaf in jax.tree.leaves(run.variables):
        digest.update(np.asarray(leaf).tobytes())
    flags = identity(run.cell.config, IDENTITY, SCORING)
    return {
        "percent": run.judge.threshold.percent,
        "false_alarms": run.judge.threshold.rate,
        "threshold": run.judge.threshold.value,
        **{f"--{name}": flags[name] for name in flags if name not in _NOT_OF_SCORES},
        "weights": digest.hexdigest()[:16],
    }
