"""Training state on disk, trusted only when whole: the only importer of orbax.

A folder of checkpoints holds one folder for each, `3` after three epochs, `3+17` after seventeen
steps more:

    state/         the arrays, by orbax (no pickle: nothing in it is run)
    notes.json     how training went, what it was of, the arrays' shapes
    manifest.json  size and SHA-256 of every other file

It is written beside and renamed when it is whole; what lies there is checked before it is read.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cae_jax import files
from cae_jax.types import DataError, State

KEEP = 2  # the last is resumed from; the one before it stands in when that is damaged
_NAME = re.compile(r"(\d+)(?:\+(\d+))?")
_LEFT_OVER = re.compile(r"\.\d+(\+\d+)?\.(new|old)")  # of a process that was killed
_FULL = os.strerror(errno.ENOSPC)
_STATE, _NOTES, _MANIFEST = "state", "notes.json", "manifest.json"


class Checkpoints:
    """The checkpoints of one run. Reading changes nothing in the folder."""

    def __init__(
        self,
        folder: Path,
        keep: int = KEEP,
        identity: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """Opens `folder`, which is made when something is saved.

        Args:
          folder: of this run alone.
          keep: how many of the last whole epochs stay, 1 or more; the one of the lowest loss
            stays too.
          identity: what training depends on, of JSON's types by name; only a checkpoint with
            the same is read.
        """
        self._folder, self._keep, self._identity = folder, keep, dict(identity)
        self.faults: list[str] = []  # what was wrong with those that `restore` passed over
        self._damaged: set[Path] = set()
        self._writing: Future[None] | None = None
        self._cleared = False
        # One thread of our own, in which orbax does not return before it has written: what
        # follows (manifest, rename, old ones away) has to wait for that.
        self._pool = ThreadPoolExecutor(1, "checkpoints")
        options = _alone()
        handler = ocp.StandardCheckpointHandler(multiprocessing_options=options)
        self._orbax = ocp.Checkpointer(handler, multiprocessing_options=options)

    def save(
        self,
        epoch: int,
        state: State,
        notes: Mapping[str, Any],
        steps: int = 0,
        loss: float = math.nan,
    ) -> None:
        """Saves in the background; waits only for the save before and for a copy of the arrays.

        Args:
          epoch: epochs done.
          state: may be used up when this returns.
          notes: JSON, comes back as it is.
          steps: steps done of the next epoch.
          loss: by which the best is kept; NaN is no candidate.

        Raises:
          DataError: this checkpoint is there already, or the one before could not be written.
        """
        self._wait()
        step = self._folder / (f"{epoch}+{steps}" if steps else f"{epoch}")
        if step.exists() and step not in self._damaged:
            raise DataError(f"{self._folder}: epoch {step.name} is there already, nothing saved")
        found = {"notes": dict(notes), "identity": self._identity, "shapes": _shapes(state)}
        found["loss"] = None if math.isnan(loss) or steps else loss
        host = _on_host(state)
        if jax.process_count() == 1:
            self._writing = self._pool.submit(self._write, step, host, found)
        else:  # in a thread, orbax's processes would wait for one another
            self._write(step, host, found)

    def restore(
        self, template: State, best: bool = False
    ) -> tuple[int, State, dict[str, Any]] | None:
        """Returns (epoch, state, notes) of the last whole checkpoint; None when there is none.

        One whose files are not as they were written is passed over with a warning.

        Args:
          template: a state of the same shapes and types, e.g. a fresh one.
          best: the whole epoch of the lowest loss instead.

        Raises:
          DataError: all are damaged, or it is of another model or run; what differs is named.
        """
        self._wait()
        steps = _steps(self._folder)
        if best:
            steps = sorted(steps[::-1], key=_loss, reverse=True)
        self.faults.clear()
        for step in reversed(steps):
            if fault := _fault(step):
                self._damaged.add(step)
                self.faults.append(fault)
                continue
            for each in self.faults:
                print(f"warning: {each}: checkpoint {step.name} is used", file=sys.stderr)
            epoch = _at(step)[0]
            return epoch, *self._read(step, template)
        if self.faults:
            raise DataError(
                f"{self.faults[0]}; no other checkpoint is whole (--overwrite starts anew)"
            )
        return None

    def close(self) -> None:
        """Waits for what is being written; raises DataError where that fails."""
        try:
            self._wait()
        finally:
            self._pool.shutdown()
            self._orbax.close()

    def __enter__(self) -> Checkpoints:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def _write(self, step: Path, state: State, found: Mapping[str, Any]) -> None:
        new = step.with_name(f".{step.name}.new")
        with _one_line(f"{step}: checkpoint cannot be saved"):
            if not self._cleared:
                _clear(self._folder)
            self._cleared = True
            new.mkdir(parents=True)
            self._orbax.save((new / _STATE).absolute(), args=ocp.args.StandardSave(state))
            files.write_whole(new / _NOTES, json.dumps(found))
            files.write_whole(new / _MANIFEST, _manifest(new))
            _remove(step)  # a damaged one
            new.rename(step)
            self._damaged.discard(step)
            for old in self._not_kept():
                _remove(old)

    def _not_kept(self) -> list[Path]:
        steps = [step for step in _steps(self._folder) if step not in self._damaged]
        epochs = [step for step in steps if _NAME.fullmatch(step.name)[2] is None]
        best = min(epochs, key=_loss, default=steps[-1])
        kept = {*epochs[-self._keep :], steps[-1], *([best] if _loss(best) < math.inf else ())}
        return [*(step for step in steps if step not in kept), *self._damaged]

    def _read(self, step: Path, template: State) -> tuple[State, dict[str, Any]]:
        with _one_line(f"{step}: checkpoint unreadable"):
            found = json.loads((step / _NOTES).read_text("utf-8"))
            notes, saved = found["notes"], found["shapes"]
            before = found["identity"]
        for name in sorted(before.keys() & self._identity.keys()):
            if before[name] != self._identity[name]:
                raise DataError(
                    f"{step}: checkpoint of another run: {name} is {before[name]!r}, not "
                    f"{self._identity[name]!r}"
                )
        # Before the arrays: orbax's own threads leave a trail of exceptions over a wrong shape.
        wanted = _shapes(template)
        for name in sorted(saved.keys() | wanted.keys()):
            was, now = saved.get(name, "absent"), wanted.get(name, "absent")
            if was != now:
                raise DataError(f"{step}: checkpoint of another model: {name} is {was}, not {now}")
        with _one_line(f"{step}: checkpoint unreadable"):
            args = ocp.args.StandardRestore(_on_host(template))
            read = self._orbax.restore((step / _STATE).absolute(), args=args)
        return jax.tree.map(_as_before, template, State(*read)), notes


def last(folder: Path) -> tuple[int, int] | None:
    """Returns (epochs, steps beyond them) of the last checkpoint in a folder, whole or not."""
    steps = _steps(folder)
    return _at(steps[-1]) if steps else None


def _at(step: Path) -> tuple[int, int]:
    """Returns the epochs done at a checkpoint, by its folder's name, and the steps beyond them."""
    epoch, steps = _NAME.fullmatch(step.name).groups()
    return int(epoch), int(steps or 0)


