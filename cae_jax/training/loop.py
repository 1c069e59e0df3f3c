"""Training: crops cut on the device inside the compiled step, an exact course from a seed."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cae_jax.training.crops import cut as crop
from cae_jax.training.crops import draw
from cae_jax.training.members import (
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
    """Where training stands."""

    epoch: int  # epochs done
    state: State
    history: list[dict[str, float]]  # per epoch: epoch, loss, validation_loss (NaN without any)
    seconds: float  # spent training, earlier starts counted in
    partial: dict[str, list[float]] | None = None  # of steps done of the next epoch, their metrics

    @property
    def steps(self) -> int:
        """Steps done of the next epoch, where training was stopped in its midst."""
        return len(self.partial["loss"]) if self.partial else 0


def fresh_state(method: Method, seed: int) -> State:
    """Returns the state that training with `seed` starts from."""
    # rbg: with threefry, compiling the initialisation takes several times longer on a CPU
    return jax.jit(method.init)(jax.random.key(seed, impl="rbg"))


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
    stop: Callable[[], bool] = lambda: False,
    on_stop: Callable[[int, Progress], None] = lambda member, progress: None,
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
      stop: asked after every step (epoch, where the plan scans); True ends training there, and
        stays True.
      on_stop: called in place of `on_epoch` for every member that was stopped: a start from
        what it is given ends as if there had been no stop, to the bit.

    Returns:
      The last progress of each member, or why it ended: a loss or parameter that is not finite,
      naming epoch and step. What `on_epoch` saved of it stays, and the other members go on.

    Raises:
      ValueError: members that train together but differ in more than images and seed.
    """
    if plan.stacked:
        return _fit(method, members, plan, on_step, on_epoch, stop, on_stop)
    ends: list[Progress | CaeError] = []
    for i, member in enumerate(members):
        if stop():
            ends.append(member.start)
            continue
        saves = [lambda _, at, i=i, save=save: save(i, at) for save in (on_epoch, on_stop)]
        ends += _fit(method, [member], plan, on_step, saves[0], stop, saves[1])
    return ends


def _fit(
    method: Method,
    members: Sequence[Member],
    plan: Plan,
    on_step: Callable[[int, float], None],
    on_epoch: Callable[[int, Progress], None],
    stop: Callable[[], bool],
    on_stop: Callable[[int, Progress], None],
) -> list[Progress | CaeError]:
    """`fit_members` for members whose steps are one call."""
    schedule, start = members[0].schedule, members[0].start
    for member in members:
        same = member.schedule._replace(seed=schedule.seed) == schedule
        if not same or (member.start.epoch, member.start.steps) != (start.epoch, start.steps):
            raise ValueError("members that train together share their schedule and where they are")
    step, evaluate = compile_steps(method, schedule.patch_size, plan)
    images = place_images(np.concatenate([member.train for member in members]), plan)
    held_out = [_validation_batches(member, plan) for member in members]
    states = [member.start.state for member in members]
    state = place_state(stack(states) if plan.stacked else states[0], plan)
    ends: list[Progress | CaeError] = [member.start for member in members]
    done = start.steps  # of the epoch
    for epoch in range(start.epoch + 1, schedule.epochs + 1):
        began = time.perf_counter()
        hear = functools.partial(_hear, on_step, (epoch - 1) * schedule.steps_per_epoch + done)
        crops = _together(members, epoch)[done:]
        state, metrics, stopped = _advance(step, state, images, crops, plan, hear, stop)
        finite = jax.device_get(_finite(state, plan.stacked))
        states = unstack(state, len(members)) if plan.stacked else [state]
        for i, before in enumerate(ends):
            if isinstance(before, CaeError):
                continue
            of_member = _joined(before.partial, {k: values[:, i] for k, values in metrics.items()})
            end = _judged(before, states[i], finite[i], of_member, epoch)
            if not isinstance(end, CaeError) and end.steps == schedule.steps_per_epoch:
                variables = end.state.variables
                losses = [evaluate(variables, *each)["loss"] for each in held_out[i]]
                end = _ended(end, of_member, jax.device_get(losses))
            ends[i] = end
            if isinstance(end, CaeError):
                continue
            seconds = before.seconds + (time.perf_counter() - began) / len(members)
            ends[i] = end._replace(seconds=seconds)
            (on_stop if stopped else on_epoch)(i, ends[i])
        if stopped or all(isinstance(end, CaeError) for end in ends):
            break
        done = 0
    return ends


