"""Images of any number, decoded and scored in bounded memory.

Images are decoded by threads, in order and only a few batches ahead of the one compiled call.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cae_jax.data import images
from cae_jax.data.frame import Frame
from cae_jax.runs import build
from cae_jax.runs.config import Config
from cae_jax.scoring import scorer, strips
from cae_jax.serving.ahead import in_order
from cae_jax.types import DataError, LeftOut, Scores, UsageError, Variables

_THREADS = min(16, os.cpu_count() or 1)


class ScoringCall(NamedTuple):
    """A model's scoring call on every device of this process, compiled for one batch size."""

    config: Config
    frame: Frame  # that images are brought to
    variables: Variables  # on every device
    call: scorer.Scorer
    sharding: NamedSharding  # of images, along their batch axis
    batch_size: int
    strips: strips.StripScorer | None  # of images of other sizes, where these can be scored


class Stamp(NamedTuple):
    """Which file it was."""

    bytes: int
    modified: int  # nanoseconds since 1970
    sha256: str

    def still(self, file: str | os.PathLike[str]) -> bool:
        """Whether a file is this one: of its size and time, or else of its content; False where it
        cannot be read."""
        try:
            now = os.stat(file)
            if (now.st_size, now.st_mtime_ns) == self[:2]:
                return True
            return now.st_size == self.bytes and _digest(file) == self.sha256
        except OSError:
            return False


class Batch(NamedTuple):
    """What came of some images that follow each other in the list."""

    paths: tuple[str, ...]  # those that were scored, n
    stamps: tuple[Stamp, ...]  # of their files
    distances: np.ndarray  # float32 [n], by the config's --distance
    residuals: np.ndarray | None  # float32 [n, H, W], where asked for
    sizes: tuple[tuple[int, int], ...]  # (height, width) of each file
    left_out: tuple[LeftOut, ...]


