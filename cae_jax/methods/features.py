"""Feature maps to learn good images in: a pretrained network's stages, or a fixed filter bank."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from cae_jax.jit import one_by_one
from cae_jax.methods.options.features import AUTO, FILTER_BANK, Features
from cae_jax.models import filters
from cae_jax.types import (
    Evidence,
    Fit,
    Method,
    Seen,
    Size,
    UsageError,
    Variables,
    height_width,
    unknown_name,
)

if TYPE_CHECKING:
    from cae_jax.models.backbones import Backbone

AT_ONCE = 8  # images whose features are computed at a time while fitting
Extract: TypeAlias = Callable[[Variables, jax.Array], dict[str, jax.Array]]


class Extractor(NamedTuple):
    """Features of images of one size, and how large they are."""

    # ({"frozen": ...}, images [B, *size, C] in [0, 1]) -> float32 [B, h, w, c]
    maps: Callable[[Variables, jax.Array], jax.Array]
    frozen: Mapping[str, Any]  # the network's weights; {} of filters
    grid: tuple[int, int]  # h, w
    channels: int  # c, of all stages together
    # whether channels are of different units, to be divided by their `deviations`
    uneven: bool = False
    at_hand: bool = False  # whether features stand in the place of images

    def of(self, images: jax.Array) -> jax.Array:
        """Returns the features of images while learning, where the weights are constants."""
        return self.maps({"frozen": dict(self.frozen)}, images)

    @property
    def given(self) -> Extractor:
        """The same where features stand in the place of images."""
        return self._replace(maps=lambda variables, maps: maps, at_hand=True)


def learned_of(
    found: Extractor,
    fit: Callable[[Extractor, jax.Array, jax.Array], Variables],
    judge: Callable[[Variables, jax.Array], Evidence],
    distances: tuple[str, ...],
) -> Method:
    """Returns the method that learns features of images in one pass, and judges them by those.

    Args:
      found: the features.
      fit: (extractor, key, images or what its `of` takes in their place) -> variables.
      judge: (variables, features [B, h, w, c]) -> Evidence.
      distances: names of its maps.
    """

    def inspect(variables: Variables, images: jax.Array) -> Evidence:
        return judge(variables, found.maps(variables, images))

    seen = Seen(found.maps, functools.partial(fit, found.given), judge)
    return Method(Fit(functools.partial(fit, found), seen), inspect, distances, found.frozen)


def extractor(
    options: Features,
    size: Size,
    channels: int,
    own: slice = slice(None),
    around: int = 1,
    zeros: bool = False,
) -> Extractor:
    """Returns the features that these options ask for; "auto" is resolved first.

    Args:
      options: which.
      size: of the images.
      channels: of the images, 1 or 3.
      own: which of the network's stages, finest first, where --stages names none.
      around: features are averaged over so many neighbours squared where --neighborhood names no
        other number, see `neighbourhood`.
      zeros: see there.

    Raises:
      UsageError: no such network or stage, or one that cannot take these images.
    """
    o = options.resolved(size)
    around = o.around(around)
    if o.features == FILTER_BANK:
        for name in ("stages", "weights"):
            if getattr(o, name):
                raise UsageError(f"--{name}={getattr(o, name)}: --features=filter_bank has none")
        return of_filters(size, channels, around=around, zeros=zeros)
    network = pretrained(o, own)
    return aligned(network.extract, network.frozen, size, channels, around, zeros)


def pretrained(o: Features, own: slice) -> Backbone:
    """Returns the network that resolved options ask for, `own` as in `extractor`; raises
    UsageError for no such network or stage, or one without weights."""
    # with its weights it is no part of the filter bank's method
    from cae_jax.models import backbones

    if o.features not in backbones.NAMES:
        raise unknown_name("--features", o.features, (*backbones.NAMES, FILTER_BANK, AUTO))
    known = tuple(backbones.STAGES[o.features])
    asked = tuple(name.strip() for name in o.stages.split(",") if name.strip())
    by_name = {str(stage): stage for stage in known}
    for name in asked:
        if name not in by_name:
            raise unknown_name(f"--stages of {o.features}", name, by_name)
    stages = tuple(by_name[name] for name in asked) or known[own]
    return backbones.load(o.features, stages, o.weights, o.feature_precision)


def of_filters(
    size: Size, channels: int, stride: int = 8, around: int = 1, zeros: bool = False
) -> Extractor:
    """Returns the features of the fixed filter bank, as `extractor` those of a network."""
    extract = functools.partial(filters.extract, stride=stride)
    return aligned(extract, {}, size, channels, around, zeros)._replace(uneven=True)


def aligned(
    extract: Extract,
    frozen: Mapping[str, Any],
    size: Size,
    channels: int,
    around: int = 1,
    zeros: bool = False,
) -> Extractor:
    """Returns all maps of `extract` as one, on the finest one's grid.

    Coarser maps are resized bilinearly between the centers of their points.

    Args:
      extract: (variables, images) -> {stage: float32 [B, h, w, c]}.
      frozen: what it needs as the collection "frozen" of its variables.
      size: of the images.
      channels: of the images.
      around, zeros: see `neighbourhood`, which comes before the resizing.
    """

    def maps(variables: Variables, images: jax.Array) -> jax.Array:
        return one_by_one(functools.partial(of_some, variables), images)

    def of_some(variables: Variables, images: jax.Array) -> jax.Array:
        found = extract(variables, images)
        stages = sorted(found.values(), key=lambda one: -one.shape[1])
        grid = stages[0].shape[1:3]
        stages = [neighbourhood(one.astype(jnp.float32), around, zeros) for one in stages]
        return jnp.concatenate([_resized(one, grid) for one in stages], axis=-1)

    image = jax.ShapeDtypeStruct((1, *height_width(size), channels), jnp.float32)
    _, h, w, c = jax.eval_shape(maps, {"frozen": dict(frozen)}, image).shape
    return Extractor(maps, MappingProxyType(dict(frozen)), (h, w), c)


def neighbourhood(maps: jax.Array, around: int, zeros: bool = False) -> jax.Array:
    """Returns the mean over the `around` x `around` points at each of maps [B, h, w, c].

    Points outside of the map do not count, or with `zeros` they do, as 0: features at the border
    are then smaller, and so nearer to each other. `around` is odd; 1 returns the maps themselves.
    """
    if around == 1:
        return maps
    window = (1, around, around, 1)
    sums = lax.reduce_window(maps, 0.0, lax.add, window, (1,) * 4, "SAME")
    if zeros:
        return sums / around**2
    ones = jnp.ones((1, *maps.shape[1:3], 1))
    return sums / lax.reduce_window(ones, 0.0, lax.add, window, (1,) * 4, "SAME")


def in_chunks(
    turn: Callable[[Any, jax.Array, jax.Array, jax.Array], Any],
    start: Any,
    images: jax.Array,
    size: int = AT_ONCE,
) -> Any:
    """Folds a function over images [n, ...], `size` at a time, in one loop compiled once.

    The last chunk ends with the last image, and may begin with some that were there before.

    Args:
      turn: (what was found, the chunk, 1 for its new images and 0 for others, float32 [size], how
        many came before) -> what is found.
      start: what is found in no image.
      images: any number but 0.
      size: of a chunk.

    Raises:
      ValueError: no image at all.
    """
    n = len(images)
    if not n:
        raise ValueError("there is no good image to learn from")
    size = min(size, n)

    def step(found: Any, before: jax.Array) -> tuple[Any, None]:
        first = jnp.minimum(before, n - size)
        new = (first + jnp.arange(size) >= before).astype(jnp.float32)
        return turn(found, lax.dynamic_slice_in_dim(images, first, size), new, before), None

    return lax.scan(step, start, jnp.arange(0, n, size))[0]


def merged(
    mean: jax.Array, own: jax.Array, new: jax.Array, before: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns the mean with that of a chunk merged in, and rows whose squares the merged sum of
    squares has in addition.

    By Chan, Golub and LeVeque ("Updating formulae and a pairwise algorithm for computing sample
    variances", 1979): the new ones' deviations from their own mean, and one row more for how far
    that is from the mean before.

    Args:
      mean: [...], of those before.
      own: the chunk's [b, ...].
      new: [b], 1 for those that count and 0 for others.
      before: how many came before.
    """
    weights = new.reshape(-1, *(1,) * (own.ndim - 1))
    n = jnp.maximum(jnp.sum(new), 1)  # where none counts, nothing is added
    share = jnp.sum(new) / (before + n)
    center = jnp.sum(weights * own, axis=0) / n
    away = center - mean
    rows = jnp.concatenate([weights * (own - center), jnp.sqrt(before * share) * away[None]])
    return mean + away * share, rows


