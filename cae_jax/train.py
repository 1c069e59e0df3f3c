"""Training: crops cut on the device inside the compiled step, an exact course from a seed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from cae_jax.augment import cut as crop
from cae_jax.augment import draw
from cae_jax.members import (
    Plan,
    compile_step,
    place_crops,
    place_images,
    place_state,
    stack,
    unstack,
)
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


class Member(NamedTuple):
    """One of the models that train together."""

    train: np.ndarray  # good images, float32 [n, H, W, C] in [0, 1]
    validation: np.ndarray  # images held out, [m, H, W, C]; m may be 0
    schedule: Schedule  # the same for all of them, but for the seed
    start: Progress  # a fresh state at epoch 0, or what `on_epoch` was given on an earlier start


def fit(
    method: Method,
    train: np.ndarray,
    validation: np.ndarray,
    schedule: Schedule,
    start: Progress,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
    plan: Plan = Plan(),  # noqa: B008 - immutable
) -> Progress:
    """Trains one model, see `fit_members`; raises CaeError where its loss is not finite."""
    member = Member(train, validation, schedule, start)
    (end,) = fit_members(method, [member], plan, on_step, lambda _, at: on_epoch(at))
    if isinstance(end, CaeError):
        raise end
    return end


def fit_members(
    method: Method,
    members: Sequence[Member],
    plan: Plan,
    on_step: Callable[[int, float], None] = lambda step, loss: None,
    on_epoch: Callable[[int, Progress], None] = lambda member, progress: None,
) -> list[Progress | CaeError]:
    """Trains members to their schedule's end; the same start gives the same end, to the bit.

    Args:
      method: what is trained.
      members: what on; the arrays of their starts are used up.
      plan: all at once or one after the other, and on which devices. All plans give the same
        numbers, to float32's rounding.
      on_step: called with the steps that each member has done in all and the mean of their last
        losses; once an epoch where the plan scans.
      on_epoch: called for every member after each of its epochs, for checkpoints; must not keep
        the state's arrays, whose buffers the next step takes.

    Returns:
      The last progress of each member, or why it stopped: a loss that is not finite, naming
      epoch and step. What `on_epoch` saved of it stays, and the other members go on.

    Raises:
      ValueError: members that train together but differ in more than images and seed.
    """
    if plan.stacked:
        return _fit(method, members, plan, on_step, on_epoch)
    ends = []
    for i, member in enumerate(members):
        ends += _fit(method, [member], plan, on_step, lambda _, at, i=i: on_epoch(i, at))
    return ends


def _fit(
    method: Method,
    members: Sequence[Member],
    plan: Plan,
    on_step: Callable[[int, float], None],
    on_epoch: Callable[[int, Progress], None],
) -> list[Progress | CaeError]:
    """`fit_members` for members whose steps are one call."""
    schedule, first = members[0].schedule, members[0].start.epoch
    for member in members:
        same = member.schedule._replace(seed=schedule.seed) == schedule
        if not same or member.start.epoch != first:
            raise ValueError("members that train together share their schedule and start epoch")
    step, evaluate = compile_steps(method, schedule.patch_size, plan)
    images = place_images(np.concatenate([member.train for member in members]), plan)
    held_out = [_validation_batches(member, plan) for member in members]
    states = [member.start.state for member in members]
    state = place_state(stack(states) if plan.stacked else states[0], plan)
    ends: list[Progress | CaeError] = [member.start for member in members]
    for epoch in range(first + 1, schedule.epochs + 1):
        began = time.perf_counter()
        hear = functools.partial(_hear, on_step, (epoch - 1) * schedule.steps_per_epoch)
        state, metrics = _advance(step, state, images, _together(members, epoch), plan, hear)
        states = unstack(state, len(members)) if plan.stacked else [state]
        for i, before in enumerate(ends):
            if isinstance(before, CaeError):
                continue
            of_member = {name: values[:, i] for name, values in metrics.items()}
            if not np.isfinite(of_member["loss"]).all():
                ends[i] = _not_finite(of_member["loss"], epoch)
                continue
            variables = states[i].variables
            losses = jax.device_get([evaluate(variables, *each)["loss"] for each in held_out[i]])
            history = [*before.history, _row(epoch, of_member, losses)]
            seconds = before.seconds + (time.perf_counter() - began) / len(members)
            ends[i] = Progress(epoch, states[i], history, seconds)
            on_epoch(i, ends[i])
        if all(isinstance(end, CaeError) for end in ends):
            break
    return ends


def _advance(
    step: Callable,
    state: State,
    images: jax.Array,
    crops: np.ndarray,
    plan: Plan,
    hear: Callable[[int, np.ndarray], None],
) -> tuple[State, dict[str, np.ndarray]]:
    """An epoch on crops [K, M, B, ...]: the state, and metrics [K, M] on the host, of fewer steps
    where no member's loss was finite any more."""
    if not plan.stacked:
        crops = crops[:, 0]
    if plan.scan:
        state, metrics = step(state, images, place_crops(crops, plan))
        metrics = jax.device_get(metrics)
        hear(len(crops), metrics["loss"][-1])
    else:
        rows = []
        for k in range(len(crops)):
            state, metrics = step(state, images, place_crops(crops[k], plan))
            rows.append(jax.device_get(metrics))
            if not np.isfinite(rows[-1]["loss"]).any():
                break
            hear(k + 1, rows[-1]["loss"])
        metrics = jax.tree.map(lambda *values: np.stack(values), *rows)
    return state, {name: values.reshape(len(values), -1) for name, values in metrics.items()}


