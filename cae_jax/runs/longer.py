"""A run trained on: more epochs than it was begun with, from its last checkpoint.

The epochs before are those of a longer run, to the bit, unless its steps go by the number of epochs
(a learning rate that falls towards the end, phases): then there is nothing to go on with.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import jax
import numpy as np

from cae_jax.runs.config import Config
from cae_jax.training import checkpoints
from cae_jax.types import Steps, UsageError

_ADDRESS = re.compile(r"0x[0-9a-f]+")


def check(folder: Path, before: Config, now: Config) -> None:
    """Raises UsageError where a run with other epochs cannot be had of the one in a folder.

    Args:
      folder: of the cell.
      before: what it was begun with.
      now: the same run but for its epochs.
    """
    was, wanted = before.options.epochs, now.options.epochs
    epoch, steps = checkpoints.last(folder / "checkpoints") or (0, 0)
    done = epoch + (steps > 0)
    asks = f"{folder} holds a run with --epochs={was}, now {wanted}"
    if wanted < done:
        raise UsageError(
            f"{asks}: {done} are done, and fewer cannot be had of them; take another --workdir, or "
            "--overwrite"
        )
    if _program(before) != _program(now):
        raise UsageError(
            f"{asks}: what a step of {now.title} does goes by the number of epochs (its learning "
            "rate or its phases), so that a longer run is another one from the start; take another "
            "--workdir, or --overwrite"
        )


def is_longer(before: Config, now: Config) -> bool:
    """Whether a run of the flags now has epochs to do that one of those before has not."""
    was, wanted = (getattr(each.options, "epochs", 0) for each in (before, now))
    return before.method == now.method and was < wanted


def _program(config: Config) -> str:
    """A training step as JAX sees it, with the numbers in it."""
    learn = config.build().learn
    assert isinstance(learn, Steps)
    state = jax.eval_shape(learn.init, jax.random.key(0, impl="rbg"))
    p, c = learn.patch_size, config.channels
    crops = jax.ShapeDtypeStruct((config.options.batch_size, p, p, c), np.float32)
    made = jax.make_jaxpr(learn.step)(state, crops)
    numbers = [hashlib.sha256(np.asarray(each).tobytes()).hexdigest() for each in made.consts]
    return _ADDRESS.sub("", str(made.jaxpr)) + " ".join(numbers)