def scoring_call(
    config: Config,
    variables: Variables,
    batch_size: int | None = None,
    frame: Frame | None = None,
) -> ScoringCall:
    """Returns the scoring call of a model, split over all devices of this process.

    Args:
      config: of the model.
      variables: its parameters.
      batch_size: images per call, rounded up to a multiple of the number of devices; None takes
        `scorer.default_batch_size` for each.
      frame: that images are brought to; None takes the config's.

    Raises:
      UsageError: a batch size below 1.
    """
    devices = jax.local_devices()
    if batch_size is None:
        batch_size = scorer.default_batch_size() * len(devices)
    if batch_size < 1:
        raise UsageError(f"--batch_size={batch_size}: must be at least 1")
    call = build.scoring_call(config)
    mesh = Mesh(np.array(devices), ("batch",))
    whole, split = PartitionSpec(), PartitionSpec("batch")
    if len(devices) > 1:
        # Mapped, not left to the partitioner: it would gather all patches for every chunk of them.
        call = jax.jit(jax.shard_map(call, mesh=mesh, in_specs=(whole, split), out_specs=split))
    return ScoringCall(
        config,
        frame or config.frame,
        jax.device_put(variables, NamedSharding(mesh, whole)),
        call,
        NamedSharding(mesh, split),
        -(-batch_size // len(devices)) * len(devices),
        build.strip_scorer(config),
    )


class _Image(NamedTuple):
    path: str
    pixels: np.ndarray | None  # float32 [H, W, C]
    size: tuple[int, int]
    stamp: Stamp | None
    cause: str  # why there are no pixels


def _read(root: Path, path: str, frame: Frame) -> _Image:
    file = os.path.join(root, path)
    try:
        before = _times(file)
        pixels = images.seen(file, frame)
        size = images.size(file)
        stamp = Stamp(*before, _digest(file))
        if _times(file) != before:  # it would be judged by what it was
            return _Image(path, None, (0, 0), None, "was written to while it was read")
        return _Image(path, pixels, size, stamp, "")
    except DataError as error:
        return _Image(path, None, (0, 0), None, str(error).removeprefix(f"{file!r}: "))


def _times(file: str) -> tuple[int, int]:
    """Size and time of change; of what is not there, whatever: decoding it says why."""
    try:
        found = os.stat(file)
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _digest(file: str | os.PathLike[str]) -> str:
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def decoded(root: Path, paths: Iterable[str], frame: Frame, ahead: int) -> Iterator[_Image]:
    """Decodes images in threads (Pillow releases the GIL) and yields them in the order of `paths`.

    At most `ahead` images are decoded, or being decoded, before they are asked for.
    """
    read = functools.partial(_read, root, frame=frame)
    return in_order(read, paths, ahead, _THREADS)


def scored(
    at: ScoringCall, root: Path, paths: Iterable[str], maps: bool = False
) -> Generator[Batch, None, None]:
    """Decodes and scores images in the order of `paths`, `at.batch_size` of them a batch.

    Decoding runs ahead by two batches, and while a batch is computed the next one is put
    together: whatever the number of images, at most five batches and a thread's image each are
    in memory. A batch with images that cannot be used, or the last one, is filled up with copies.

    Args:
      at: the model.
      root: the images' folder.
      paths: of the images, relative to it.
      maps: also bring the residual maps.
    """
    ahead = 2 * at.batch_size + _THREADS
    frame = dataclasses.replace(at.frame, image_size=None) if at.strips else at.frame
    stream = decoded(root, paths, frame, ahead)
    before = None
    while read := list(itertools.islice(stream, at.batch_size)):
        for image in [image for image in read if at.strips and _is_strip(image, at.frame)]:
            yield _strip(at, image, maps)
            read.remove(image)
        now = _begin(at, read)
        del read  # the pixels; the device has its copy
        if before:
            yield _end(at.config.distance, *before, maps)
        before = now
    if before:
        yield _end(at.config.distance, *before, maps)


def _is_strip(image: _Image, frame: Frame) -> bool:
    return image.pixels is not None and image.pixels.shape[:2] != frame.size


def _strip(at: ScoringCall, image: _Image, maps: bool) -> Batch:
    """An image of another size than the model's, by itself."""
    assert at.strips
    assert image.pixels is not None
    assert image.stamp
    name = at.config.distance
    try:
        found = at.strips(at.variables, image.pixels)
    except DataError as error:
        cause = LeftOut(image.path, str(error))
        return Batch((), (), np.empty(0, np.float32), None, (), (cause,))
    residuals = found.residuals[name] if maps else None
    of = (found.distances[name], residuals, (image.size,))
    return Batch((image.path,), (image.stamp,), *of, ())


def _begin(at: ScoringCall, read: list[_Image]) -> tuple[list[_Image], Scores[jax.Array] | None]:
    """Starts the call and does not wait for it; the images come back without their pixels."""
    pixels = [image.pixels for image in read if image.pixels is not None]
    bare = [image._replace(pixels=None) for image in read]
    if not pixels:
        return bare, None
    filled = np.stack(pixels + pixels[-1:] * (at.batch_size - len(pixels)))
    return bare, at.call(at.variables, jax.device_put(filled, at.sharding))


def _end(distance: str, read: list[_Image], scores: Scores[jax.Array] | None, maps: bool) -> Batch:
    """Waits for the call."""
    good = [image for image in read if not image.cause]
    wanted: list[jax.Array] = []
    if scores:
        fields = (scores.distances, scores.residuals) if maps else (scores.distances,)
        wanted = [field[distance] for field in fields]
    found = [array[: len(good)] for array in jax.device_get(wanted)]
    return Batch(
        tuple(image.path for image in good),
        tuple(image.stamp for image in good if image.stamp),
        found[0] if found else np.empty(0, np.float32),
        found[1] if found and maps else None,
        tuple(image.size for image in good),
        tuple(LeftOut(image.path, image.cause) for image in read if image.cause),
    )
