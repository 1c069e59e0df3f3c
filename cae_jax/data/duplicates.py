"""The same photograph twice: exact copies by a hash, near ones by what a new photograph changes.

Good products look alike, and two photographs of alike products are no duplicates: what tells them
apart is fine structure (grain, dust, scratches), which a second photograph does not repeat and a
copy does, be it brighter, recompressed or shifted by a pixel. An image's sketch is its means over
blocks, about 64 x 64 of them, minus their neighbours', cut at four times the median so that a few
strong edges do not decide. Two images are near duplicates when their sketches correlate by at least
ALIKE, one image shifted by up to a pixel in either direction.

Measured at 256 x 256: different photographs of hazelnut, cookie and screw at most 0.64, different
synthetic products 0.81. Copies of these photographs recompressed at JPEG quality 75, shifted by a
pixel or cropped by two before the resize, brighter, darker, or with 1 % of noise: 0.90 and more.
Missed are copies at JPEG quality 30, many at 50, and recompressed or noisy copies of a texture that
is itself little more than noise (the synthetic grain).
"""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from cae_jax.types import Duplicate

ALIKE = 0.88
MIN_SIZE = 64  # pixels a side; smaller images show no fine structure: only exact copies are found

_FIRST = 0.6  # of unshifted sketches, for a second look: a shift by a pixel costs up to 0.3
_CUT = 4.0  # medians
_FLAT = 1e-4  # a fortieth of a gray level of 255: rounding, no structure
_AT_ONCE = 256  # images


class Pairs(NamedTuple):
    """Pairs of images that are the same photograph, m of them, by their place in the list."""

    first: np.ndarray  # int64 [m], smaller than
    second: np.ndarray  # int64 [m]
    similarity: np.ndarray  # float32 [m]: inf for equal pixels, else from ALIKE to 1


def find(parts: Sequence[np.ndarray]) -> Pairs:
    """Returns the duplicates among all images of all parts.

    Of more than two equal images each is paired with the first, and that one stands for all of
    them in near pairs.

    Args:
      parts: arrays float32 [n, H, W, C] in [0, 1], all of one size; places count through them.
    """
    images = list(itertools.chain(*parts))
    first: dict[bytes, int] = {}
    exact = []
    for at, image in enumerate(images):
        digest = hashlib.sha256(np.ascontiguousarray(image).data).digest()
        if (before := first.setdefault(digest, at)) != at:
            exact.append((before, at, np.inf))
    different = sorted(first.values())
    near = []
    if images and min(images[0].shape[:2]) >= MIN_SIZE:
        near = _near([images[at] for at in different])
    rows = np.array(exact).reshape(-1, 3)
    found = [(different[i], different[j], r) for i, j, r in near]
    rows = np.concatenate([rows, np.array(found).reshape(-1, 3)])
    before, after = rows[:, :2].T.astype(np.int64)
    return Pairs(before, after, rows[:, 2].astype(np.float32))


def groups(n: int, pairs: Pairs) -> np.ndarray:
    """Returns int [n], equal for those of the first n images that pairs connect, even by a chain.

    Near duplicates that chain through more than half of all are how the product looks, or one
    film of it: then exact copies alone are connected.
    """
    from scipy import sparse  # takes its time, which a --help need not wait for
    from scipy.sparse import csgraph

    def connected(which: np.ndarray) -> np.ndarray:
        ends = (pairs.first[which], pairs.second[which])
        graph = sparse.coo_array((np.ones(len(ends[0])), ends), shape=(n, n))
        return csgraph.connected_components(graph, directed=False)[1]

    inside = pairs.second < n
    found = connected(inside)
    if n and 2 * np.bincount(found).max() > n:
        return connected(inside & np.isinf(pairs.similarity))
    return found


