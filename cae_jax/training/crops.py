"""Training crops: plain, or turned, shifted and mirrored as Bergmann et al. (CVPR 2019) do.

The paper enlarges every category to 10,000 pictures: textures by crops at random angles, objects by
random shift and rotation, mirrored where the object allows it. Its ranges are not published; those
here are ours. Where to crop is drawn on the host from a seed; cutting is part of the compiled step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.ndimage import map_coordinates

from cae_jax.training.schedule import KINDS, Schedule
from cae_jax.types import Images, Levels, UsageError, divided, unknown_name

MAX_ANGLE = 10.0  # of an object, in degrees to either side
MAX_SHIFT = 0.05  # of an object beyond the image's border, as a share of the image's side

# Each draws from a stream of its own: more validation crops do not move the training crops.
_TRAIN_STREAM, _VALIDATION_STREAM, _ORDER_STREAM, _REDRAW_STREAM = range(4)


class Placed(NamedTuple):
    """`types.Levels` on a device: images are values there, and real numbers once they are cut."""

    values: jax.Array  # uint8 or uint16 [m, H, W, C]
    of_value: jax.Array  # float32 [256 or 65536]: what each of them is


class Choice(NamedTuple):
    """What a category allows."""

    kind: str
    reason: str


# fmt: off
CATEGORIES = {
    "bottle": Choice("object_mirror", "seen from above, a ring without left or right"),
    "cable": Choice("object", "mirrored, its three colored wires stand in the wrong order"),
    "capsule": Choice("object", "mirrored, its print cannot be read"),
    "carpet": Choice("texture", "a weave, the same everywhere"),
    "grid": Choice("texture", "a mesh, the same everywhere"),
    "hazelnut": Choice("object_mirror", "a nut grows either way round"),
    "leather": Choice("texture", "a grain without direction"),
    "metal_nut": Choice("object", "its blades turn one way; mirrored it looks upside down, "
                                  "which is its defect `flip`"),
    "pill": Choice("object", "mirrored, its print cannot be read"),
    "screw": Choice("object", "mirrored, its thread is left-handed"),
    "tile": Choice("texture", "speckles without direction"),
    "toothbrush": Choice("object_mirror", "the left half of its head is like the right one"),
    "transistor": Choice("object", "mirrored, its legs stand in the wrong order; a larger shift "
                                   "would be its defect `misplaced`"),
    "wood": Choice("texture", "the paper turns every texture, though this one's grain is upright"),
    "zipper": Choice("object_mirror", "both tapes are alike, and mirrored teeth are teeth moved "
                                      "by half a pitch"),
}  # of MVTec AD
# fmt: on


def kind_for(asked: str, category: str) -> str:
    """Returns the kind of augmentation, one of KINDS, that `asked` means for a category.

    Args:
      asked: one of KINDS, returned as it is, or "auto": what CATEGORIES says.
      category: its name in MVTec AD; any name where `asked` is not "auto".

    Raises:
      UsageError: neither of these, or "auto" for a category that is not in CATEGORIES.
    """
    if asked in KINDS:
        return asked
    if asked != "auto":
        raise unknown_name("--augment", asked, (*KINDS, "auto"))
    if category not in CATEGORIES:
        raise UsageError(
            f"--augment=auto knows the categories of MVTec AD, not {category!r}: "
            f"pass one of {', '.join(KINDS)}"
        )
    return CATEGORIES[category].kind


def draw(
    images_shape: tuple[int, ...], patch_size: int, n: int, key: tuple[int, ...], kind: str
) -> np.ndarray:
    """Draws where and how to crop.

    "none": corners uniform over the pixels for which a crop lies in its image (thesis, Sec. 4.1.1).
    "texture": angles uniform over the full circle, then corners uniform where the turned crop
    stays in the image; along an axis on which it cannot, it is centered.
    "object": angles up to MAX_ANGLE to either side, corners as "none" but continuous and up to
    MAX_SHIFT of the image's side beyond. "object_mirror": every second one mirrored, by chance.

    Args:
      images_shape: (m, H, W, C).
      patch_size: p, in pixels.
      n: how many.
      key: seeds the draw.
      kind: one of KINDS.

    Returns:
      "none": int32 [n, 3] of (image, row, column), rows in 0..H-p, columns in 0..W-p, both ends
      included. Otherwise float32 [n, 5] of (image, row, column, angle, flip): the corner before
      the crop is turned about its center, by an angle in radians, counterclockwise as it appears;
      flip is -1 where it is then mirrored left to right, else 1.

    Raises:
      ValueError: an unknown kind.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    rng = np.random.default_rng(key)
    m, *sides, _ = images_shape
    free = np.array(sides) - patch_size  # pixels that a crop can move
    if kind == "none":
        return rng.integers(0, (m, *(free + 1)), size=(n, 3), dtype=np.int32)
    image = rng.integers(0, m, size=(n, 1))
    if kind == "texture":
        angle = rng.uniform(0, 2 * math.pi, (n, 1))
        extent = (patch_size - 1) * (np.abs(np.cos(angle)) + np.abs(np.sin(angle)) - 1) / 2
        beyond = -np.minimum(extent, free / 2)
    else:
        angle = np.radians(rng.uniform(-MAX_ANGLE, MAX_ANGLE, (n, 1)))
        beyond = MAX_SHIFT * np.array(sides)
    corner = rng.uniform(-beyond, free + beyond, (n, 2))
    flip = rng.choice((-1, 1), (n, 1)) if kind == "object_mirror" else np.ones((n, 1))
    return np.concatenate([image, corner, angle, flip], axis=1).astype(np.float32)