def deviations(found: Extractor, images: jax.Array, size: int = AT_ONCE) -> jax.Array:
    """Returns what each channel is to be divided by: 1 where the channels are of one unit.

    Otherwise its standard deviation over all points of all images, in a pass over them. A channel
    that never changes has 1.

    Args:
      found: the features.
      images: float32 [n, H, W, C].
      size: images at a time.

    Returns:
      float32 [c].
    """
    c = found.channels
    if not found.uneven:
        return jnp.ones(c)
    (h, w), n = found.grid, len(images)

    def turn(held: tuple, chunk: jax.Array, new: jax.Array, before: jax.Array) -> tuple:
        mean, squares = held
        mean, rows = merged(mean, found.of(chunk), new, before)
        return mean, squares + jnp.sum(jnp.square(rows), axis=(0, 1, 2))

    mean, squares = in_chunks(turn, (jnp.zeros((h, w, c)), jnp.zeros(c)), images, size)
    return divisors(squares / (n * h * w) + jnp.var(mean, axis=(0, 1)))


def divisors(variance: jax.Array) -> jax.Array:
    """Returns the root of variances, 1 for one of 0."""
    return jnp.where(variance > 0, jnp.sqrt(variance), 1.0)


def _resized(maps: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """Maps [B, h, w, c] on a grid of that size."""
    if maps.shape[1:3] == size:
        return maps
    return jax.image.resize(maps, (maps.shape[0], *size, maps.shape[-1]), "linear")