def _hear(on_step: Callable[[int, float], None], done: int, k: int, losses: np.ndarray) -> None:
    on_step(done + k, float(np.mean(losses)))


def _not_finite(losses: np.ndarray, epoch: int) -> CaeError:
    k = int(np.argmin(np.isfinite(losses)))
    return CaeError(
        f"training stopped: the loss is {losses[k]} at step {k + 1} of epoch {epoch}; try a lower "
        "--learning_rate"
    )


def _row(epoch: int, metrics: dict[str, np.ndarray], validation: list[np.ndarray]) -> dict:
    """What the history keeps of an epoch: metrics [K] of its steps, losses of validation."""
    return {
        "epoch": epoch,
        "loss": float(np.mean(metrics["loss"], dtype=np.float64)),
        "validation_loss": float(np.mean(validation, dtype=np.float64)) if validation else math.nan,
        **{name: float(values[-1]) for name, values in metrics.items() if name != "loss"},
    }


@functools.lru_cache
def compile_steps(
    method: Method,
    patch_size: int,
    plan: Plan = Plan(),  # noqa: B008 - immutable
) -> tuple[Callable, Callable]:
    """Returns the jitted (state, images, crops) -> (state, metrics) of `members.compile_step`, and
    the jitted (variables, images, crops) -> metrics; kept, so that runs share what they compile."""

    def evaluate(variables: Variables, images: jax.Array, crops: jax.Array) -> Metrics:
        return method.evaluate(variables, crop(images, crops, patch_size))

    return compile_step(method, patch_size, plan), jax.jit(evaluate)


def _together(members: Sequence[Member], epoch: int) -> np.ndarray:
    """An epoch's crops of all members, [K, M, B, ...], of the members' images in one array."""
    each, offset = [], 0
    for member in members:
        crops = np.stack(list(epoch_crops(member.train, member.schedule, epoch)))
        crops[..., 0] += offset
        offset += len(member.train)
        each.append(crops)
    return np.stack(each, axis=1)


def epoch_crops(images: np.ndarray, schedule: Schedule, epoch: int) -> Iterator[np.ndarray]:
    """Yields an epoch's batches of crops, as `augment.draw` gives them, in the epoch's order."""
    s = schedule
    key = (s.seed, _REDRAW_STREAM, epoch) if s.redraw else (s.seed, _TRAIN_STREAM)
    crops = draw_crops(images, s.patch_size, s.num_patches, key, s.augment)
    order = np.random.default_rng((s.seed, _ORDER_STREAM, epoch)).permutation(s.num_patches)
    for i in range(s.steps_per_epoch):
        yield crops[order[i * s.batch_size : (i + 1) * s.batch_size]]


def _validation_batches(member: Member, plan: Plan) -> list[Any]:
    """Fixed crops of the images held out, in whole batches, as many as is their share."""
    images, schedule = member.validation, member.schedule
    if not len(images):
        return []
    share = schedule.num_patches * len(images) / (len(images) + len(member.train))
    n = math.ceil(share / schedule.batch_size) * schedule.batch_size
    crops = draw_crops(images, schedule.patch_size, n, (schedule.seed, _VALIDATION_STREAM))
    on_device = place_images(images, plan)
    return [
        (on_device, place_images(part, plan)) for part in np.split(crops, n // schedule.batch_size)
    ]