def levels(images: Levels) -> Placed:
    """Returns images as they go to a device. What a value is is looked up there: a compiler makes
    of a quotient the product with a reciprocal, which has other last bits."""
    values = images.values
    every = np.arange(np.iinfo(values.dtype).max + 1, dtype=values.dtype)
    return Placed(values, divided(every, images.white))  # type: ignore[arg-type]


def cut(images: jax.Array | Placed, crops: jax.Array, patch_size: int) -> jax.Array:
    """Cuts crops out of images.

    Plain ones are slices; others are sampled bilinearly, and beyond its border an image goes on as
    its reflection, the last pixel repeated (SciPy's "reflect").

    Args:
      images: [m, H, W, C]; `Placed` for plain crops alone.
      crops: [n, 3] or [n, 5], see `draw`.
      patch_size: p, in pixels.

    Returns:
      [n, p, p, C].
    """
    if isinstance(images, Placed):
        return images.of_value[cut(images.values, crops, patch_size)]
    shape = (1, patch_size, patch_size, images.shape[-1])

    def plain(at: jax.Array) -> jax.Array:
        return lax.dynamic_slice(images, (at[0], at[1], at[2], 0), shape)[0]

    def turned(crop: jax.Array) -> jax.Array:
        at = _sample_points(crop, patch_size)
        image = images[crop[0].astype(jnp.int32)]
        sample = jax.vmap(lambda plane: map_coordinates(plane, at, 1, "reflect"), -1, -1)
        return sample(image)

    with jax.named_scope("crop"):
        return jax.vmap(plain if crops.shape[1] == 3 else turned)(crops)


def _sample_points(crop: jax.Array, patch_size: int) -> tuple[jax.Array, jax.Array]:
    """Rows and columns [p, p], in pixels of the image, of what a crop [5] shows."""
    _, row, column, angle, flip = crop
    half = (patch_size - 1) / 2
    down = (jnp.arange(patch_size) - half)[:, None]
    right = flip * down.T
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return row + half + cos * down + sin * right, column + half - sin * down + cos * right


def epoch_crops(images: Images, schedule: Schedule, epoch: int) -> Iterator[np.ndarray]:
    """Yields an epoch's batches of crops of images [m, H, W, C], of which the shape alone counts,
    as `draw` gives them, in the epoch's order."""
    s = schedule
    key = (s.seed, _REDRAW_STREAM, epoch) if s.redraw else (s.seed, _TRAIN_STREAM)
    drawn = draw(images.shape, s.patch_size, s.num_patches, key, s.augment)
    order = np.random.default_rng((s.seed, _ORDER_STREAM, epoch)).permutation(s.num_patches)
    for i in range(s.steps_per_epoch):
        yield drawn[order[i * s.batch_size : (i + 1) * s.batch_size]]


def validation_crops(train: Images, validation: Images, schedule: Schedule) -> list[np.ndarray]:
    """Returns fixed crops of the images held out, in whole batches, as many as is their share of
    the images; none without images."""
    if not len(validation):
        return []
    share = schedule.num_patches * len(validation) / (len(validation) + len(train))
    n = math.ceil(share / schedule.batch_size) * schedule.batch_size
    key = (schedule.seed, _VALIDATION_STREAM)
    drawn = draw(validation.shape, schedule.patch_size, n, key, "none")
    return np.split(drawn, n // schedule.batch_size)
