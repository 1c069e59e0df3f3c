"""A folder of any size, scored by a trained run in bounded memory, restartable.

Images are decoded by threads, in order and only a few batches ahead of the one compiled call, and
every batch's rows are written before the next one's. In the output folder:

    scores.csv      path, distance, p_value, defective: one row per image, sorted by path
    left_out.csv    path, cause: what could not be used
    run.json        whose scores these are
    anomaly_maps/PATH.tiff, predicted_masks/PATH.png    on demand

An image is known by its path alone.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import itertools
import math
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cae_jax.data import images, pictures
from cae_jax.evaluation import segmentation, thresholds
from cae_jax.runs import job
from cae_jax.runs.config import SCORING, Config
from cae_jax.runs.evaluate import build_scorer
from cae_jax.runs.machine import lock, multihost
from cae_jax.runs.machine.progress import Progress
from cae_jax.scoring import scorer
from cae_jax.serving import growing_table
from cae_jax.serving.detector import Detector
from cae_jax.types import DataError, LeftOut, Scores, UsageError, Variables, unknown_name

_THREADS = min(16, os.cpu_count() or 1)
_ON_BAD_IMAGE = ("error", "skip")
# What of a run's flags tells its scores from another run's.
_IDENTITY = (
    *("category", "model", "model_options", "loss", "seed", "epochs"),
    *("image_size", "patch_size", "stride", "channels", "precision"),
    *("ssim_window", "ssim_weights", "ssim_constants"),
    *(name for name in SCORING if name != "save_maps"),
)


class ScoringCall(NamedTuple):
    """A model's scoring call on every device of this process, compiled for one batch size."""

    config: Config
    variables: Variables  # on every device
    call: scorer.Scorer
    sharding: NamedSharding  # of images, along their batch axis
    batch_size: int


class Batch(NamedTuple):
    """What came of some images that follow each other in the list."""

    paths: tuple[str, ...]  # those that were scored, n
    distances: np.ndarray  # float32 [n], by the config's --distance
    residuals: np.ndarray | None  # float32 [n, H, W], where asked for
    sizes: tuple[tuple[int, int], ...]  # (height, width) of each file, where asked for
    left_out: tuple[LeftOut, ...]


class Summary(NamedTuple):
    """What a table of scores holds."""

    n_images: int
    n_defective: int
    n_left_out: int


