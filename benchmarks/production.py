"""The production calls, compiled and ready to be timed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax

from benchmarks import timing
from cae_jax.runs import config, job
from cae_jax.runs.evaluate import build_scorer
from cae_jax.scoring.scorer import Scorer
from cae_jax.training import loop
from cae_jax.training.members import Plan, place_crops, place_images
from cae_jax.types import Method, Reconstruction, Scores, State, Variables


class Scoring(NamedTuple):
    """The scoring call on a batch of random images."""

    settings: config.Config
    variables: Variables
    images: np.ndarray  # float32 [B, H, W, C]
    scores: Scores
    call: Callable[[], object]  # images on the device in, maps and distances out
    around: Callable[[], object]  # the same without the network: extract, merge and distance
    transfer_seconds: float  # of the images to the device
    first_call_seconds: float  # with compilation
    peak_memory_mb: float  # after it, see `timing.peak_memory_mb`


def scoring(settings: config.Config, batch_size: int) -> Scoring:
    """Compiles the call that experiments score images with, and calls it once."""
    s = settings
    method = job.build_method(s)
    variables = _state(method, s.seed).variables
    scorer = build_scorer(s, method)
    shape = (batch_size, s.image_size, s.image_size, s.channels)
    images = np.random.default_rng(s.seed).random(shape, dtype=np.float32)
    jax.block_until_ready(jax.device_put(images))  # the first one starts the device
    began = time.perf_counter()
    on_device = jax.block_until_ready(jax.device_put(images))
    placed = time.perf_counter()
    scores = jax.block_until_ready(scorer(variables, on_device))
    called = time.perf_counter()

    bare = build_scorer(s, method._replace(reconstruct=_unchanged))

    def timed(scorer: Scorer) -> Callable[[], Scores]:
        @jax.transfer_guard("disallow")  # what goes to a device or comes from it, goes unasked
        def call() -> Scores:
            return jax.block_until_ready(scorer(variables, on_device))

        return call

    return Scoring(
        *(s, variables, images, scores, timed(scorer), timed(bare)),
        *(placed - began, called - placed, timing.peak_memory_mb()),
    )


def _unchanged(variables: Variables, patches: jax.Array) -> Reconstruction:
    return Reconstruction(patches, {})


class Training(NamedTuple):
    """The training step on crops of random images, after its first step."""

    settings: config.Config
    variables: Variables  # before it, on the host
    images: np.ndarray  # float32 [m, H, W, C]
    crops: list[np.ndarray]  # of an epoch, a batch each
    loss: float  # of the first step
    update: Variables  # what it added to the parameters
    momenta: Variables  # Adam's first moments after it: a tenth of the gradient
    call: Callable[[], object]  # the next batch of crops in, the loss out
    crops_seconds: float  # drawing an epoch's crops
    first_call_seconds: float
    peak_memory_mb: float


def training(settings: config.Config, n_images: int) -> Training:
    """Compiles the step that experiments train with, and takes it once."""
    s = settings
    method = job.build_method(s)
    state = _state(method, s.seed)
    before = jax.tree.map(np.array, state.variables)  # copies: the step takes the state's buffers
    shape = (n_images, s.image_size, s.image_size, s.channels)
    images = np.random.default_rng(s.seed).random(shape, dtype=np.float32)
    schedule = loop.Schedule(1, s.batch_size, s.num_patches, s.patch_size, s.seed)
    began = time.perf_counter()
    crops = list(loop.epoch_crops(images, schedule, 1))
    drawn = time.perf_counter()
    step, _ = loop.compile_steps(method, s.patch_size)
    on_device = place_images(images, Plan())
    called = time.perf_counter()
    state, metrics = step(state, on_device, place_crops(crops[0], Plan()))
    loss = float(metrics["loss"])
    first = time.perf_counter() - called
    update = jax.tree.map(np.subtract, state.variables["params"], before["params"])
    momenta = jax.tree.map(np.array, optax.tree_utils.tree_get(state.opt_state, "mu"))
    turn = itertools.cycle([*crops[1:], crops[0]])

    @jax.transfer_guard("disallow")
    def call() -> float:
        nonlocal state
        state, metrics = step(state, on_device, place_crops(next(turn), Plan()))
        return float(jax.device_get(metrics["loss"]))

    return Training(
        *(s, before, images, crops, loss, update, momenta, call),
        *(drawn - began, first, timing.peak_memory_mb()),
    )


def _state(method: Method, seed: int) -> State:
    """A fresh state but for its biases, which are not zero.

    Behind a zero bias, pixels that no weight reaches lie on the kink of the leaky ReLU, where JAX
    takes another gradient than torch does.
    """
    state, rng = loop.fresh_state(method, seed), np.random.default_rng(seed)

    def shift(leaf: jax.Array) -> jax.Array:
        return leaf + rng.normal(0, 0.01, leaf.shape).astype(np.float32) if leaf.ndim == 1 else leaf

    params = jax.tree.map(shift, state.variables["params"])
    return state._replace(variables={**state.variables, "params": params})
