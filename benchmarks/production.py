"""The production calls, compiled and ready to be timed."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
import optax

from benchmarks import networks, timing
from cae_jax.runs import build
from cae_jax.runs.config import Config
from cae_jax.runs.train import whole
from cae_jax.scoring import reconstruction, residuals, scorer
from cae_jax.scoring.reconstruction import Windows
from cae_jax.training import loop
from cae_jax.training.crops import epoch_crops
from cae_jax.training.fit import fit
from cae_jax.training.members import Plan, compile_step, place_crops, place_images, place_state
from cae_jax.types import (
    Metrics,
    Reconstruction,
    Scores,
    State,
    Steps,
    UsageError,
    Variables,
    height_width,
)

_GOOD = 64  # images that a method which learns in one pass is fitted to


class Scoring(NamedTuple):
    """The scoring call on a batch of random images."""

    settings: Config  # resolved
    variables: Variables
    images: np.ndarray  # float32 [B, H, W, C]
    scores: Scores
    # timing.OURS, images on the device in, maps and distances out; timing.AROUND, the same without
    # the network: extract, merge and distance, of a method that works by patches
    calls: dict[str, Callable[[], object]]
    transfer_seconds: float  # of the images to the device
    first_call_seconds: float  # with compilation
    first_call_processor_seconds: float  # of all cores: other programs have no part in them
    peak_memory_mb: float  # after it, a fit before it counted in; see `timing.peak_memory_mb`


def scoring(settings: Config, batch_size: int, learned: Variables | None = None) -> Scoring:
    """Compiles the call that experiments score images with, and calls it once; with variables that
    were learned, where they are given, else with those of `untrained`."""
    s = settings.resolved()
    given = untrained(s) if learned is None else whole(s.build(), learned)
    variables, images = jax.device_put(given), images_of(s, batch_size)
    scorers = {timing.OURS: build.scoring_call(s)}
    jax.block_until_ready(jax.device_put(images))  # the first one starts the device
    began = time.perf_counter()
    on_device = jax.block_until_ready(jax.device_put(images))
    placed, used = time.perf_counter(), time.process_time()
    scores = jax.block_until_ready(scorers[timing.OURS](variables, on_device))
    called, spent = time.perf_counter(), time.process_time() - used
    if isinstance(s.options, Windows) and s.distance in residuals.DISTANCES:
        bare = reconstruction.by_patches(_unchanged, s.options)
        scorers[timing.AROUND] = scorer.scorer(bare, s.reduction())

    def timed(score: scorer.Scorer) -> Callable[[], Scores]:
        @jax.transfer_guard("disallow")  # what goes to a device or comes from it, goes unasked
        def call() -> Scores:
            return jax.block_until_ready(score(variables, on_device))

        return call

    return Scoring(
        *(s, variables, images, scores, {name: timed(each) for name, each in scorers.items()}),
        *(placed - began, called - placed, spent, timing.peak_memory_mb()),
    )


def untrained(settings: Config) -> Variables:
    """Returns what a resolved config's scoring call is given, of a method that has seen nothing.

    One that learns in one pass is fitted to random images: how much it keeps of them makes its call
    longer, what they show does not.
    """
    method, seed = settings.build(), settings.seed
    if isinstance(method.learn, Steps):
        variables = _state(method.learn, seed).variables
    else:
        variables = fit(method, images_of(settings, _GOOD), seed)
    return whole(method, variables)


def size_of(variables: Variables) -> int:
    """Returns the bytes of all arrays."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(variables))


def images_of(s: Config, n: int) -> np.ndarray:
    """Returns n random images float32 [n, H, W, C] of a resolved config."""
    shape = (n, *height_width(s.image_size), s.channels)
    return np.random.default_rng(s.seed).random(shape, dtype=np.float32)


def _unchanged(variables: Variables, patches: jax.Array) -> Reconstruction:
    return Reconstruction(patches, {})


