"""From images to distances in one compiled call: extract, reconstruct, merge, score."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cae_jax.scoring import patches as windows
from cae_jax.scoring import residuals
from cae_jax.scoring.residuals import Residual
from cae_jax.types import CaeError, Reconstruction, Scores, Variables

Reconstruct = Callable[[Variables, jax.Array], Reconstruction]
Scorer = Callable[[Variables, jax.Array], Scores]


def default_chunk_size() -> int | None:
    """Patches reconstructed at a time: a chunk stays in a CPU's cache; an accelerator takes all."""
    return 9 if jax.default_backend() == "cpu" else None


def device() -> str:
    """Returns what computes, in words: a GPU's or TPU's name, or the CPU's cores."""
    kind = jax.devices()[0].device_kind
    return f"{os.cpu_count()} CPU cores" if kind == "cpu" else kind


def default_batch_size() -> int:
    """Images per call: on a CPU one image of 81 patches keeps the cores busy already."""
    return 1 if jax.default_backend() == "cpu" else 32


@functools.lru_cache
def scorer(
    reconstruct: Reconstruct,
    patch_size: int,
    stride: int,
    chunk_size: int | None = None,
    residual: Residual = Residual(),  # noqa: B008 - immutable
) -> Scorer:
    """Returns the jitted function (variables, images) -> Scores, compiled once per shape.

    The same arguments give the same function, so that runs share what they compile.

    Args:
      reconstruct: a method's; patches [N, p, p, C] -> Reconstruction.
      patch_size: p, in pixels.
      stride: pixels between windows.
      chunk_size: patches per pass, all passes side by side in one program, so that one's layers
        fill the gaps of another's; None takes all at once.
      residual: which distances, and how a map and a number are made of a reconstruction's error.

    Returns:
      A function of images float32 [B, H, W, C] in [0, 1]. An image's score depends on that image
      and the variables alone.
    """

    def score(variables: Variables, images: jax.Array) -> Scores:
        _, height, width, _ = images.shape
        with jax.named_scope("extract"):
            cut = windows.extract(images, patch_size, stride)
        flat = cut.reshape(-1, *cut.shape[3:])
        size = chunk_size or flat.shape[0]
        made = [
            reconstruct(variables, flat[i : i + size]).output for i in range(0, flat.shape[0], size)
        ]
        made = jnp.concatenate(made)
        with jax.named_scope("merge"):
            output = windows.merge(made.reshape(cut.shape), height, width, stride)
        with jax.named_scope("score"):
            maps = {}
            for name in residual.distances:
                if residual.average == "maps":  # CVPR 2019 averages the patches' own maps
                    each = residuals.residual_map(name, flat, made, residual)
                    each = each.reshape(*cut.shape[:-1], 1)
                    each = windows.merge(each, height, width, stride)[..., 0]
                else:
                    each = residuals.residual_map(name, images, output, residual)
                maps[name] = residuals.smooth(each, residual.smooth, residual.border)
            distances = {name: residuals.image_score(each, residual) for name, each in maps.items()}
        return Scores(distances, maps, output)

    return jax.jit(score)


def score_all(
    score: Scorer,
    variables: Variables,
    images: np.ndarray,
    batch_size: int,
    on_images: Callable[[int], None] = lambda n: None,
) -> Scores:
    """Scores any number of images [n, H, W, C] in batches of one shape; NumPy arrays come back.

    The last batch is filled up with its last image. `on_images` is told how many were scored.
    Raises ValueError for no image at all.
    """
    if not len(images):
        raise ValueError("there is no image to score")
    parts = []
    for i in range(0, len(images), batch_size):
        batch = images[i : i + batch_size]
        n = len(batch)
        missing = batch_size - n
        filled = np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
        scores = jax.device_get(score(variables, filled))
        parts.append(jax.tree.map(lambda field, n=n: field[:n], scores))
        on_images(n)
    return jax.tree.map(lambda *fields: np.concatenate(fields), *parts)


def check_finite(scores: Scores, names: Sequence[str]) -> None:
    """Raises CaeError for the first of the images so named with a distance or a residual map that
    is not finite."""
    for what, fields in (("distance", scores.distances), ("residual map", scores.residuals)):
        for kind, values in fields.items():
            finite = np.isfinite(values).all(axis=tuple(range(1, np.ndim(values))))
            if not finite.all():
                name = names[int(np.argmin(finite))]
                raise CaeError(f"{name}: the {what} {kind} is not finite; was it trained well?")


def milliseconds_per_image(
    score: Scorer, variables: Variables, images: np.ndarray, repeats: int = 5
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
