"""Scores images on a Ray cluster: the driver's part.

The driver lists the images, sends their paths to a pool of actors in blocks, and writes the rows
that come back. A worker that dies is started again and its blocks with it; Ray Data counts a block
once, whatever it took. Images are read where they are scored, so that nothing but paths and rows
goes through the driver.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow
import ray
import ray.data
import ray.exceptions
from pyarrow import compute

from cae_jax.runs.machine import lock
from cae_jax.runs.machine.progress import Bar, say
from cae_jax.serving import folder
from cae_jax.serving.cluster import places, table
from cae_jax.serving.cluster.places import Listed
from cae_jax.serving.cluster.worker import Task, Worker, judge_of
from cae_jax.serving.detector import Detector
from cae_jax.types import CaeError, DataError, UsageError

_BLOCK = 64  # images that are sent, and lost with a worker, together
_ROWS, _SECONDS = 10_000, 60.0  # of a part of the table, whichever comes first
_COLOR, _LETTERS = re.compile(r"\x1b\[\d*m"), 160  # of Ray's messages
_STORE = 2**28  # bytes: a cluster of this machine alone keeps no more than paths and rows


class Options(NamedTuple):
    """How a cluster is used."""

    address: str = ""  # HOST:PORT or "auto"; "": of RAY_ADDRESS, else a cluster of this machine
    actors: int | None = None  # None: as many as the cluster has CPUs for
    cpus_per_actor: int = 1
    batch_size: int | None = None  # None: what `experiments.score` takes
    recursive: bool = True
    overwrite: bool = False


def score(
    opening: Callable[[], tuple[Detector, Mapping[str, Any]]],
    images: str,
    output: str,
    options: Options | None = None,
) -> folder.Summary:
    """Scores all images of a folder or a bucket, or those that an earlier start has not.

    Args:
      opening: opens the model, and says what two starts have in common whose scores are the same,
        as JSON's plain values. It is called when Ray has started, which forks, as one must not
        where JAX computes. Workers load the model from the same path.
      images: a folder or an image, a path that all machines have or a URI.
      output: where the table goes, see `table`; a path of this machine or a URI.
      options: see `Options`.

    Returns the counts of the whole table.

    Raises:
      UsageError: a flag cannot work, or `output` is another job's or in another process's hands.
      DataError: no image, no cluster, an output that cannot be written, workers that cannot load
        the model. The rows before it are written.
    """
    options = options or Options()
    place = table.at(output)
    local = place.at if isinstance(place.at, Path) else None
    root, listed = listed_in(images, options.recursive, local)
    about = {"engine": "ray", "images": places.shown(root), "recursive": options.recursive}
    with contextlib.ExitStack() as stack:
        if local:
            stack.enter_context(lock.hold(local))
        stack.enter_context(joined(options.address))
        detector, identity = opening()
        table.claim(place, about | dict(identity), options.overwrite)
        left = _left(table.rows(place), listed)
        if left:
            n, done = _actors(options, len(left)), len(listed) - len(left)
            of_model = (*detector.again, judge_of(detector))
            task = Task(*of_model, root, options.cpus_per_actor, options.batch_size)
            said = f"{n} workers load the model and compile the scoring call"
            with Bar("score", len(listed), "images", done, said) as bar:
                _write(place, scored(task, left, n), bar)
        whole = table.finish(place)
    n_left_out = len(whole) - whole.column("error").null_count
    n_defective = compute.sum(whole.column("defective")).as_py() or 0
    return folder.Summary(len(whole) - n_left_out, n_defective, n_left_out)


def listed_in(images: str, recursive: bool, but: Path | None) -> tuple[str, list[Listed]]:
    """Returns what paths are below, and the images of a folder or a URI but those in the folder
    `but`; raises DataError, UsageError."""
    root = places.local(images)
    if root is None:
        return places.images_in(places.opened(images, "images"), images, recursive)
    if not root.exists():
        raise DataError(f"--images={images}: there is no such folder or image")
    alone = root.is_file()
    names = [root.name] if alone else folder.find(root, recursive, but)
    root = Path(os.path.realpath(root.parent if alone else root))
    return str(root), [_about(root, name) for name in names]


def _about(root: Path, name: str) -> Listed:
    try:
        found = os.stat(root / name)
    except OSError:  # reading it says why
        return Listed(name, 0, 0)
    return Listed(name, found.st_size, found.st_mtime_ns)


def _left(rows: pyarrow.Table, listed: list[Listed]) -> list[Listed]:
    """The images that there is no row of, or none of the file that is there now."""
    columns = [rows.column(name).to_pylist() for name in ("path", "bytes", "modified", "error")]
    done = {(path, *of) for path, *of, error in zip(*columns, strict=True) if error is None}
    return [
        each
        for each in listed
        if (table.text(os.fsencode(each.path)), each.bytes, each.modified) not in done
    ]


@contextlib.contextmanager
def joined(address: str) -> Iterator[None]:
    """Joins a cluster, or starts one of this machine, and leaves it.

    Nothing is reported to Ray's makers. What Ray prints (a worker died) is said in brief.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_worker_niceness", "0")  # of a cluster of this machine: as its user's
    of_ray: dict[str, Any] = {"address": address} if address else {}
    if _alone(address):
        of_ray = {"address": "local", "object_store_memory": _STORE, "include_dashboard": False}
    before = signal.getsignal(signal.SIGTERM)  # Ray takes it
    with contextlib.redirect_stdout(_Brief()):
        try:
            with _unheard():
                ray.init(log_to_driver=False, logging_level=logging.ERROR, **of_ray)
        except (RuntimeError, ValueError, OSError) as error:
            where = f"--address={address}" if address else "Ray"
            raise DataError(f"{where}: cannot be used: {places.one_line(error)}") from error
        finally:
            with contextlib.suppress(ValueError):  # in another thread than the main one
                signal.signal(signal.SIGTERM, before)
        try:
            yield
        finally:
            ray.shutdown()


