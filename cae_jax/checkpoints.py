"""Training state on disk, whole or absent: the only importer of orbax."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from cae_jax.types import DataError, State

_KEEP = 2  # the last is resumed from; the one before it outlives a fault while the last is written


class Checkpoints:
    """The checkpoints of one run, a step per finished epoch."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Opens `folder`, made when it is not there; half-written steps are cleared away."""
        options = ocp.CheckpointManagerOptions(
            max_to_keep=_KEEP,
            cleanup_tmp_directories=True,
            create=False,
            multiprocessing_options=_alone(),
            # in the background, orbax's processes wait for signals of one another
            enable_async_checkpointing=jax.process_count() == 1,
        )
        folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        self._folder = folder

    def save(self, epoch: int, state: State, notes: dict[str, Any]) -> None:
        """Saves after `epoch` epochs, in the background; `notes` is JSON (the history, seconds)."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(_on_host(state)),
            notes=ocp.args.JsonSave({"notes": notes, "shapes": _shapes(state)}),
        )
        with _one_line(f"{self._folder}: epoch {epoch} cannot be saved"):
            saved = self._manager.save(epoch, args=items)
        if not saved:
            raise DataError(f"{self._folder}: epoch {epoch} is there already, nothing was saved")

    def restore(self, template: State) -> tuple[int, State, dict[str, Any]] | None:
        """Returns the last (epoch, state, notes), or None when nothing was saved.

        Args:
          template: a state of the same shapes and types, e.g. a fresh one.

        Raises:
          DataError: the checkpoint cannot be read, or is of another model.
        """
        epoch = self._manager.latest_step()
        if epoch is None:
            return None
        step = self._folder / str(epoch)
        found = self._read(step, notes=ocp.args.JsonRestore())["notes"]
        if not (isinstance(found, dict) and {"notes", "shapes"} <= found.keys()):
            raise DataError(f"{step}: checkpoint of another version: no notes and shapes in it")
        # Before the arrays: orbax's own threads leave a trail of exceptions over a wrong shape.
        saved, wanted = found["shapes"], _shapes(template)
        for name in sorted(saved.keys() | wanted.keys()):
            was, now = saved.get(name, "absent"), wanted.get(name, "absent")
            if was != now:
                raise DataError(f"{step}: checkpoint of another model: {name} is {was}, not {now}")
        read = self._read(step, state=ocp.args.StandardRestore(_on_host(template)))["state"]
        return epoch, jax.tree.map(_as_before, template, State(*read)), found["notes"]

    def _read(self, step: pathlib.Path, **items: Any) -> Any:
        with _one_line(f"{step}: checkpoint unreadable"):
            return self._manager.restore(int(step.name), args=ocp.args.Composite(**items))

    def close(self) -> None:
        """Waits for what is being written."""
        with _one_line(f"{self._folder}: the last checkpoint cannot be saved"):
            self._manager.wait_until_finished()
            self._manager.close()

    def __enter__(self) -> Checkpoints:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()


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
