"""Training by steps: crops cut on the device inside the compiled step, an exact course from a seed.

Read it from `train_members` down: `_advance` takes an epoch's steps, `_judged` and `_ended` say
what they came to.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from cae_jax import files
from cae_jax.jit import jit
from cae_jax.training.crops import Placed, epoch_crops, validation_crops
from cae_jax.training.members import (
    Plan,
    compile_step,
    compile_validation,
    place_crops,
    place_images,
    place_state,
    stack,
    unstack,
)
from cae_jax.training.schedule import Schedule
from cae_jax.types import CaeError, Images, State, Steps

Rows: TypeAlias = Mapping[str, np.ndarray]  # metrics by name: of steps [K], or of members too


class Progress(NamedTuple):
    """Where training stands."""

    epoch: int  # epochs done
    state: State
    # per epoch: epoch, each metric, and validation_... of those of `Steps.validate` (NaN without
    # images held out)
    history: list[dict[str, float]]
    seconds: float  # spent training, earlier starts counted in
    partial: dict[str, list[float]] | None = None  # of steps done of the next epoch, their metrics

    @property
    def steps(self) -> int:
        """Steps done of the next epoch, where training was stopped in its midst."""
        return len(next(iter(self.partial.values()))) if self.partial else 0


def mark(row: Mapping[str, float], best_by: str) -> float:
    """Returns an epoch's value of the metric that marks the best, lowest one: of the images held
    out where there are any; NaN without such a metric."""
    value = row.get(f"validation_{best_by}", math.nan)
    return row.get(best_by, math.nan) if math.isnan(value) else value


def ended_early(history: Sequence[Mapping[str, float]], best_by: str, patience: int) -> bool:
    """Returns whether the last `patience` epochs brought no lower `mark` than the ones before.

    The history alone decides, which is in every checkpoint: a start from one ends where a straight
    run ends. False for a patience of 0.
    """
    marks = [mark(row, best_by) for row in history]
    return 0 < patience < len(marks) and min(marks[-patience:]) >= min(marks[:-patience])


def fresh_state(learn: Steps, seed: int) -> State:
    """Returns the state that training with `seed` starts from."""
    # rbg: with threefry, compiling the initialisation takes several times longer on a CPU
    return jit(learn.init)(jax.random.key(seed, impl="rbg"))


class Member(NamedTuple):
    """One of the models that train together."""

    train: Images  # good images, float32 [n, H, W, C] in [0, 1]
    validation: Images  # images held out, [m, H, W, C]; m may be 0
    schedule: Schedule  # the same for all of them, but for the seed
    start: Progress  # a fresh state at epoch 0, or what `on_epoch` was given on an earlier start


def train_members(
    learn: Steps,
    members: Sequence[Member],
    plan: Plan,
    on_step: Callable[[int, Mapping[str, float]], None] = lambda step, metrics: None,
    on_epoch: Callable[[int, Progress], None] = lambda member, progress: None,
    stop: Callable[[], bool] = lambda: False,
    on_stop: Callable[[int, Progress], None] = lambda member, progress: None,
) -> list[Progress | CaeError]:
    """Trains members to their schedule's end, or an early one, see `ended_early`; the same start
    gives the same end, to the bit.

    Args:
      learn: how.
      members: what on; the arrays of their starts are used up.
      plan: all at once or one after the other, and on which devices. All plans give the same
        numbers, to float32's rounding.
      on_step: called with the steps that each member has done in all and the means of their last
        metrics; once an epoch where the plan scans.
      on_epoch: called for every member after each of its epochs, for checkpoints; must not keep
        the state's arrays, whose buffers the next step takes.
      stop: asked after every step (epoch, where the plan scans); True ends training there, and
        stays True.
      on_stop: called in place of `on_epoch` for every member that was stopped: a start from
        what it is given ends as if there had been no stop, to the bit.

    Returns:
      The last progress of each member, or why it ended: a metric or parameter that is not finite,
      naming epoch and step. What `on_epoch` saved of it stays, and the other members go on.

    Raises:
      ValueError: members that train together but differ in more than images and seed.
    """
    if plan.stacked:
        return _train_together(learn, members, plan, on_step, on_epoch, stop, on_stop)
    ends: list[Progress | CaeError] = []
    for i, member in enumerate(members):
        if stop():
            ends.append(member.start)
            continue
        saves = [lambda _, at, i=i, save=save: save(i, at) for save in (on_epoch, on_stop)]
        ends += _train_together(learn, [member], plan, on_step, saves[0], stop, saves[1])
    return ends


def _train_together(
    learn: Steps,
    members: Sequence[Member],
    plan: Plan,
    on_step: Callable[[int, Mapping[str, float]], None],
    on_epoch: Callable[[int, Progress], None],
    stop: Callable[[], bool],
    on_stop: Callable[[int, Progress], None],
) -> list[Progress | CaeError]:
    """`train_members` for members whose steps are one call."""
    schedule, start = members[0].schedule, members[0].start
    for member in members:
        same = member.schedule._replace(seed=schedule.seed) == schedule
        if not same or (member.start.epoch, member.start.steps) != (start.epoch, start.steps):
            raise ValueError("members that train together share their schedule and where they are")
    step = compile_step(learn, plan)
    good = files.joined([member.train for member in members])
    # other crops are of points between pixels, of which each would be looked up
    images = place_images(good if schedule.augment == "none" else files.real(good), plan)
    held_out = [_HeldOut.of(learn, member, plan) for member in members]
    states = [member.start.state for member in members]
    state = place_state(stack(states) if plan.stacked else states[0], plan)
    ends: list[Progress | CaeError] = [member.start for member in members]
    done = start.steps  # of the epoch

    def over(end: Progress | CaeError) -> bool:
        """Whether nothing more comes of a member, though the others go on."""
        return isinstance(end, CaeError) or (
            not end.steps and ended_early(end.history, learn.best_by, schedule.patience)
        )

    for epoch in range(start.epoch + 1, schedule.epochs + 1):
        if all(map(over, ends)):
            break
        began = time.perf_counter()
        hear = functools.partial(_hear, on_step, (epoch - 1) * schedule.steps_per_epoch + done)
        crops = _together(members, epoch)[done:]
        state, metrics, stopped = _advance(step, state, images, crops, plan, hear, stop)
        finite = _finite(state, plan.stacked)
        states = unstack(state, len(members)) if plan.stacked else [state]
        for i, before in enumerate(ends):
            if isinstance(before, CaeError) or over(before):
                continue
            of_member = _joined(before.partial, {k: values[:, i] for k, values in metrics.items()})
            end = _judged(before, states[i], finite[i], of_member, epoch)
            if not isinstance(end, CaeError) and end.steps == schedule.steps_per_epoch:
                end = _ended(end, of_member, held_out[i])
            ends[i] = end
            if isinstance(end, CaeError):
                continue
            seconds = before.seconds + (time.perf_counter() - began) / len(members)
            ends[i] = end = end._replace(seconds=seconds)
            (on_stop if stopped else on_epoch)(i, end)
        if stopped:
            break
        done = 0
    return ends


class _HeldOut(NamedTuple):
    """A member's validation images and crops on the device, and the call that judges them."""

    call: Callable[..., Any]
    names: tuple[str, ...]
    images: jax.Array | Placed | None
    crops: list[jax.Array]

    @classmethod
    def of(cls, learn: Steps, member: Member, plan: Plan) -> _HeldOut:
        crops = validation_crops(member.train, member.validation, member.schedule)
        p, variables = learn.patch_size, member.start.state.variables
        patch = jax.ShapeDtypeStruct((1, p, p, member.train.shape[-1]), np.float32)
        names = tuple(jax.eval_shape(learn.validate, variables, patch))
        images = place_images(member.validation, plan) if crops else None
        on_device = [place_images(part, plan) for part in crops]
        return cls(compile_validation(learn), names, images, on_device)

    def metrics(self, state: State) -> dict[str, float]:
        """The means over all crops; NaN without any."""
        variables = state.variables
        found = [self.call(variables, self.images, part) for part in self.crops if self.names]
        found = jax.device_get(found)
        return {
            f"validation_{name}": float(np.mean([each[name] for each in found], dtype=np.float64))
            if found
            else math.nan
            for name in self.names
        }


