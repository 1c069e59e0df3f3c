"""A training step of several members, by one of the strategies, ready to be timed."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from cae_jax.runs.config import Config
from cae_jax.training import loop, members
from cae_jax.training.members import Plan

FLAGS = ("model", "model_options", "patch_size", "channels", "seed", "batch_size", "precision")
_IMAGES = 8  # per member


def step_call(
    s: Config, n: int, strategy: str, scan: int, mesh: Mesh | None = None
) -> Callable[[], np.ndarray]:
    """Returns a call of the next step of n members, which gives the losses [n].

    `scan` steps in one call where it is above 0; the losses are the last step's. On the devices of
    the mesh, or on the first one.
    """
    learn, plan = s.build().learn, Plan(strategy, scan > 0, mesh)
    rng = np.random.default_rng(s.seed)
    shape = (n * _IMAGES, learn.patch_size, learn.patch_size, s.channels)
    images = members.place_images(rng.random(shape, np.float32), plan)
    crops = np.zeros((max(1, scan), n, s.options.batch_size, 3), np.int32)
    crops[..., 0] = rng.integers(0, _IMAGES, crops.shape[:-1])
    crops[..., 0] += _IMAGES * np.arange(n)[:, None]
    crops = crops if scan else crops[0]
    states = [loop.fresh_state(learn, s.seed + i) for i in range(n)]
    step = members.compile_step(learn, plan)
    if plan.stacked:
        packed, batches = [members.stack(states)], [crops]
    else:
        packed, batches = states, list(np.moveaxis(crops, -3, 0))
    placed = [members.place_crops(batch, plan) for batch in batches]
    current = [members.place_state(state, plan) for state in packed]

    def call() -> np.ndarray:
        losses = []
        for i, batch in enumerate(placed):
            current[i], metrics = step(current[i], images, batch)
            losses.append(metrics["loss"])
        last = [np.atleast_1d(each)[-1] if scan else each for each in jax.device_get(losses)]
        return np.ravel(last)

    return call
