"""Training state on disk, whole or absent: the only importer of orbax."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from cae_jax.types import DataError, State

_KEEP = 2  # the last is resumed from; the one before it outlives a fault while the last is written


class Checkpoints:
    """The checkpoints of one run, a step per finished epoch."""

    def __init__(self, folder: pathlib.Path) -> None:
        """Opens `folder`, made when it is not there; half-written steps are cleared away."""
        options = ocp.CheckpointManagerOptions(max_to_keep=_KEEP, cleanup_tmp_directories=True)
        self._manager = ocp.CheckpointManager(folder.absolute(), options=options)
        self._folder = folder

    def save(self, epoch: int, state: State, notes: dict[str, Any]) -> None:
        """Saves after `epoch` epochs, in the background; `notes` is JSON (the history, seconds)."""
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(state), notes=ocp.args.JsonSave(notes)
        )
        if not self._manager.save(epoch, args=items):
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
        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
        items = ocp.args.Composite(
            state=ocp.args.StandardRestore(target), notes=ocp.args.JsonRestore()
        )
        try:
            found = self._manager.restore(epoch, args=items)
        except Exception as error:  # orbax raises whatever its layers raise, see its issue tracker
            cause = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise DataError(
                f"{self._folder / str(epoch)}: checkpoint unreadable: {cause}"
            ) from error
        return epoch, State(*found["state"]), found["notes"]

    def close(self) -> None:
        """Waits for what is being written."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes."""
        self.close()
