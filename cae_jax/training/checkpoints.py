"""Training state on disk, trusted only when whole: the only importer of orbax.

A folder of checkpoints holds one folder for each, `3` after three epochs, `3+17` after seventeen
steps more:

    variables/     what scoring needs, by orbax (no pickle: nothing in it is run)
    rest/          step, key, optimiser: what training needs besides; not there after a fit
    notes.json     how training went, what it was of, the arrays' shapes
    manifest.json  size and SHA-256 of every other file

The variables describe themselves. Earlier versions wrote one folder, state/, for all; it is still
read. A checkpoint is written beside and renamed when it is whole, and checked before it is read.
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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp

from cae_jax import files
from cae_jax.types import DataError, State, Variables

T = TypeVar("T")

KEEP = 2  # the last is resumed from; the one before it stands in when that is damaged
_NAME = re.compile(r"\d+(\+\d+)?")
_LEFT_OVER = re.compile(r"\.\d+(\+\d+)?\.(new|old)")  # of a process that was killed
_FULL = os.strerror(errno.ENOSPC)
_VARIABLES, _REST, _STATE = "variables", "rest", "state"
_NOTES, _MANIFEST = "notes.json", "manifest.json"
FROZEN = "frozen"  # the collection of pretrained weights, which are not saved


class Restored(NamedTuple, Generic[T]):
    """What a checkpoint holds."""

    epoch: int  # epochs done
    held: T
    notes: dict[str, Any]


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
          folder: of this run alone; DataError for a name that orbax cannot take, not UTF-8.
          keep: how many of the last whole epochs stay, 1 or more; the one of the lowest loss
            stays too.
          identity: what training depends on, of JSON's types by name; only a checkpoint with
            the same is read.
        """
        if fault := files.not_utf8(folder):
            raise DataError(f"{str(folder)!r}: {fault}")
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
        state: State | Variables,
        notes: Mapping[str, Any],
        steps: int = 0,
        loss: float = math.nan,
    ) -> None:
        """Saves in the background; waits only for the save before and for a copy of the arrays.

        Args:
          epoch: epochs done.
          state: may be used up when this returns; the variables alone where learning is over in
            one pass.
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
        parts = _parts(state)
        found: dict[str, Any] = {"notes": dict(notes), "identity": self._identity}
        found["shapes"] = {name: _shapes(part) for name, part in parts.items()}
        found["loss"] = None if math.isnan(loss) or steps else loss
        host = {name: _on_host(part) for name, part in parts.items()}
        if jax.process_count() == 1:
            self._writing = self._pool.submit(self._write, step, host, found)
        else:  # in a thread, orbax's processes would wait for one another
            self._write(step, host, found)

    def restore(self, template: State, best: bool = False) -> Restored[State] | None:
        """Returns what the last whole checkpoint holds, to train on; None when there is none.

        One whose files are not as they were written is passed over with a warning.

        Args:
          template: a state of the same shapes and types, e.g. a fresh one.
          best: the whole epoch of the lowest loss instead.

        Raises:
          DataError: all are damaged, or it is of another model or run; what differs is named.
        """
        return self._read(best, lambda step, found: self._state(step, found, template))

    def restore_variables(
        self, expected: Variables | None = None, best: bool = False
    ) -> Restored[Variables] | None:
        """Returns the variables alone, as the checkpoint describes them; else as `restore`.

        `expected`, of shapes or arrays, is what they are compared with.
        """
        return self._read(best, lambda step, found: self._variables(step, found, expected))

    def _choose(self, best: bool) -> Path | None:
        """The last whole checkpoint, or the best one; None when there is none."""
        self._wait()
        steps = _steps(self._folder)
        if best and any(_loss(step) < math.inf for step in steps):
            steps = sorted(steps[::-1], key=_loss, reverse=True)
        self.faults.clear()
        for step in reversed(steps):
            if fault := _fault(step):
                self._damaged.add(step)
                self.faults.append(fault)
                continue
            for each in self.faults:
                print(f"warning: {each}: checkpoint {step.name} is used", file=sys.stderr)
            return step
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

    def _write(self, step: Path, parts: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        new = step.with_name(f".{step.name}.new")
        with _one_line(f"{step}: checkpoint cannot be saved"):
            if not self._cleared:
                _clear(self._folder)
            self._cleared = True
            new.mkdir(parents=True)
            for name, part in parts.items():
                self._orbax.save((new / name).absolute(), args=ocp.args.StandardSave(part))
            files.write_whole(new / _NOTES, json.dumps(found))
            files.write_whole(new / _MANIFEST, _manifest(new))
            _remove(step)  # a damaged one
            files.replace(new, step)
            self._damaged.discard(step)
            for old in self._not_kept():
                _remove(old)

    def _not_kept(self) -> list[Path]:
        steps = [step for step in _steps(self._folder) if step not in self._damaged]
        epochs = [step for step in steps if "+" not in step.name]
        best = min(epochs, key=_loss, default=steps[-1])
        kept = {*epochs[-self._keep :], steps[-1], *([best] if _loss(best) < math.inf else ())}
        return [*(step for step in steps if step not in kept), *self._damaged]

    def _read(self, best: bool, read: Callable[[Path, dict[str, Any]], T]) -> Restored[T] | None:
        step = self._choose(best)
        if step is None:
            return None
        with _one_line(f"{step}: checkpoint unreadable"):
            found = json.loads((step / _NOTES).read_text(encoding="utf-8"))
            notes, before = found["notes"], found["identity"]
        for name in sorted(before.keys() & self._identity.keys()):
            if before[name] != self._identity[name]:
                raise DataError(
                    f"{step}: checkpoint of another run: {name} is {before[name]!r}, not "
                    f"{self._identity[name]!r}"
                )
        return Restored(_at(step)[0], read(step, found), notes)

    def _state(self, step: Path, found: dict[str, Any], template: State) -> State:
        if (step / _STATE).exists():  # as earlier versions wrote it
            _same_shapes(step, found["shapes"], template)
            return jax.tree.map(_as_before, template, State(*self._load(step / _STATE, template)))
        parts = _parts(template)
        for name, part in parts.items():
            _same_shapes(step, found["shapes"].get(name, {}), part)
        read = {name: self._load(step / name, part) for name, part in parts.items()}
        state = State(*read[_REST])._replace(variables=read[_VARIABLES])
        state = jax.tree.map(_as_before, template._replace(variables=parts[_VARIABLES]), state)
        return state._replace(variables=template.variables | state.variables)  # what is frozen

    def _variables(self, step: Path, found: dict[str, Any], expected: Variables | None) -> Any:
        shapes, old = found["shapes"], (step / _STATE).exists()
        if old:
            mine = [name for name in shapes if name.startswith(".variables")]
            shapes = {_VARIABLES: {name.removeprefix(".variables"): shapes[name] for name in mine}}
        if expected is not None:
            _same_shapes(step, shapes[_VARIABLES], _parts(expected)[_VARIABLES])
        read = self._load(step / (_STATE if old else _VARIABLES))
        return jax.device_put(read["variables"] if old else read, jax.local_devices()[0])

    def _load(self, folder: Path, template: Any = None) -> Any:
        """Arrays on the host: in the template's shape, or nested dicts as they were saved."""
        with _one_line(f"{folder.parent}: checkpoint unreadable"):
            args = ocp.args.StandardRestore(None if template is None else _on_host(template))
            return self._orbax.restore(folder.absolute(), args=args)