def _steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first, whole or not."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=_at)


def _loss(step: Path) -> float:
    """A checkpoint's loss; infinite where it has none."""
    try:
        loss = json.loads((step / _NOTES).read_text("utf-8"))["loss"]
    except (OSError, ValueError, KeyError, TypeError):
        loss = None
    return math.inf if loss is None else loss


def _manifest(step: Path) -> str:
    sums = {
        path.relative_to(step).as_posix(): [path.stat().st_size, _sha256(path)]
        for path in sorted(step.rglob("*"))
        if path.is_file()
    }
    return json.dumps({"files": sums, "sha256": _digest(sums)}, indent=1)


def _fault(step: Path) -> str:
    """The file of a checkpoint that is not as it was written, and why; empty for a whole one."""
    path = step / _MANIFEST
    try:
        manifest = json.loads(path.read_text("utf-8"))
        if _digest(manifest["files"]) != manifest["sha256"]:
            return f"{path} was altered"
        for name, (size, digest) in manifest["files"].items():
            path = step / name
            if (now := path.stat().st_size) != size:
                return f"{path} has {now} bytes, not {size}"
            if _sha256(path) != digest:
                return f"{path} was altered"
    except FileNotFoundError:
        return f"{path} is missing"
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
    except (ValueError, KeyError, TypeError):
        return f"{path} was altered"
    return ""


def _digest(sums: object) -> str:
    return hashlib.sha256(json.dumps(sums, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _clear(folder: Path) -> None:
    """Takes away what a killed process left half written or half removed."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if _LEFT_OVER.fullmatch(path.name):
            shutil.rmtree(path)


def _remove(step: Path) -> None:
    """Takes a checkpoint away: at any moment it is whole or not there."""
    if step.exists():
        old = step.with_name(f".{step.name}.old")
        step.rename(old)
        shutil.rmtree(old, ignore_errors=True)


def _alone() -> ocp.options.MultiprocessingOptions:
    """Tells orbax that this process saves by itself: others have runs of their own."""
    if jax.process_count() == 1:
        return ocp.options.MultiprocessingOptions()
    me = jax.process_index()
    return ocp.options.MultiprocessingOptions(me, {me}, f"process{me}")


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turns whatever orbax and its layers raise into a DataError of one line."""
    try:
        yield
    except Exception as error:
        cause = (str(error).strip() or type(error).__name__).splitlines()[0]
        if _FULL in cause:  # by the name of a file of orbax's, at length
            cause = _FULL
        raise DataError(f"{what}: {cause}") from error


def _on_host(state: State) -> State:
    """The state as NumPy arrays: where they lay is not part of a checkpoint, and several processes
    may save one each, which orbax does not do with arrays on devices. Copies, for the next step
    takes the buffers while the save goes on."""
    return jax.tree.map(lambda x: np.array(jax.random.key_data(x) if _is_key(x) else x), state)


def _as_before(template: jax.Array, read: np.ndarray) -> jax.Array:
    """What `_on_host` was given, on this process's first device."""
    on_device = jax.device_put(read, jax.local_devices()[0])
    if not _is_key(template):
        return on_device
    return jax.random.wrap_key_data(on_device, impl=jax.random.key_impl(template))


def _is_key(x: jax.Array) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _shapes(state: State) -> dict[str, str]:
    """What a state is made of, e.g. {".variables['params']['kernel']": "float32[3, 3, 1, 8]"}."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}
