"""What runs in an actor: a model that is loaded once, and blocks of images to be scored.

A worker has so many threads as it was given CPUs, for reading as for computing: workers beside
each other on a machine would else all take the whole of it. An image is scored in a batch of the
size that `experiments.score` takes: as many threads of the same machine give the same bits.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
import socket
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow

from cae_jax.data import images
from cae_jax.serving.ahead import in_order
from cae_jax.serving.cluster import places, table
from cae_jax.serving.detector import Detector, Verdict
from cae_jax.types import CaeError, DataError


class Task(NamedTuple):
    """What a worker is to know."""

    load: Callable[..., Detector]  # and its arguments: what loads the model on any machine
    arguments: dict[str, Any]
    judge: str  # `judge_of` the driver's model
    root: str  # that paths are below: a folder's path, or a URI
    threads: int
    batch_size: int | None


class _Read(NamedTuple):
    path: bytes  # as the system has it
    modified: int
    size: int = 0
    sha256: str = ""
    content: bytes = b""  # of an image that may have any size
    pixels: np.ndarray | None = None
    cause: str = ""


class Worker:
    """Scores blocks of paths; the class of an actor."""

    def __init__(self, task: Task) -> None:
        """Loads the model; raises what loading it raises, and DataError where this machine has
        another one under its name."""
        # before the libraries are imported that read them: XLA, and ONNX Runtime here
        os.environ["NPROC"] = os.environ["OMP_NUM_THREADS"] = str(task.threads)
        detector = task.load(**task.arguments)
        if judge_of(detector) != task.judge:
            where = task.arguments.get("workdir") or task.arguments["folder"]
            raise DataError(
                f"{where}: on {socket.gethostname()} is another model than the job was started with"
            )
        self._detector = dataclasses.replace(detector, many=_many(detector, task.batch_size))
        self._task = task
        self._store = None if places.local(task.root) else places.opened(task.root, "images")

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        """Scores images, `path` binary and `modified` int64; returns a table of `table.SCHEMA`."""
        paths, modified = (block.column(name).to_pylist() for name in ("path", "modified"))
        threads, many = self._task.threads, self._detector.many
        reads = in_order(self._read, zip(paths, modified, strict=True), many + threads, threads)
        rows: list[dict[str, Any]] = []
        while group := list(itertools.islice(reads, many)):
            rows += self._rows(group)
        return pyarrow.Table.from_pylist(rows, table.SCHEMA)

    def _read(self, of: tuple[bytes, int]) -> _Read:
        """Reads and decodes an image."""
        name, frame = os.fsdecode(of[0]), self._detector.model.frame
        try:
            content = self._content(name)
            read = _Read(*of, len(content), hashlib.sha256(content).hexdigest())
        except OSError as error:
            return _Read(*of, cause=f"cannot be read: {error.strerror or places.one_line(error)}")
        if self._detector.strips:  # of any size: decoded where it is scored
            return read._replace(content=content)
        try:
            return read._replace(pixels=images.seen(content, frame, name))
        except DataError as error:
            return read._replace(cause=_cause(error, name))

    def _content(self, path: str) -> bytes:
        if self._store:
            return self._store.read(path)
        with open(os.path.join(self._task.root, path), "rb") as file:
            return file.read()

    def _rows(self, group: list[_Read]) -> list[dict[str, Any]]:
        """The rows of some images, in their order."""
        several = [read for read in group if read.pixels is not None]
        judged = dict(zip((read.path for read in several), self._together(several), strict=True))
        return [_row(read, judged.get(read.path) or self._alone(read)) for read in group]

    def _together(self, several: list[_Read]) -> list[Verdict | str]:
        """The verdicts of decoded images, or why there is none."""
        if not several:
            return []
        names = [os.fsdecode(read.path) for read in several]
        pixels = np.stack([read.pixels for read in several if read.pixels is not None])
        try:
            return list(self._detector.verdicts(pixels, names))
        except CaeError as error:  # one of them has no finite score
            if len(several) == 1:
                return [_cause(error, names[0])]
        return [found for each in several for found in self._together([each])]

    def _alone(self, read: _Read) -> Verdict | str:
        """The verdict of an image that was not decoded, or why there is none."""
        if read.cause:
            return read.cause
        try:
            return self._detector.score(read.content)
        except CaeError as error:
            return _cause(error, "<bytes>")


def judge_of(detector: Detector) -> str:
    """Returns what two copies of one model have in common: its version, its threshold, and a digest
    of the scores of unseen images, which say by which weights they were made."""
    judge = detector.judge
    unseen = hashlib.sha256(judge.held_out.tobytes()).hexdigest()[:16]
    return f"{detector.model.version} {judge.threshold.value!r} {unseen}"


def _many(detector: Detector, batch_size: int | None) -> int:
    """Images of a call: as many as `experiments.score` takes."""
    if batch_size is not None or detector.model.runtime != "jax":
        return batch_size or 1
    from cae_jax.scoring import scorer  # brings JAX

    return scorer.default_batch_size()


def _row(read: _Read, found: Verdict | str) -> dict[str, Any]:
    row: dict[str, Any] = {"path": table.text(read.path), "modified": read.modified}
    row |= {"bytes": read.size, "sha256": read.sha256}
    if isinstance(found, str):
        return row | {"error": found}
    p_value = found.p_value if found.p_value == found.p_value else None
    return row | {"distance": found.distance, "p_value": p_value, "defective": found.defective}


def _cause(error: CaeError, name: str) -> str:
    """What an error says of an image, without its name."""
    said = str(error)
    for begin in (f"{name!r}: ", f"{name}: ", "the image: "):
        said = said.removeprefix(begin)
    return said