def _parts(state: State | Variables) -> dict[str, Any]:
    """What is saved, by the name of its folder."""
    variables = state.variables if isinstance(state, State) else state
    saved = {name: tree for name, tree in variables.items() if name != FROZEN}
    rest = {_REST: state._replace(variables={})} if isinstance(state, State) else {}
    return {_VARIABLES: saved, **rest}


def _same_shapes(step: Path, saved: Mapping[str, str], template: Any) -> None:
    """Raises DataError for the first array that differs: before they are read, for orbax's own
    threads leave a trail of exceptions over a wrong shape."""
    wanted = _shapes(template)
    for name in sorted(saved.keys() | wanted.keys()):
        was, now = saved.get(name, "absent"), wanted.get(name, "absent")
        if was != now:
            raise DataError(f"{step}: checkpoint of another model: {name} is {was}, not {now}")


def last(folder: Path) -> tuple[int, int] | None:
    """Returns (epochs, steps beyond them) of the last checkpoint in a folder, whole or not."""
    steps = _steps(folder)
    return _at(steps[-1]) if steps else None


def _at(step: Path) -> tuple[int, int]:
    """Returns the epochs done at a checkpoint, by its folder's name, and the steps beyond them."""
    epoch, _, steps = step.name.partition("+")
    return int(epoch), int(steps or 0)


def _steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first, whole or not."""
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted((path for path in found if _NAME.fullmatch(path.name)), key=_at)


def _loss(step: Path) -> float:
    """A checkpoint's loss; infinite where it has none."""
    try:
        loss = json.loads((step / _NOTES).read_text(encoding="utf-8"))["loss"]
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
        manifest = json.loads(path.read_text(encoding="utf-8"))
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
        files.replace(step, old)
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


def _on_host(tree: T) -> T:
    """A state or a part of it as NumPy arrays: where they lay is not part of a checkpoint, and
    several processes may save one each, which orbax does not do with arrays on devices. Copies, for
    the next step takes the buffers while the save goes on."""
    return jax.tree.map(lambda x: np.array(jax.random.key_data(x) if _is_key(x) else x), tree)


def _as_before(template: jax.Array, read: np.ndarray) -> jax.Array:
    """What `_on_host` was given, on this process's first device."""
    on_device = jax.device_put(read, jax.local_devices()[0])
    if not _is_key(template):
        return on_device
    return jax.random.wrap_key_data(on_device, impl=jax.random.key_impl(template))


def _is_key(x: jax.Array) -> bool:
    return jax.numpy.issubdtype(x.dtype, jax.dtypes.prng_key)


def _shapes(tree: Any) -> dict[str, str]:
    """What a tree is made of, e.g. {"['params']['kernel']": "float32[3, 3, 1, 8]"}."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): f"{x.dtype}{list(x.shape)}" for path, x in leaves}
