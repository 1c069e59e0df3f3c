"""From images to scores in one compiled call: make even, inspect, resize, smooth, reduce."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable
from typing import TypeAlias

import jax
import numpy as np

from cae_jax import files
from cae_jax.jit import jit
from cae_jax.scoring import residuals
from cae_jax.scoring.intensity import light, parted
from cae_jax.scoring.reconstruction import Inspect
from cae_jax.scoring.residuals import Reduction
from cae_jax.types import Array, Images, Scores, Variables

Scorer: TypeAlias = Callable[[Variables, Array], Scores[jax.Array]]


def device() -> str:
    """Returns what computes, in words: a GPU's or TPU's name, or the CPU's cores."""
    kind = jax.devices()[0].device_kind
    return f"{os.cpu_count()} CPU cores" if kind == "cpu" else kind


def default_batch_size() -> int:
    """Images per call: on a CPU one image of 81 patches keeps the cores busy already."""
    return 1 if jax.default_backend() == "cpu" else 32


@functools.lru_cache
def scorer(
    inspect: Inspect,
    reduction: Reduction,
    intensity: str = "none",
    size: tuple[int, int] | None = None,
    channels: int | None = None,
) -> Scorer:
    """Returns the jitted function (variables, images) -> Scores, compiled once per shape.

    The same arguments give the same function, so that runs share what they compile.

    Args:
      inspect: a method's; or its `Seen.judge`, of features in the place of images.
      reduction: which of its distances, and how a map becomes a number.
      intensity: how images are made even before they are inspected, see `intensity.light`. A
        reconstruction comes back as bright as its image.
      size: of the images, in pixels, where it is not they that are given.
      channels: C of the images, where they may have one more: what of them counts, see
        `types.with_counts`. What does not has the smallest value of the map of what does, which is
        smoothed and reduced by itself; a number of the method's own is not taken then.

    Returns:
      A function of images float32 [B, H, W, C] in [0, 1]. An image's score depends on that image
      and the variables alone.
    """

    def score(variables: Variables, images: jax.Array) -> Scores[jax.Array]:
        images, counts = parted(images, channels)
        own = light(images, intensity, counts)
        evidence = inspect(variables, images if own is None else own.out_of(images))
        with jax.named_scope("score"):
            maps, distances = {}, {}
            for name in reduction.distances:
                whole = _resized(evidence.maps[name], size or images.shape[1:3])
                if counts is not None:
                    maps[name] = residuals.smooth_within(whole, counts, reduction)
                    distances[name] = residuals.score_within(maps[name], counts, reduction)
                    continue
                maps[name] = residuals.smooth(whole, reduction.smooth, reduction.border)
                number = evidence.numbers.get(name)
                if number is None:
                    number = residuals.image_score(maps[name], reduction)
                distances[name] = number
        made = evidence.reconstruction
        return Scores(distances, maps, made if own is None or made is None else own.into(made))

    return jit(score)


def _resized(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Maps [B, h, w] at the images' size, bilinear between the centers of their pixels."""
    if maps.shape[1:] == size:
        return maps
    return jax.image.resize(maps, (maps.shape[0], *size), "linear")


def score_all(
    score: Scorer,
    variables: Variables,
    images: Images,
    batch_size: int,
    on_images: Callable[[int], None] = lambda n: None,
) -> Scores[np.ndarray]:
    """Scores any number of images [n, H, W, C] in batches of one shape; NumPy arrays come back.

    The last batch is filled up with its last image. Maps may be larger than memory together, see
    `files.large_array`. `on_images` is told how many were scored.
    Raises ValueError for no image at all.
    """
    if not len(images):
        raise ValueError("there is no image to score")
    found: Scores[np.ndarray] | None = None

    def room(part: np.ndarray) -> np.ndarray:
        return files.large_array((len(images), *part.shape[1:]), part.dtype)

    for i in range(0, len(images), batch_size):
        batch = images[i : i + batch_size]
        n = len(batch)
        missing = batch_size - n
        filled = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        scores = jax.device_get(score(variables, filled))
        found = found or jax.tree.map(room, scores)
        for whole, part in zip(jax.tree.leaves(found), jax.tree.leaves(scores), strict=True):
            whole[i : i + n] = part[:n]
        on_images(n)
    assert found
    return found


def milliseconds_per_image(
    score: Scorer, variables: Variables, images: Array, repeats: int = 5
) -> float:
    """Returns the median time of a call over the images in it, in milliseconds.

    The call is warmed up and waited for; its images [B, H, W, C] are on the device before, so
    neither decoding nor transfer counts (thesis Sec. 4.1.7).
    """
    on_device = jax.device_put(images)
    jax.block_until_ready(score(variables, on_device))
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        jax.block_until_ready(score(variables, on_device))
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds)) * 1e3 / len(images)
