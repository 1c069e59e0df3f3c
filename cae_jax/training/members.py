"""Many models trained at once: how their steps become one compiled call, on one device or many.

A member is one category and seed. Members share nothing but the program, so a mesh has two axes:
`members`, along which devices never talk, and `batch`, along which they sum gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cae_jax.jit import jit
from cae_jax.training.crops import Placed, cut, levels
from cae_jax.training.schedule import STRATEGIES
from cae_jax.types import Images, Levels, Metrics, State, Steps, Variables, unknown_name

_MEMBERS, _BATCH = "members", "batch"
Tree = TypeVar("Tree")
OnDevice: TypeAlias = jax.Array | Placed  # images


class Plan(NamedTuple):
    """How training is laid out.

    strategy: "vmap", one batched program; "unroll", the members' programs side by side in one
      call; "loop", one member after the other.
    scan: all steps of an epoch in one call, by `lax.scan`: worth it where a call costs as much as
      a step, which on a CPU takes a second.
    mesh: the devices, see `mesh`; None for the first one alone.
    """

    strategy: str = "loop"
    scan: bool = False
    mesh: Mesh | None = None

    @property
    def stacked(self) -> bool:
        """Whether the members' states are one pytree with a leading axis."""
        return self.strategy != "loop"


def check_strategy(strategy: str) -> None:
    """Raises UsageError for what is neither one of STRATEGIES nor "auto"."""
    if strategy not in (*STRATEGIES, "auto"):
        raise unknown_name("--members", strategy, (*STRATEGIES, "auto"))


def default_plan(strategy: str, n_members: int, batch_size: int) -> Plan:
    """Returns the plan for this process's devices.

    Args:
      strategy: of STRATEGIES, or "auto": "loop" on one device, which was the fastest on a CPU
        (benchmarks.members) and on a GPU (benchmarks.accelerator: five members of Table 4 take 34
        ms a step, by vmap 105, whose convolutions are grouped ones), "vmap" over several.
      n_members: how many train together.
      batch_size: patches per step and member.

    Raises:
      UsageError: an unknown strategy.
    """
    check_strategy(strategy)
    cpu = jax.default_backend() == "cpu"
    if strategy == "auto":
        strategy = "loop" if cpu or jax.local_device_count() == 1 else "vmap"
    along = n_members if strategy != "loop" else 1
    return Plan(strategy, not cpu, mesh(along, batch_size, jax.local_devices()))


def mesh(n_members: int, batch_size: int, devices: Sequence[Any]) -> Mesh | None:
    """Returns a mesh (members, batch) over the devices; None where one is used.

    As many devices as divide the members evenly lie along them, for these need not talk; the rest
    along the batch. Of devices over which the batch cannot be split evenly, as many are used as it
    can be split over: of 3, 2 for a batch of 16 and one member.
    """
    for n in range(len(devices), 1, -1):
        ways = (k for k in range(min(n, n_members), 0, -1) if n % k == 0 and n_members % k == 0)
        across = next(ways)
        if batch_size % (n // across) == 0:
            grid = np.array(devices[:n]).reshape(across, n // across)
            return Mesh(grid, (_MEMBERS, _BATCH), axis_types=(AxisType.Auto, AxisType.Auto))
    return None


def stack(states: Sequence[Tree]) -> Tree:
    """Returns the states, or other trees, as one, every array with a leading axis of members."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


@functools.partial(jax.jit, static_argnums=1)
def unstack(state: State, n: int) -> list[State]:
    """Returns the n states that `stack` made one of, as arrays of their own."""
    return [_at(state, i) for i in range(n)]


@functools.lru_cache
def compile_step(
    learn: Steps,
    plan: Plan = Plan(),  # noqa: B008 - immutable
) -> Callable[[State, OnDevice, jax.Array], tuple[State, Metrics]]:
    """Returns the jitted training step (state, images, crops) -> (state, metrics).

    Kept, so that runs share what they compile. The state is donated. Arrays: images [m, H, W, C];
    crops [B, 3 or 5] of `crops.draw`, for a stacked plan [M, B, ...], with a scan [K, B, ...] or
    [K, M, B, ...]; metrics lead with the same axes as the crops, B left out.
    """

    def one(state: State, images: OnDevice, crops: jax.Array) -> tuple[State, Metrics]:
        return learn.step(state, cut(images, crops, learn.patch_size))

    def unroll(state: State, images: OnDevice, crops: jax.Array) -> tuple[State, Metrics]:
        return stack([one(_at(state, i), images, crops[i]) for i in range(crops.shape[0])])

    many = {"loop": one, "vmap": jax.vmap(one, (0, None, 0)), "unroll": unroll}[plan.strategy]
    if plan.stacked and plan.mesh is not None:
        along = PartitionSpec(_MEMBERS)
        many = jax.shard_map(
            many,
            mesh=plan.mesh,
            axis_names={_MEMBERS},  # the batch axis is left to the compiler
            in_specs=(along, PartitionSpec(), along),
            out_specs=along,
            check_vma=False,
        )

    def train_step(state: State, images: OnDevice, crops: jax.Array) -> tuple[State, Metrics]:
        if not plan.scan:
            return many(state, images, crops)
        return lax.scan(lambda state, crops: many(state, images, crops), state, crops)

    return jit(train_step, donate_argnums=0)


@functools.lru_cache
def compile_validation(learn: Steps) -> Callable[[Variables, OnDevice, jax.Array], Metrics]:
    """Returns the jitted (variables, images [m, H, W, C], crops [B, 3 or 5]) -> metrics; kept."""

    def validate(variables: Variables, images: OnDevice, crops: jax.Array) -> Metrics:
        return learn.validate(variables, cut(images, crops, learn.patch_size))

    return jit(validate)


def place_state(state: State, plan: Plan) -> State:
    """Puts a state, stacked where the plan stacks, on the plan's devices."""
    return _place(state, plan, (_MEMBERS,) if plan.stacked else ())


@overload
def place_images(images: np.ndarray, plan: Plan) -> jax.Array: ...
@overload
def place_images(images: Images, plan: Plan) -> OnDevice: ...
def place_images(images: Images, plan: Plan) -> OnDevice:
    """Puts images [m, H, W, C] on all of the plan's devices; an array that is on a CPU already is
    not copied there."""
    return _place(levels(images) if isinstance(images, Levels) else images, plan, ())


def place_crops(crops: np.ndarray, plan: Plan) -> jax.Array:
    """Puts crops, shaped as `compile_step` says, on the plan's devices."""
    return _place(crops, plan, (None,) * plan.scan + (_MEMBERS,) * plan.stacked + (_BATCH,))


def _place(tree: Any, plan: Plan, axes: tuple[str | None, ...]) -> Any:
    if plan.mesh is None:  # named, or a restored state would not compile as a fresh one does
        return jax.device_put(tree, jax.local_devices()[0])
    return jax.device_put(tree, NamedSharding(plan.mesh, PartitionSpec(*axes)))


def _at(tree: Any, i: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[i], tree)
