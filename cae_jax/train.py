"""Training: crops cut on the device inside the compiled step, an exact course from a seed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cae_jax.augment import cut as crop
from cae_jax.augment import draw
from cae_jax.types import CaeError, Method, Metrics, State, Variables

# Each draws from a stream of its own: more validation crops do not move the training crops.
_TRAIN_STREAM, _VALIDATION_STREAM, _ORDER_STREAM, _REDRAW_STREAM = range(4)


class Schedule(NamedTuple):
    """How long and on what a model trains."""

    epochs: int
    batch_size: int
    num_patches: int  # per epoch; the same crops every epoch, as in the thesis
    patch_size: int
    seed: int
    redraw: bool = False  # new crops every epoch instead
    augment: str = "none"  # of augment.KINDS; validation crops are always plain

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; what is left over differs from epoch to epoch."""
        return self.num_patches // self.batch_size


class Progress(NamedTuple):
    """Where training stands, after an epoch."""

    epoch: int  # epochs done
    state: State
    history: list[dict[str, float]]  # per epoch: epoch, loss, validation_loss (NaN without any)
    seconds: float  # spent training, earlier starts counted in


def default_chunk_size(patch_size: int) -> int | None:
    """Patches whose gradient is taken at a time: see `methods.autoencoder`.

    On a CPU their activations should stay in its cache, so there are fewer of larger ones.
    """
    if jax.default_backend() != "cpu":
        return None
    return max(1, 16 * 128**2 // max(128, patch_size) ** 2)


def draw_crops(
    images: np.ndarray, patch_size: int, n: int, key: tuple[int, ...], kind: str = "none"
) -> np.ndarray:
    """Draws where to crop images [m, H, W, C], of which the shape alone counts: `augment.draw`."""
    return draw(images.shape, patch_size, n, key, kind)


def fit(
    method: Method,
    train: np.ndarray,
    validation: np.ndarray,
    schedule: Schedule,
    start: Progress,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Trains from `start` to the schedule's end; the same start gives the same end, to the bit.

    Args:
      method: what is trained.
      train: good images, float32 [n, H, W, C] in [0, 1].
      validation: images held out, [m, H, W, C]; m may be 0.
      schedule: epochs, batch size, crops, seed.
      start: a fresh state at epoch 0, or what `on_epoch` was given on an earlier start; its
        arrays are used up.
      on_step: called with the steps done in all and the last loss.
      on_epoch: called after each epoch, for checkpoints; must not keep the state's arrays, whose
        buffers the next step takes.

    Returns:
      The last progress.

    Raises:
      CaeError: the loss is not finite; names epoch and step. What `on_epoch` saved stays.
    """
    step, evaluate = compile_steps(method, schedule.patch_size)
    images = jnp.asarray(train)
    held_out = _validation_batches(validation, len(train), schedule)
    progress = start
    for epoch in range(start.epoch + 1, schedule.epochs + 1):
        began = time.perf_counter()
        state, losses = progress.state, []
        for crops in epoch_crops(train, schedule, epoch):
            state, metrics = step(state, images, crops)
            losses.append(float(metrics["loss"]))
            done = (epoch - 1) * schedule.steps_per_epoch + len(losses)
            if not math.isfinite(losses[-1]):
                raise CaeError(
                    f"training stopped: the loss is {losses[-1]} at step {len(losses)} of epoch "
                    f"{epoch}; try a lower --learning_rate"
                )
            on_step(done, losses[-1])
        values = [float(evaluate(state.variables, *batch)["loss"]) for batch in held_out]
        row = {
            "epoch": epoch,
            "loss": float(np.mean(losses)),
            "validation_loss": float(np.mean(values)) if values else math.nan,
            **{name: float(value) for name, value in metrics.items() if name != "loss"},
        }
        seconds = progress.seconds + time.perf_counter() - began
        progress = Progress(epoch, state, [*progress.history, row], seconds)
        on_epoch(progress)
    return progress


@functools.lru_cache
def compile_steps(method: Method, patch_size: int) -> tuple[Callable, Callable]:
    """Returns the jitted (state, images, crops) -> (state, metrics), whose state is donated, and
    the jitted (variables, images, crops) -> metrics; kept, so that runs share what they compile."""

    def train_step(state: State, images: jax.Array, crops: jax.Array) -> tuple[State, Metrics]:
        return method.step(state, crop(images, crops, patch_size))

    def evaluate(variables: Variables, images: jax.Array, crops: jax.Array) -> Metrics:
        return method.evaluate(variables, crop(images, crops, patch_size))

    return jax.jit(train_step, donate_argnums=0), jax.jit(evaluate)


def epoch_crops(images: np.ndarray, schedule: Schedule, epoch: int) -> Iterator[np.ndarray]:
    """Yields an epoch's batches of crops, as `augment.draw` gives them, in the epoch's order."""
    s = schedule
    key = (s.seed, _REDRAW_STREAM, epoch) if s.redraw else (s.seed, _TRAIN_STREAM)
    crops = draw_crops(images, s.patch_size, s.num_patches, key, s.augment)
    order = np.random.default_rng((s.seed, _ORDER_STREAM, epoch)).permutation(s.num_patches)
    for i in range(s.steps_per_epoch):
        yield crops[order[i * s.batch_size : (i + 1) * s.batch_size]]


def _validation_batches(images: np.ndarray, n_train: int, schedule: Schedule) -> list[Any]:
    """Fixed crops of the images held out, in whole batches, as many as is their share."""
    if not len(images):
        return []
    share = schedule.num_patches * len(images) / (len(images) + n_train)
    n = math.ceil(share / schedule.batch_size) * schedule.batch_size
    crops = draw_crops(images, schedule.patch_size, n, (schedule.seed, _VALIDATION_STREAM))
    on_device = jnp.asarray(images)
    return [(on_device, part) for part in np.split(crops, n // schedule.batch_size)]
