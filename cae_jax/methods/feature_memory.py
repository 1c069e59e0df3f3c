"""A memory of the good images' features, and how far the nearest of them is: PatchCore.

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022 (arXiv 2106.08265).
The features of a point, averaged over its 3 x 3 neighbours, of a network's second and third stage;
of those of all good images a greedy coreset, found on a random projection to 128 dimensions, is the
memory. A point is as bad as the nearest member is far, wherever in the image that one comes from,
so products need not be aligned.

--coreset is the smallest of the paper's, 1 %: it gives an image AUROC of 99.0 on MVTec AD where its
largest, 25 %, gives 99.1. --memory_scoring=paper has true distances and an image's number by
equation 7; "official", as the authors' code (amazon-science/patchcore-inspection) has it, squared
distances and none of that equation. Different from that code: neighbours are averaged without those
outside of the map, channels are concatenated without pooling them to 1024, the greedy choice starts
at one random vector, which is a member, instead of ten, and where good images have more features
than --candidates, as many random ones of each image are chosen from.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from cae_jax.methods.features import (
    Extractor,
    deviations,
    extractor,
    in_chunks,
    learned_of,
)
from cae_jax.methods.neighbors import coreset, nearest, project
from cae_jax.methods.options.feature_memory import Head, Options
from cae_jax.types import Evidence, Method, Size, UsageError, Variables

DISTANCES = ("nearest",)
# neighbours that features are averaged over, along a side; those outside of the image count as 0,
# as they do where the authors' code unfolds a map
_AROUND = 3
_MIDDLE = slice(1, 3)  # of a network's stages
_PROJECTED = 128  # dimensions in which the coreset is chosen
_NEIGHBORS = 9  # b of equation 7, as anomalib has it


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError."""
    return of_features(options, extractor(options, size, channels, _MIDDLE, _AROUND, zeros=True))


def of_features(o: Head, found: Extractor) -> Method:
    """Returns the method on any features; its map is the distance to the nearest member, or its
    square. The variables are "memory" [m, c] and "divide" [c], 1 for features of a network.

    Raises UsageError for a share of nothing.
    """
    if o.coreset == 0:
        raise UsageError("--coreset=0.0: must be above 0, for a memory to keep something")

    def fit(found: Extractor, key: jax.Array, images: jax.Array) -> Variables:
        for_points, for_matrix, for_first = jax.random.split(key, 3)
        divide = deviations(found, images)
        vectors = drawn(found, for_points, images, o.candidates) / divide
        count = max(1, round(o.coreset * len(vectors)))
        first = jax.random.randint(for_first, (), 0, len(vectors))
        chosen = coreset(project(for_matrix, vectors, _PROJECTED), first, count)
        return {"params": {"memory": vectors[chosen], "divide": divide}}

    def judge(variables: Variables, features: jax.Array) -> Evidence:
        memory, divide = variables["params"]["memory"], variables["params"]["divide"]
        b, h, w, c = features.shape
        queries = (features / divide).reshape(b * h * w, c)
        distances, indices = (each.reshape(b, h * w) for each in nearest(queries, memory))
        maps = distances.reshape(b, h, w)
        if o.memory_scoring == "official":
            return Evidence({"nearest": jnp.square(maps)})
        worst = jnp.argmax(distances, axis=1)
        of_worst = jnp.arange(b), worst
        numbers = reweighted(
            queries.reshape(b, h * w, -1)[of_worst], memory, indices[of_worst], distances[of_worst]
        )
        return Evidence({"nearest": maps}, {"nearest": numbers})

    return learned_of(found, fit, judge, DISTANCES)


def drawn(found: Extractor, key: jax.Array, images: jax.Array, at_most: int) -> jax.Array:
    """Returns features of images [n, H, W, C], of as many random points of each: float32 [m, c].

    All of them, in order, where they are no more than `at_most`; never less than one of an image.
    """
    n, points = len(images), found.grid[0] * found.grid[1]
    each = max(1, min(points, at_most // max(n, 1)))

    def turn(held: jax.Array, chunk: jax.Array, new: jax.Array, before: jax.Array) -> jax.Array:
        first = jnp.minimum(before, n - len(chunk))
        own = found.of(chunk).reshape(len(chunk), points, -1)
        if each < points:
            keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(first + jnp.arange(len(chunk)))
            which = jax.vmap(lambda k: jax.random.permutation(k, points)[:each])(keys)
            own = jnp.take_along_axis(own, which[..., None], axis=1)
        return jax.lax.dynamic_update_slice_in_dim(held, own, first, axis=0)

    held = in_chunks(turn, jnp.zeros((n, each, found.channels)), images)
    return held.reshape(n * each, -1)


def reweighted(
    worst: jax.Array, memory: jax.Array, member: jax.Array, distance: jax.Array
) -> jax.Array:
    """Returns the images' numbers by equation 7 of the paper.

    With s* the distance from an image's worst point to its nearest member m*, the number is
    s = (1 - exp(s*) / sum over m of exp|worst - m|) s*, over the nine members next to m*, itself
    one of them: it is larger where m* is alone, and so rare among good images. Of a memory of one,
    s is s*.

    Args:
      worst: float32 [B, c], features of the worst points.
      memory: float32 [m, c].
      member: int [B], the index of m*.
      distance: float32 [B], s*.
    """
    b = min(_NEIGHBORS, len(memory))
    if b == 1:
        return distance
    beside = memory[nearest(memory[member], memory, b)[1]]
    apart = jnp.linalg.norm(worst[:, None] - beside, axis=-1)
    # of members equal to m* any may come first, none of which is farther from the worst point
    share = jnp.exp(distance - jax.nn.logsumexp(apart, axis=1))
    return (1 - share) * distance
