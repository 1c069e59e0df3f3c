"""Image <-> overlapping patches: slices out, scatter-add averaging back (thesis Sec. 4.1.2, 4.1.4).

A window moves by `stride` from the first pixel while its start lies inside the image, so a side of
256 pixels at stride 30 gives 9 starts and an image 81 patches; where a window leaves the image, the
last pixel of the edge fills it. Both ways go axis by axis: 9 + 9 copies instead of 81.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cae_jax.types import Size, UsageError, height_width, size_text


def check_sizes(image_size: Size, patch_size: int, stride: int) -> None:
    """Raises UsageError unless 1 <= stride <= patch_size <= the shorter side of the image."""
    side = min(height_width(image_size))
    if patch_size < 1 or patch_size > side:
        raise UsageError(
            f"--patch_size={patch_size} is outside 1..{side} (--image_size={size_text(image_size)})"
        )
    if not 1 <= stride <= patch_size:
        raise UsageError(
            f"--stride={stride} is outside 1..{patch_size} (--patch_size={patch_size}): "
            "a larger one would miss pixels"
        )


def starts(size: int, stride: int) -> tuple[int, ...]:
    """Returns the window starts along one axis in pixels: 0, stride, ... below `size`."""
    return tuple(range(0, size, stride))


def number(size: Size, stride: int) -> int:
    """Returns how many windows an image has."""
    height, width = height_width(size)
    return len(starts(height, stride)) * len(starts(width, stride))


def counts(height: int, width: int, patch_size: int, stride: int) -> np.ndarray:
    """Returns how many windows cover each pixel, float32 [H, W]: Figure 11's second matrix."""

    def along(size: int) -> np.ndarray:
        first = np.array(starts(size, stride))[:, None]
        pixel = np.arange(size)
        return np.sum((first <= pixel) & (pixel < first + patch_size), axis=0)

    return np.outer(along(height), along(width)).astype(np.float32)


def extract(images: jax.Array, patch_size: int, stride: int) -> jax.Array:
    """Cuts every window out of images; what lies outside repeats the edge.

    Args:
      images: [B, H, W, C].
      patch_size: p, the window's side in pixels.
      stride: pixels between starts, 1..p.

    Returns:
      [B, R, K, p, p, C]: R starts along H, K starts along W, in reading order.

    Raises:
      UsageError: the sizes cannot work.
    """
    _, height, width, _ = images.shape
    check_sizes((height, width), patch_size, stride)
    rows, columns = starts(height, stride), starts(width, stride)
    below = max(0, rows[-1] + patch_size - height)
    right = max(0, columns[-1] + patch_size - width)
    images = jnp.pad(images, ((0, 0), (0, below), (0, right), (0, 0)), "edge")
    cut = [lax.slice_in_dim(images, r, r + patch_size, axis=1) for r in rows]
    bands = jnp.stack(cut, axis=1)
    cut = [lax.slice_in_dim(bands, c, c + patch_size, axis=3) for c in columns]
    return jnp.stack(cut, axis=2)


def merge(patches: jax.Array, height: int, width: int, stride: int) -> jax.Array:
    """Averages overlapping patches back into images: the inverse of `extract`.

    Sums by scatter-add, then divides by the matrix of counts (Figure 11).

    Args:
      patches: [B, R, K, p, p, C] as `extract` gives them.
      height: H of the images, in pixels.
      width: W of the images, in pixels.
      stride: as given to `extract`.

    Returns:
      [B, H, W, C].

    Raises:
      ValueError: R or K is not what H, W and the stride give.
    """
    batch, n_rows, n_columns, size, _, channels = patches.shape
    rows, columns = starts(height, stride), starts(width, stride)
    if (n_rows, n_columns) != (len(rows), len(columns)):
        raise ValueError(
            f"{height}x{width} images at stride {stride} have {len(rows)}x{len(columns)} patches, "
            f"got {n_rows}x{n_columns}"
        )
    bands = jnp.zeros((batch, n_rows, size, columns[-1] + size, channels), patches.dtype)
    for k, c in enumerate(columns):
        bands = bands.at[:, :, :, c : c + size].add(patches[:, :, k])
    canvas = jnp.zeros((batch, rows[-1] + size, bands.shape[3], channels), patches.dtype)
    for k, r in enumerate(rows):
        canvas = canvas.at[:, r : r + size].add(bands[:, k])
    return canvas[:, :height, :width] / counts(height, width, size, stride)[:, :, None]
