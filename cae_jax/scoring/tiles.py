"""Large images tile by tile: any method, built for a tile, on images of any size.

An image is cut into overlapping square tiles at its own resolution, so that a small defect stays as
large as it is. The method learns from tiles of good images and inspects one tile after the other;
its maps are averaged back, each tile weighing less towards its border: over the overlap the weight
rises linearly, so that one tile hands over to the next without a seam. Smoothing and the reduction
to a number come after that, over the whole map.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cae_jax.types import Evidence, Fit, Method, Seen, Steps, UsageError, Variables, size_text


def check(tile: int, overlap: int, size: tuple[int, int]) -> None:
    """Raises UsageError for tiles that cannot cover images of that (height, width)."""
    if not 0 <= overlap < tile:
        raise UsageError(f"--tile_overlap={overlap}: must be from 0 to {tile - 1} (--tile={tile})")
    if tile > min(size):
        raise UsageError(
            f"--tile={tile}: is larger than a side of the image (--image_size={size_text(size)})"
        )


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Returns where tiles begin along a side of an image: `tile` - `overlap` pixels apart, the last
    one where it ends with the side."""
    return [*range(0, side - tile, tile - overlap), side - tile]


def corners(size: tuple[int, int], tile: int, overlap: int) -> np.ndarray:
    """Returns the (row, column) of every tile of an image of that (height, width), int32 [T, 2]."""
    rows, columns = (starts(side, tile, overlap) for side in size)
    return np.array([(row, column) for row in rows for column in columns], np.int32)


def weights(tile: int, overlap: int) -> np.ndarray:
    """Returns what each pixel of a tile weighs, float32 [tile, tile]: the product of both axes'
    weights, which rise from 1 / (overlap + 1) at the border to 1 over the overlap."""
    from_border = np.minimum(np.arange(tile), np.arange(tile)[::-1]) + 1
    along = np.minimum(1, from_border / (overlap + 1)).astype(np.float32)
    return np.outer(along, along)


def covered(size: tuple[int, int], tile: int, overlap: int) -> np.ndarray:
    """Returns the sum of the weights of all tiles at every pixel, float32 [H, W]."""
    found, one = np.zeros(size, np.float32), weights(tile, overlap)
    for row, column in corners(size, tile, overlap):
        found[row : row + tile, column : column + tile] += one
    return found


def tiled(method: Method, tile: int, overlap: int, size: tuple[int, int]) -> Method:
    """Returns a method of tiles as one of images of that (height, width).

    One that learns by steps learns from crops of the images as they are, which are no larger than a
    tile; one that learns in one pass from the tiles that an image is inspected by. A method's own
    number of an image is left out: it is one of a tile.

    Args:
      method: for images [B, tile, tile, C].
      tile: side of a tile, in pixels.
      overlap: pixels that two tiles have in common.
      size: of the images.

    Raises:
      UsageError: tiles that cannot cover such images.
    """
    check(tile, overlap, size)
    at = corners(size, tile, overlap)

    def cut(images: jax.Array, t: Any) -> jax.Array:
        row, column = jnp.asarray(at)[t]
        n, channels = images.shape[0], images.shape[-1]
        return lax.dynamic_slice(images, (0, row, column, 0), (n, tile, tile, channels))

    def inspect(variables: Variables, images: jax.Array) -> Evidence:
        def of(t: Any) -> Evidence:
            return method.inspect(variables, cut(images, t))

        return _merged(of, at, tile, overlap, size)

    learn = method.learn
    if not isinstance(learn, Steps):
        learn = _of_tiles(learn, cut, at, tile, overlap, size)
    return method._replace(learn=learn, inspect=inspect)


def _of_tiles(
    learn: Fit,
    cut: Callable[[jax.Array, Any], jax.Array],
    at: np.ndarray,
    tile: int,
    overlap: int,
    size: tuple[int, int],
) -> Fit:
    """How tiles of images, or features of tiles, are learned from."""

    def fit(key: jax.Array, images: jax.Array) -> Variables:
        each = lax.map(functools.partial(cut, images), jnp.arange(len(at)))
        return learn.fit(key, each.reshape(-1, *each.shape[2:]))

    seen = learn.seen
    if seen is None:
        return Fit(fit)
    look_at, learn_of, judge_of = seen

    def look(variables: Variables, images: jax.Array) -> jax.Array:
        each = lax.map(lambda t: look_at(variables, cut(images, t)), jnp.arange(len(at)))
        return jnp.moveaxis(each, 0, 1)

    def fit_of(key: jax.Array, features: jax.Array) -> Variables:
        return learn_of(key, features.reshape(-1, *features.shape[2:]))

    def judge(variables: Variables, features: jax.Array) -> Evidence:
        def of(t: Any) -> Evidence:
            return judge_of(variables, features[:, t])

        return _merged(of, at, tile, overlap, size)

    return Fit(fit, Seen(look, fit_of, judge))


def _merged(
    of: Callable[[Any], Evidence], at: np.ndarray, tile: int, overlap: int, size: tuple[int, int]
) -> Evidence:
    """What tile after tile says, as one: a loop that is compiled once."""
    shape, one = jax.eval_shape(of, 0), jnp.asarray(weights(tile, overlap))
    canvas = {name: jnp.zeros((each.shape[0], *size)) for name, each in shape.maps.items()}
    made = shape.reconstruction
    whole = None if made is None else jnp.zeros((made.shape[0], *size, made.shape[-1]))

    def add(sums: jax.Array, t: Any, each: jax.Array) -> jax.Array:
        where = (0, *jnp.asarray(at)[t], *(0,) * (sums.ndim - 3))
        before = lax.dynamic_slice(sums, where, each.shape)
        return lax.dynamic_update_slice(sums, before + each, where)

    def turn(sums: Any, t: Any) -> tuple[Any, None]:
        found, (maps, picture) = of(t), sums
        maps = {name: add(maps[name], t, full(found.maps[name], tile) * one) for name in found.maps}
        if found.reconstruction is not None:
            picture = add(picture, t, found.reconstruction * one[..., None])
        return (maps, picture), None

    (maps, picture), _ = lax.scan(turn, (canvas, whole), jnp.arange(len(at)))
    total = covered(size, tile, overlap)
    maps = {name: each / total for name, each in maps.items()}
    return Evidence(maps, {}, None if picture is None else picture / total[..., None])


def full(maps: jax.Array, tile: int) -> jax.Array:
    """Returns maps [B, h, w] at a tile's size, bilinear between the centers of their pixels."""
    if maps.shape[1:] == (tile, tile):
        return maps
    return jax.image.resize(maps, (maps.shape[0], tile, tile), "linear")