def _alone(address: str) -> bool:
    """Whether the cluster is one of this machine, started here."""
    return not (address or os.environ.get("RAY_ADDRESS"))


class _Brief(io.TextIOBase):
    """Takes Ray's messages, of up to a hundred lines, and says the beginning of the first."""

    def write(self, text: str) -> int:
        first = _COLOR.sub("", text).strip().partition("\n")[0]
        if first:
            say(first[:_LETTERS])
        return len(text)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    """What Ray's C++ writes to standard error in the body is not seen: its log level, always."""
    screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)


def _actors(options: Options, n_images: int) -> int:
    """How many workers there will be."""
    room = sum(
        int(node["Resources"].get("CPU", 0)) // options.cpus_per_actor
        for node in ray.nodes()
        if node["Alive"]
    )
    grows = options.actors is not None and not _alone(options.address)
    if not room and not grows:
        raise UsageError(
            f"--cpus_per_actor={options.cpus_per_actor}: no machine of the cluster has as many"
        )
    if options.actors is None:
        return min(room, n_images)
    if options.actors > room:
        say(f"--actors={options.actors}: the cluster has room for {room} now; others wait for it")
    return min(options.actors, n_images)


def scored(task: Task, images: list[Listed], n_actors: int) -> Iterator[pyarrow.Table]:
    """Yields tables of rows as they come, of images that so many workers score; raises DataError.
    It is to be called in `joined`."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    size = max(1, min(_BLOCK, len(images) // (4 * n_actors)))
    blocks = [_block(images[i : i + size]) for i in range(0, len(images), size)]
    rows = ray.data.from_blocks(blocks).map_batches(
        Worker,
        fn_constructor_args=(task,),
        batch_size=None,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=n_actors),
        num_cpus=task.threads,
    )
    try:
        yield from rows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayError as error:
        raise DataError(f"Ray: {_cause(error)}; the same command goes on") from error


def _block(images: Iterable[Listed]) -> pyarrow.Table:
    return pyarrow.table(
        {
            "path": pyarrow.array([os.fsencode(each.path) for each in images], pyarrow.binary()),
            "modified": pyarrow.array([each.modified for each in images], pyarrow.int64()),
        }
    )


def _cause(error: BaseException) -> str:
    """What a worker failed of, in one line: of what it carries an error of ours, else its own."""
    inside = [error, error.__cause__, getattr(error, "cause", None), *error.args]
    for each in inside[1:]:
        if isinstance(each, CaeError):
            return str(each)
        if isinstance(each, ray.exceptions.RayError):
            return _cause(each)
    return places.one_line(error)


def _write(place: table.Output, found: Iterator[pyarrow.Table], bar: Bar) -> None:
    """Writes rows as they come, in parts; also those that there are when it is interrupted."""
    held: list[pyarrow.Table] = []
    began = time.monotonic()
    try:
        for rows in found:
            held.append(rows)
            bar.update(len(rows))
            if sum(map(len, held)) >= _ROWS or time.monotonic() - began > _SECONDS:
                table.add(place, held)
                held, began = [], time.monotonic()
    finally:
        if held:
            table.add(place, held)