def scoring_call(
    config: Config, variables: Variables, batch_size: int | None = None
) -> ScoringCall:
    """Returns the scoring call of a model, split over all devices of this process.

    Args:
      config: of the model.
      variables: its parameters.
      batch_size: images per call, rounded up to a multiple of the number of devices; None takes
        `score.default_batch_size` for each.

    Raises:
      UsageError: a batch size below 1.
    """
    devices = jax.local_devices()
    if batch_size is None:
        batch_size = scorer.default_batch_size() * len(devices)
    if batch_size < 1:
        raise UsageError(f"--batch_size={batch_size}: must be at least 1")
    call = build_scorer(config, job.build_method(config))
    mesh = Mesh(np.array(devices), ("batch",))
    whole, split = PartitionSpec(), PartitionSpec("batch")
    if len(devices) > 1:
        # Mapped, not left to the partitioner: it would gather all patches for every chunk of them.
        call = jax.jit(jax.shard_map(call, mesh=mesh, in_specs=(whole, split), out_specs=split))
    return ScoringCall(
        config,
        jax.device_put(variables, NamedSharding(mesh, whole)),
        call,
        NamedSharding(mesh, split),
        -(-batch_size // len(devices)) * len(devices),
    )


def find(root: Path, recursive: bool = True, but: Path | None = None) -> list[str]:
    """Returns the images in a folder, by suffix: relative paths with forward slashes, sorted.

    What is hidden, and the folder `but`, is passed over. Raises DataError where the folder cannot
    be listed or holds no image.
    """

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed: {error.strerror}") from error

    seen = {os.path.realpath(but)} if but else set()
    found = []
    for folder, folders, names in os.walk(root, onerror=fail, followlinks=True):
        folders[:] = sorted(name for name in folders if recursive and not name.startswith("."))
        if (real := os.path.realpath(folder)) in seen:  # linked folders may go round in a circle
            folders.clear()
            continue
        seen.add(real)
        for name in names:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in images.SUFFIXES and not name.startswith("."):
                found.append(Path(folder, name).relative_to(root).as_posix())
    if not found:
        suffixes = " ".join(sorted(images.SUFFIXES))
        raise DataError(f"{root}: no image in it; suffixes read: {suffixes}")
    return sorted(found)


class _Image(NamedTuple):
    path: str
    pixels: np.ndarray | None  # float32 [H, W, C]
    size: tuple[int, int]
    cause: str  # why there are no pixels


def _read(root: Path, path: str, config: Config, maps: bool) -> _Image:
    file = os.path.join(root, path)
    try:
        pixels = images.decode(file, config.image_size, config.channels)
        return _Image(path, pixels, images.size(file) if maps else (0, 0), "")
    except DataError as error:
        return _Image(path, None, (0, 0), str(error).removeprefix(f"{file!r}: "))


def decoded(
    root: Path, paths: Iterable[str], config: Config, ahead: int, maps: bool = False
) -> Iterator[_Image]:
    """Decodes images in threads (Pillow releases the GIL) and yields them in the order of `paths`.

    At most `ahead` images are decoded, or being decoded, before they are asked for.
    """
    paths = iter(paths)
    pool = ThreadPoolExecutor(_THREADS)
    try:
        waiting = collections.deque()
        while True:
            for path in itertools.islice(paths, ahead - len(waiting)):
                waiting.append(pool.submit(_read, root, path, config, maps))
            if not waiting:
                return
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def scored(
    at: ScoringCall, root: Path, paths: Iterable[str], maps: bool = False
) -> Iterator[Batch]:
    """Decodes and scores images in the order of `paths`, `at.batch_size` of them a batch.

    Decoding runs ahead by two batches, and while a batch is computed the next one is put
    together: whatever the number of images, at most five batches and a thread's image each are
    in memory. A batch with images that cannot be used, or the last one, is filled up with copies.

    Args:
      at: the model.
      root: the images' folder.
      paths: of the images, relative to it.
      maps: also bring the residual maps, and the files' sizes.
    """
    ahead = 2 * at.batch_size + _THREADS
    stream = decoded(root, paths, at.config, ahead, maps)
    before = None
    while read := list(itertools.islice(stream, at.batch_size)):
        now = _begin(at, read)
        del read  # the pixels; the device has its copy
        if before:
            yield _end(at.config.distance, *before, maps)
        before = now
    if before:
        yield _end(at.config.distance, *before, maps)


def _begin(at: ScoringCall, read: list[_Image]) -> tuple[list[_Image], Scores | None]:
    """Starts the call and does not wait for it; the images come back without their pixels."""
    pixels = [image.pixels for image in read if image.pixels is not None]
    bare = [image._replace(pixels=None) for image in read]
    if not pixels:
        return bare, None
    filled = np.stack(pixels + pixels[-1:] * (at.batch_size - len(pixels)))
    return bare, at.call(at.variables, jax.device_put(filled, at.sharding))


def _end(distance: str, read: list[_Image], scores: Scores | None, maps: bool) -> Batch:
    """Waits for the call."""
    good = [image for image in read if not image.cause]
    wanted = {}
    if scores:
        fields = (scores.distances, scores.residuals) if maps else (scores.distances,)
        wanted = [field[distance] for field in fields]
    found = [array[: len(good)] for array in jax.device_get(wanted)]
    return Batch(
        tuple(image.path for image in good),
        found[0] if found else np.empty(0, np.float32),
        found[1] if found and maps else None,
        tuple(image.size for image in good),
        tuple(LeftOut(image.path, image.cause) for image in read if image.cause),
    )


def score_folder(
    detector: Detector,
    root: Path,
    output: Path,
    *,
    recursive: bool = True,
    batch_size: int | None = None,
    on_bad_image: str = "error",
    save_maps: bool = False,
    overwrite: bool = False,
) -> Summary:
    """Scores all images of a folder, or those that an earlier start has not.

    Several processes (`multihost.start`) take a share each.

    Args:
      detector: the trained run, with its threshold.
      root: the images' folder.
      output: where the tables go, see the top of this file; made when it is not there.
      recursive: also the images in the folder's folders.
      batch_size: see `scoring_call`.
      on_bad_image: "error", or "skip" to list what cannot be used and go on. A next start tries
        these again.
      save_maps: also write each image's residual map and, where the run has a threshold for it,
        predicted mask, at the image's own size.
      overwrite: throw away what another run left in `output`.

    Returns:
      The counts of the whole table.

    Raises:
      UsageError: a flag cannot work, or `output` is another job's or in another process's hands.
      DataError: no image, one that cannot be used, or a file that cannot be written. The rows
        before it are written.
      CaeError: a distance or a map is not finite. The rows of the batches before are written.
    """
    if on_bad_image not in _ON_BAD_IMAGE:
        raise unknown_name("--on_bad_image", on_bad_image, _ON_BAD_IMAGE)
    at = scoring_call(detector.cell.config, detector.variables, batch_size)
    identity = _identity(detector, root, recursive, save_maps)
    with contextlib.ExitStack() as stack:
        with multihost.together("claim"):
            paths = find(root, recursive, but=output)
            stack.enter_context(lock.hold(output, (jax.process_index(), jax.process_count())))
            if multihost.is_first():
                growing_table.claim(output, identity, overwrite)
        growing_table.check(output, identity)
        with multihost.together("merge"):
            with multihost.together("score"):
                _score_share(detector, at, root, output, paths, on_bad_image, save_maps)
            if multihost.is_first():
                for name in growing_table.COLUMNS:
                    growing_table.merge(output, name)
    rows, left_out = (
        growing_table.rows(output / f"{name}.csv", name) for name in growing_table.COLUMNS
    )
    if not all(path in rows or path in left_out for path in paths):
        raise DataError(f"{output}: not all images are scored yet; the same command goes on")
    defective = sum(row.endswith(",1\n") for row in rows.values())
    return Summary(len(rows), defective, len(left_out))


def _score_share(
    detector: Detector,
    at: ScoringCall,
    root: Path,
    output: Path,
    paths: list[str],
    on_bad_image: str,
    save_maps: bool,
) -> None:
    """Scores what is missing of this process's share, each batch's rows written at once."""
    done = growing_table.rows(output / "scores.csv", "scores").keys()
    mine = multihost.share(paths)
    left = [path for path in mine if path not in done]
    n = jax.process_count()
    part = f".part-{jax.process_index()}-of-{n}" if n > 1 else ""
    threshold = detector.threshold.value
    with (
        growing_table.append_to(output, "scores", part) as scores,
        growing_table.append_to(output, "left_out", part) as left_out,
        Progress("score", len(mine), "images", len(mine) - len(left)) as bar,
        contextlib.closing(scored(at, root, left, save_maps)) as batches,
    ):
        for batch in batches:
            name = at.config.distance
            maps = {} if batch.residuals is None else {name: batch.residuals}
            found = Scores({name: batch.distances}, maps, None)
            scorer.check_finite(found, [str(root / path) for path in batch.paths])
            if save_maps:
                _write_maps(detector, output, batch)
            distances = batch.distances.astype(np.float64)
            p_values = thresholds.p_values(detector.held_out, distances)
            for path, distance, p in zip(batch.paths, distances, p_values, strict=True):
                row = growing_table.row(path, float(distance), float(p), int(distance > threshold))
                scores.write(row)
            for each in batch.left_out:
                left_out.write(growing_table.row(*each))
            scores.flush()
            left_out.flush()
            if batch.left_out and on_bad_image == "error":
                path, cause = batch.left_out[0]
                raise DataError(
                    f"{root / path}: {cause}; --on_bad_image=skip lists what is bad and goes on"
                )
            bar.update(len(batch.paths) + len(batch.left_out))


def _write_maps(detector: Detector, output: Path, batch: Batch) -> None:
    if batch.residuals is None:
        return
    at, opening = detector.map_threshold, detector.cell.config.opening
    for path, size, residual in zip(batch.paths, batch.sizes, batch.residuals, strict=True):
        mask = segmentation.segment(residual, at, opening) if math.isfinite(at) else None
        # With the suffix: two images of a folder may differ in nothing else.
        pictures.write_prediction(output, path, size, residual, mask)


def _identity(detector: Detector, root: Path, recursive: bool, save_maps: bool) -> dict[str, Any]:
    """What two starts must have in common to write the same table."""
    digest = hashlib.sha256(detector.held_out.tobytes())
    for leaf in jax.tree.leaves(detector.variables):
        digest.update(np.asarray(leaf).tobytes())
    config = detector.cell.config
    return {
        "images": os.path.realpath(root),
        "recursive": recursive,
        "save_maps": save_maps,
        "percent": detector.threshold.percent,
        "threshold": detector.threshold.value,
        **{f"--{name}": getattr(config, name) for name in _IDENTITY},
        "weights": digest.hexdigest()[:16],
    }