def _advance(
    step: Callable,
    state: State,
    images: jax.Array | Placed,
    crops: np.ndarray,
    plan: Plan,
    hear: Callable[[int, Rows], None],
    stop: Callable[[], bool],
) -> tuple[State, Rows, bool]:
    """An epoch on crops [K, M, B, ...]: the state, metrics [K, M] on the host, and whether it was
    stopped; of fewer steps then, and where no member's metrics were finite any more."""
    if not plan.stacked:
        crops = crops[:, 0]
    if plan.scan:
        state, metrics = step(state, images, place_crops(crops, plan))
        metrics = jax.device_get(metrics)
        hear(len(crops), {name: values[-1] for name, values in metrics.items()})
        stopped = stop()
    else:
        rows, stopped = [], False
        for k in range(len(crops)):
            state, metrics = step(state, images, place_crops(crops[k], plan))
            rows.append(jax.device_get(metrics))
            if not np.all([np.isfinite(values) for values in rows[-1].values()], axis=0).any():
                break
            hear(k + 1, rows[-1])
            if stopped := stop():
                break
        metrics = jax.tree.map(lambda *values: np.stack(values), *rows)
    return state, {k: values.reshape(len(values), -1) for k, values in metrics.items()}, stopped


def _finite(state: State, stacked: bool) -> np.ndarray:
    """Whether all floats of a state are finite, bool [M]; [1] where it is not stacked.

    On a CPU NumPy looks at them where they are, and nothing is compiled for it.
    """
    floats = [x for x in jax.tree.leaves(state) if jnp.issubdtype(x.dtype, jnp.floating)]
    if jax.default_backend() != "cpu":
        return jax.device_get(_finite_there(floats, stacked))
    each = [np.isfinite(x).reshape(len(x) if stacked else 1, -1).all(axis=1) for x in floats]
    return np.logical_and.reduce(each)


