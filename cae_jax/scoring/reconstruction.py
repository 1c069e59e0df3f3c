"""Reconstruction by patches: what autoencoders, GANs and inpainting have in common at test time.

An image is cut into overlapping patches, each is reconstructed, the patches are averaged back
(thesis, Figures 10 to 12), and every distance compares the result with the image, pixel by pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from cae_jax.scoring import patches as windows
from cae_jax.scoring import residuals, ssim
from cae_jax.scoring.options import DISTANCES, Windows
from cae_jax.types import (
    Evidence,
    Reconstruction,
    Size,
    UsageError,
    Variables,
    height_width,
    size_text,
)

Reconstruct: TypeAlias = Callable[[Variables, jax.Array], Reconstruction]
# Side by side in a turn of the loop over more: at a turn's end a core waits for the other, in turns
# of 9 for a tenth of the time of 8 images, in turns of 18 for .03 of it.
_CHUNKS_AT_ONCE = 18
Inspect: TypeAlias = Callable[[Variables, jax.Array], Evidence]


def check(w: Windows, size: Size) -> None:
    """Raises UsageError, naming the flag, for windows that cannot work on images of that size."""
    windows.check_sizes(size, w.patch_size, w.stride)
    ssim.check(w.ssim)
    if w.residual_border != "crop":
        return
    if w.residual_average == "maps":
        raise UsageError(
            "--residual_border=crop: not with --residual_average=maps, where every patch would "
            "leave its border out of the average; take reflect or edge"
        )
    if w.ssim_window > min(height_width(size)):
        raise UsageError(
            f"--ssim_window={w.ssim_window}: --residual_border=crop would leave nothing of "
            f"images of --image_size={size_text(size)}"
        )


def by_patches(
    reconstruct: Reconstruct,
    w: Windows,
    chunk_size: int | None = None,
    own: Mapping[str, Callable[[jax.Array, jax.Array], jax.Array]] | None = None,
) -> Inspect:
    """Returns a method's `inspect`, pure: images to maps by distance and their reconstruction.

    Args:
      reconstruct: (variables, patches [N, p, p, C]) -> Reconstruction of the same shape. Its aux
        may hold "score" [N], a number of each patch by a paper's own formula.
      w: windows, SSIM and borders.
      chunk_size: patches per pass, passes side by side in one program, so that one's layers fill
        the gaps of another's; None takes `default_chunk_size`. Of more than two images of 81
        patches, as many passes as these have are a turn of a loop, so that the program, and the
        time that it takes to compile, does not grow any more.
      own: further distances, by name: (x, y) [N, H, W, C] -> map [N, H, W]. Of these the image's
        number is the largest "score" of its patches.

    Returns:
      A function (variables, images [B, H, W, C] in [0, 1]) -> Evidence, whose maps are those of
      `own` and of `residuals.DISTANCES`.
    """
    own = own or {}
    reconstruct = jax.jit(reconstruct)  # of each shape traced once, not for every chunk

    def error(name: str, x: jax.Array, y: jax.Array) -> jax.Array:
        if name in own:
            return own[name](x, y)
        return residuals.residual_map(name, x, y, w.ssim, w.residual_border)

    def part(variables: Variables, patches: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        one = reconstruct(variables, patches)
        return one.output, one.aux["score"] if own else None

    def inspect(variables: Variables, images: jax.Array) -> Evidence:
        _, height, width, _ = images.shape
        with jax.named_scope("extract"):
            cut = windows.extract(images, w.patch_size, w.stride)
        flat = cut.reshape(-1, *cut.shape[3:])
        made, score = _in_chunks(part, variables, flat, chunk_size or default_chunk_size())
        with jax.named_scope("merge"):
            output = windows.merge(made.reshape(cut.shape), height, width, w.stride)
        maps = {}
        with jax.named_scope("score"):
            for name in (*own, *DISTANCES):
                if w.residual_average == "maps":  # CVPR 2019 averages the patches' own maps
                    of_patches = error(name, flat, made).reshape(*cut.shape[:-1], 1)
                    maps[name] = windows.merge(of_patches, height, width, w.stride)[..., 0]
                else:
                    maps[name] = error(name, images, output)
        numbers = {}
        if score is not None:
            numbers = dict.fromkeys(own, score.reshape(len(images), -1).max(axis=1))
        return Evidence(maps, numbers, output)

    return inspect


def _in_chunks(
    call: Callable[[Variables, jax.Array], Any],
    variables: Variables,
    patches: jax.Array,
    size: int | None,
) -> Any:
    """A call's result, arrays [N, ...], of patches [N, p, p, C] that it is given in chunks."""
    n = len(patches)
    size = size or n
    if n <= size * _CHUNKS_AT_ONCE:
        return _joined([call(variables, patches[i : i + size]) for i in range(0, n, size)])
    turns = -(-n // (size * _CHUNKS_AT_ONCE))
    size = -(-n // (turns * _CHUNKS_AT_ONCE))
    shape = (turns, _CHUNKS_AT_ONCE, size)
    filled = jnp.pad(patches, ((0, math.prod(shape) - n), *((0, 0),) * 3))
    found = lax.map(
        lambda chunks: _joined([call(variables, chunk) for chunk in chunks]),
        filled.reshape(*shape, *patches.shape[1:]),
    )
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:n], found)


def _joined(parts: list[Any]) -> Any:
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def default_chunk_size() -> int | None:
    """Patches reconstructed at a time: a chunk stays in a CPU's cache; an accelerator takes all."""
    return 9 if jax.default_backend() == "cpu" else None