def table(paths: Sequence[str], n_train: int, pairs: Pairs) -> tuple[Duplicate, ...]:
    """Returns every image that repeats others, with the most similar of the images before it.

    An image is listed once for the training and once for the test images that it repeats.

    Args:
      paths: of all images in the order of `find`, the n_train to learn from first.
      n_train: how many these are.
      pairs: what `find` returned.
    """
    best: dict[tuple[int, bool], tuple[float, int]] = {}
    for first, second, similarity in zip(*(column.tolist() for column in pairs), strict=True):
        key = (second, first < n_train)
        best[key] = max(best.get(key, (0.0, -1)), (similarity, first))
    return tuple(
        Duplicate(
            paths[second],
            paths[first],
            "exact" if similarity > 1 else "near",
            min(similarity, 1.0),
        )
        for (second, _), (similarity, first) in sorted(best.items())
    )


def warnings(category: str, found: Sequence[Duplicate]) -> tuple[str, ...]:
    """Says in one line each what repeats what: how many images, and the first of them."""
    lines = []
    for part, of, meaning in (
        ("test", "train", "their scores are of images that training saw"),
        ("train", "train", "kept together, held out or in a fold"),
        ("test", "test", "they count twice"),
    ):
        rows = [d for d in found if (_part(d.path), _part(d.like)) == (part, of)]
        if rows:
            n_exact = sum(d.kind == "exact" for d in rows)
            lines.append(
                f"{category}: {part} images that repeat {of} images: {n_exact} exactly, "
                f"{len(rows) - n_exact} nearly, such as {rows[0].path!r} and {rows[0].like!r}: "
                f"{meaning}; all are in duplicates.csv"
            )
    return tuple(lines)


def _part(path: str) -> str:
    return path.partition("/")[0]


def _near(images: Sequence[np.ndarray]) -> list[tuple[int, int, float]]:
    """Near duplicates among different images of one size, at least MIN_SIZE: places, similarity."""
    chunks = range(0, len(images), _AT_ONCE)
    sketches = np.concatenate([_sketches(np.stack(images[i : i + _AT_ONCE])) for i in chunks])
    found = []
    for start in chunks:
        alike = sketches[start : start + _AT_ONCE] @ sketches.T > _FIRST
        for i in range(start, start + len(alike)):
            others = i + 1 + np.flatnonzero(alike[i - start, i + 1 :])
            if not len(others):
                continue
            moves = itertools.product((-1, 0, 1), repeat=2)
            moved = _sketches(np.stack([np.roll(images[i], move, (0, 1)) for move in moves]))
            similarity = np.minimum((sketches[others] @ moved.T).max(axis=1), 1)
            which = similarity >= ALIKE
            found += [
                (i, int(j), float(r)) for j, r in zip(others[which], similarity[which], strict=True)
            ]
    return found


def _sketches(images: np.ndarray) -> np.ndarray:
    """Sketches of images [n, H, W, C] as rows of length 1, or 0 for an image without structure."""
    from scipy import ndimage  # as in `groups`

    k = min(images.shape[1:3]) // MIN_SIZE
    height, width = (side // k for side in images.shape[1:3])
    gray = images[:, : height * k, : width * k]
    gray = gray.mean(axis=-1) if gray.shape[-1] > 1 else gray[..., 0]
    # One axis at a time, and by slices: several times faster than one mean over both.
    rows = functools.reduce(np.add, (gray[:, i::k] for i in range(k)))
    sums = functools.reduce(np.add, (rows[:, :, i::k] for i in range(k)))
    means = sums / np.float32(k * k)
    detail = means - ndimage.uniform_filter(means, (1, 3, 3))
    detail = detail[:, 1:-1, 1:-1].reshape(len(images), -1)  # the border has moved in
    detail[np.abs(detail) < _FLAT] = 0
    for row in detail:
        if row.any():
            cut = _CUT * np.median(np.abs(row[row != 0]))
            np.clip(row, -cut, cut, out=row)
            row -= row.mean()
            row /= np.linalg.norm(row)
    return detail