@functools.partial(jax.jit, static_argnums=1)
def _finite_there(floats: list[jax.Array], stacked: bool) -> jax.Array:
    """The same on the device, which need not give them all away."""
    each = [jnp.isfinite(x).reshape(len(x) if stacked else 1, -1).all(axis=1) for x in floats]
    return functools.reduce(jnp.logical_and, each)


def _joined(partial: dict[str, list[float]] | None, metrics: Rows) -> Rows:
    """Metrics [K] of an epoch's steps, those done before a stop first."""
    if not partial:
        return metrics
    return {
        name: np.concatenate([np.asarray(partial[name], values.dtype), values])
        for name, values in metrics.items()
    }


def _judged(
    before: Progress, state: State, finite: bool, metrics: Rows, epoch: int
) -> Progress | CaeError:
    """A member after steps of an epoch, whose metrics are given; an error where it diverged."""
    bad = {k: np.flatnonzero(~np.isfinite(values)) for k, values in metrics.items()}
    first = min(bad, key=lambda name: bad[name][0] if len(bad[name]) else math.inf)
    if len(bad[first]):
        at = int(bad[first][0]) + 1
        what = f"the {_words(first)} is {metrics[first][at - 1]}"
    elif not finite:
        what, at = f"{_first_not_finite(state)} is not finite", len(metrics[first])
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


def _ended(now: Progress, metrics: Rows, held_out: _HeldOut) -> Progress | CaeError:
    """A member at the end of an epoch, all of whose steps it has done."""
    epoch, validation = now.epoch + 1, held_out.metrics(now.state)
    for name, value in validation.items():
        if held_out.crops and not math.isfinite(value):
            what = f"the {_words(name)} is {value}"
            return CaeError(f"training stopped: {what} after epoch {epoch}")
    means = {k: float(np.mean(v, dtype=np.float64)) for k, v in metrics.items() if _is_mean(v)}
    counts = {k: float(v[-1]) for k, v in metrics.items() if not _is_mean(v)}
    row = {"epoch": epoch, **means, **validation, **counts}
    return now._replace(epoch=epoch, history=[*now.history, row], partial=None)


def _is_mean(values: np.ndarray) -> bool:
    """Whether an epoch's value of a metric is its mean; of a count the last stands."""
    return np.issubdtype(values.dtype, np.floating)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _hear(
    on_step: Callable[[int, Mapping[str, float]], None], done: int, k: int, metrics: Rows
) -> None:
    means = {name: float(np.mean(values)) for name, values in metrics.items() if _is_mean(values)}
    on_step(done + k, means)


def _together(members: Sequence[Member], epoch: int) -> np.ndarray:
    """An epoch's crops of all members, [K, M, B, ...], of the members' images in one array."""
    each, offset = [], 0
    for member in members:
        crops = np.stack(list(epoch_crops(member.train, member.schedule, epoch)))
        crops[..., 0] += offset
        offset += len(member.train)
        each.append(crops)
    return np.stack(each, axis=1)
