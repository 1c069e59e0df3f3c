"""Brightness that means nothing taken out: each image made even by a statistic of its own pixels.

How bright an image is says more of the camera than of the product. Where good test images are
darker than those learned from, every distance that grows with brightness follows that and nothing
else; --intensity divides it out, for learning and scoring alike, whatever the method. Nothing is
clipped: what is much brighter than its image's median is above 1 then, and still told apart.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cae_jax import files
from cae_jax.scoring.median import median
from cae_jax.scoring.options import INTENSITIES
from cae_jax.types import A, Images, unknown_name

# where mean_std puts an image: the mean of ImageNet's channels, and of their deviations
_MIDDLE, _SPREAD = 0.45, 0.225
_DARKEST = 1e-3  # in [0, 1]: no image is divided by less
_ABOVE = 2.0  # more than any pixel of an image in [0, 1]
_AT_ONCE = 16  # images made even at a time before learning


class Light(NamedTuple):
    """What each of B images is made even by: `base` + (the image - `center`) * `scale`."""

    center: jax.Array | float  # [B, 1, 1, 1]
    scale: jax.Array
    base: float

    def out_of(self, images: jax.Array) -> jax.Array:
        """Returns images [B, H, W, C] without it."""
        return self.base + (images - self.center) * self.scale

    def into(self, images: jax.Array) -> jax.Array:
        """Returns even images [B, H, W, C] with it, as bright as they were."""
        return (images - self.base) / self.scale + self.center


def light(images: jax.Array, intensity: str, counts: jax.Array | None = None) -> Light | None:
    """Returns the light of images by a statistic of the pixels of each; None for "none".

    Args:
      images: float32 [B, H, W, C] in [0, 1].
      intensity: "median", the image divided by its median, for products before a bright ground;
        "mean_std", the image with a mean of 0.45 and a deviation of 0.225, what a network trained
        on ImageNet is used to; "none".
      counts: the pixels that it is of, bool [B, H, W]; None for all.

    Raises:
      UsageError: another name.
    """
    axes = (1, 2, 3)
    if intensity == "none":
        return None
    if intensity == "median":
        values = images
        if counts is not None:  # the others are once below all, once above all: no weight is left
            shown = counts[..., None]
            below, above = jnp.where(shown, images, 0.0), jnp.where(shown, images, _ABOVE)
            values = jnp.concatenate([below, above], axis=1)
        middle = jax.vmap(lambda image: median(image.ravel()))(values).reshape(-1, 1, 1, 1)
        return Light(0.0, 1 / jnp.maximum(middle, _DARKEST), 0.0)
    if intensity == "mean_std":
        of = None if counts is None else jnp.broadcast_to(counts[..., None], images.shape)
        mean = jnp.mean(images, axis=axes, keepdims=True, where=of)
        spread = jnp.std(images, axis=axes, keepdims=True, where=of)
        return Light(mean, _SPREAD / jnp.maximum(spread, _DARKEST), _MIDDLE)
    raise unknown_name("--intensity", intensity, INTENSITIES)


def even(images: jax.Array, intensity: str, counts: jax.Array | None = None) -> jax.Array:
    """Returns images [B, H, W, C] made even, each by itself, see `light`; "none": as they are."""
    found = light(images, intensity, counts)
    return images if found is None else found.out_of(images)


def all_even(images: Images, intensity: str, seen: Images | None = None) -> Images:
    """Returns all images [n, H, W, C] made even, on the host, for learning; n may be 0.

    Where they lie; they themselves for "none". Beside both, memory holds a chunk. `seen` are the
    same as `Split.seen` gives them: where they have a channel more, by what counts.
    """
    if intensity == "none" or not len(images):
        return images
    found = files.large_array(images.shape, held=files.where(images))
    given, size = images if seen is None else seen, min(_AT_ONCE, len(images))
    for start in range(0, len(images), size):
        first = min(start, len(images) - size)
        some, counts = parted(given[first : first + size], images.shape[-1])
        found[first : first + size] = _even(some, intensity, counts)
    return found


def parted(images: A, channels: int | None) -> tuple[A, A | None]:
    """Returns images [B, H, W, C] and what of them counts, bool [B, H, W], of `channels` and one
    more, see `types.with_counts`; None for what counts where they have no more, or none is said."""
    if channels is None or images.shape[-1] == channels:
        return images, None
    return images[..., :channels], images[..., channels] > 0.5


def seen_with(intensity: str, channels: int | None = None) -> Callable[[np.ndarray], np.ndarray]:
    """Returns what makes one image even, on the host: [H, W, C], or as `Split.seen` gives it, of
    `channels` and what counts, by which it is then made even; that channel is not given back."""

    def seen(image: np.ndarray) -> np.ndarray:
        images, counts = parted(image[None], channels)
        return np.asarray(images if intensity == "none" else _even(images, intensity, counts))[0]

    return seen


_even = jax.jit(even, static_argnums=1)