class Training(NamedTuple):
    """The training step on crops of random images, after its first step."""

    settings: Config  # resolved
    variables: Variables  # before it, on the host
    images: np.ndarray  # float32 [m, H, W, C]
    crops: list[np.ndarray]  # of an epoch, a batch each
    # Of a network that other engines can be asked for, see `networks.has_one`; NaN, {}, {} without.
    loss: float  # of the first step
    update: Variables  # what it added to the parameters
    momenta: Variables  # Adam's first moments after it: a tenth of the gradient
    call: Callable[[], object]  # the next batch of crops in, the metrics out
    crops_seconds: float  # drawing an epoch's crops
    first_call_seconds: float
    peak_memory_mb: float


def training(settings: Config, n_images: int) -> Training:
    """Compiles the step that experiments train with, and takes it once; raises UsageError for a
    method that learns in one pass."""
    s = settings.resolved()
    learn = s.build().learn
    if not isinstance(learn, Steps):
        raise UsageError(f"--method={s.method}: learns in one pass; see benchmarks.fit")
    state = place_state(_state(learn, s.seed), Plan())  # or the second step compiles once more
    before = jax.tree.map(np.array, state.variables)  # copies: the step takes the state's buffers
    images = images_of(s, n_images)
    schedule = s.options.course(learn.patch_size, s.seed)
    began = time.perf_counter()
    crops = list(epoch_crops(images, schedule, 1))
    drawn = time.perf_counter()
    step = compile_step(learn, Plan())
    on_device = place_images(images, Plan())
    called = time.perf_counter()
    state, metrics = step(state, on_device, place_crops(crops[0], Plan()))
    metrics = jax.device_get(metrics)
    first = time.perf_counter() - called
    compared: tuple[float, Variables, Variables] = (math.nan, {}, {})
    if networks.has_one(s):
        update = jax.tree.map(np.subtract, state.variables["params"], before["params"])
        momenta = jax.tree.map(np.array, optax.tree_utils.tree_get(state.opt_state, "mu"))
        compared = (float(metrics["loss"]), update, momenta)
    turn = itertools.cycle([*crops[1:], crops[0]])

    @jax.transfer_guard("disallow")
    def call() -> Metrics:
        nonlocal state
        state, metrics = step(state, on_device, place_crops(next(turn), Plan()))
        return jax.device_get(metrics)

    return Training(
        *(s, before, images, crops, *compared, call),
        *(drawn - began, first, timing.peak_memory_mb()),
    )


class Fitting(NamedTuple):
    """The fit of a method that learns in one pass, to random images, after its first call."""

    settings: Config  # resolved
    n_images: int
    variables: Variables
    call: Callable[[], object]  # images on the host in, variables on the device out
    first_call_seconds: float  # with compilation
    peak_memory_mb: float


def fitting(settings: Config, n_images: int) -> Fitting:
    """Compiles the fit that experiments learn by, and calls it once; raises UsageError for a method
    that learns by steps."""
    s = settings.resolved()
    method = s.build()
    if isinstance(method.learn, Steps):
        raise UsageError(f"--method={s.method}: learns by steps; see benchmarks.training")
    images = images_of(s, n_images)

    def call() -> Variables:
        return jax.block_until_ready(fit(method, images, s.seed))

    began = time.perf_counter()
    variables = call()
    first = time.perf_counter() - began
    return Fitting(s, n_images, variables, call, first, timing.peak_memory_mb())


def _state(learn: Steps, seed: int) -> State:
    """A fresh state but for its biases, which are not zero.

    Behind a zero bias, pixels that no weight reaches lie on the kink of the leaky ReLU, where JAX
    takes another gradient than torch does.
    """
    state, rng = loop.fresh_state(learn, seed), np.random.default_rng(seed)

    def shift(leaf: jax.Array) -> jax.Array:
        return leaf + rng.normal(0, 0.01, leaf.shape).astype(np.float32) if leaf.ndim == 1 else leaf

    variables = {
        name: jax.tree.map(shift, each) if name == "params" else each
        for name, each in state.variables.items()
    }
    return state._replace(variables=variables)