def _advance(
    step: Callable,
    state: State,
    images: jax.Array,
    crops: np.ndarray,
    plan: Plan,
    hear: Callable[[int, np.ndarray], None],
    stop: Callable[[], bool],
) -> tuple[State, dict[str, np.ndarray], bool]:
    """An epoch on crops [K, M, B, ...]: the state, metrics [K, M] on the host, and whether it was
    stopped; of fewer steps then, and where no member's loss was finite any more."""
    if not plan.stacked:
        crops = crops[:, 0]
    if plan.scan:
        state, metrics = step(state, images, place_crops(crops, plan))
        metrics = jax.device_get(metrics)
        hear(len(crops), metrics["loss"][-1])
        stopped = stop()
    else:
        rows, stopped = [], False
        for k in range(len(crops)):
            state, metrics = step(state, images, place_crops(crops[k], plan))
            rows.append(jax.device_get(metrics))
            if not np.isfinite(rows[-1]["loss"]).any():
                break
            hear(k + 1, rows[-1]["loss"])
            if stopped := stop():
                break
        metrics = jax.tree.map(lambda *values: np.stack(values), *rows)
    metrics = {name: values.reshape(len(values), -1) for name, values in metrics.items()}
    return state, metrics, stopped


@functools.partial(jax.jit, static_argnums=1)
def _finite(state: State, stacked: bool) -> jax.Array:
    """Whether all floats of a state are finite, bool [M]; [1] where it is not stacked."""
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    each = [jnp.isfinite(x).reshape(len(x) if stacked else 1, -1).all(axis=1) for x in floats]
    return functools.reduce(jnp.logical_and, each)


def _joined(
    partial: dict[str, list[float]] | None, metrics: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Metrics [K] of an epoch's steps, those done before a stop first."""
    if not partial:
        return metrics
    return {
        name: np.concatenate([np.asarray(partial[name], values.dtype), values])
        for name, values in metrics.items()
    }


def _judged(
    before: Progress, state: State, finite: bool, metrics: dict[str, np.ndarray], epoch: int
) -> Progress | CaeError:
    """A member after steps of an epoch, whose metrics are given; an error where it diverged."""
    losses = metrics["loss"]
    if not np.isfinite(losses).all():
        k = int(np.argmin(np.isfinite(losses)))
        what, at = f"the loss is {losses[k]}", k + 1
    elif not finite:
        what, at = f"{_first_not_finite(state)} is not finite", len(losses)
    else:
        partial = {name: values.tolist() for name, values in metrics.items()}
        return before._replace(state=state, partial=partial)
    return CaeError(
        f"training stopped: {what} at step {at} of epoch {epoch}; try a lower --learning_rate"
    )


def _first_not_finite(state: State) -> str:
    for path, leaf in jax.tree_util.tree_flatten_with_path(state)[0]:
        floating = jnp.issubdtype(leaf.dtype, jnp.floating)
        if floating and not np.isfinite(jax.device_get(leaf)).all():
            return jax.tree_util.keystr(path, simple=True, separator="/")
    raise ValueError("all is finite")


def _ended(
    now: Progress, metrics: dict[str, np.ndarray], validation: list[np.ndarray]
) -> Progress | CaeError:
    """A member at the end of an epoch, all of whose steps it has done."""
    row = _row(now.epoch + 1, metrics, validation)
    if validation and not math.isfinite(row["validation_loss"]):
        what = f"the validation loss is {row['validation_loss']}"
        return CaeError(f"training stopped: {what} after epoch {row['epoch']}")
    return now._replace(epoch=row["epoch"], history=[*now.history, row], partial=None)


def _hear(on_step: Callable[[int, float], None], done: int, k: int, losses: np.ndarray) -> None:
    on_step(done + k, float(np.mean(losses)))


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
