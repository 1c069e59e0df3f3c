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

One part in one fixture before one camera differs by the sensor's noise alone: every picture is then
nearly every other one, and near copies cannot be told. Where that is so of most of a sample, of one
fixture or of a few, no near pair is looked for; else their number is quadratic, and so would be the
time.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from cae_jax.types import Duplicate, Images

ALIKE = 0.88
MIN_SIZE = 64  # pixels a side; smaller images show no fine structure: only exact copies are found

_FIRST = 0.55  # of unshifted sketches, for a second look: a shift by a pixel costs up to 0.3
_FOURTH = 4  # every so many numbers of a sketch tell a correlation of ALIKE to 0.008
_DOUBT = 0.03
_CUT = 4.0  # medians
_FLAT = 1e-4  # a fortieth of a gray level of 255: rounding, no structure
_AT_ONCE = 32  # images: 9 sketches of each are 4 MB
_SAMPLE, _FEW = 256, 64  # of how many the look is judged; of fewer it cannot be
_MANY, _LARGE = 8, 1 / 8  # a large group has more images than that, and a larger share of all
_MOVES = (-1, 0, 1)  # pixels, along each axis
_HASHED = 5  # every fifth pixel along each axis tells images apart that are not compared in full


class Pairs(NamedTuple):
    """Pairs of images that are the same photograph, m of them, by their place in the list."""

    first: np.ndarray  # int64 [m], smaller than
    second: np.ndarray  # int64 [m]
    similarity: np.ndarray  # float32 [m]: inf for equal pixels, else from ALIKE to 1
    look_alike: bool = False  # most images are nearly equal: near pairs were not looked for


class _Chosen(Sequence[np.ndarray]):
    """Some images of several parts, each taken out when it is asked for."""

    def __init__(self, parts: Sequence[Images], places: Sequence[tuple[int, int]]) -> None:
        self.parts, self.places = parts, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        part, i = self.places[index]
        return self.parts[part][i]

    def only(self, which: Sequence[int]) -> _Chosen:
        return _Chosen(self.parts, [self.places[i] for i in which])


def find(parts: Sequence[Images], progress: Callable[[int], None] = lambda n: None) -> Pairs:
    """Returns the duplicates among all images of all parts.

    Of more than two equal images each is paired with the first, and that one stands for all of
    them in near pairs.

    Args:
      parts: arrays float32 [n, H, W, C] in [0, 1], all of one size; places count through them.
      progress: told how many more images have been compared with those before them.
    """
    images = _Chosen(parts, [(k, i) for k, part in enumerate(parts) for i in range(len(part))])
    exact, different = _exact(images)
    progress(len(exact))
    at = np.array(different, np.int64)
    near, look_alike = np.empty((3, 0)), False
    if images and min(images[0].shape[:2]) >= MIN_SIZE:
        unlike = images.only(different)
        look_alike = _look_alike(unlike)
        if not look_alike:
            near = _near(unlike, progress)
    rows = np.array(exact, np.int64).reshape(-1, 2).T
    ends = np.concatenate([rows, at[near[:2].astype(np.int64)]], axis=1)
    similarity = np.concatenate([np.full(len(exact), np.inf), near[2]]).astype(np.float32)
    return Pairs(ends[0], ends[1], similarity, look_alike)


def _exact(images: Sequence[np.ndarray]) -> tuple[list[tuple[int, int]], list[int]]:
    """Pairs of equal images, the first of them first, and the places of those that differ."""
    like: dict[bytes, list[int]] = {}
    pairs, different = [], []
    for at, image in enumerate(images):
        those = like.setdefault(image[::_HASHED, ::_HASHED].tobytes(), [])
        before = next((i for i in those if np.array_equal(images[i], image)), None)
        if before is None:
            those.append(at)
            different.append(at)
        else:
            pairs.append((before, at))
    return pairs, different


def groups(n: int, pairs: Pairs) -> np.ndarray:
    """Returns int [n], equal for those of the first n images that pairs connect, even by a chain.

    Near duplicates that chain through more than half of all, or through large parts of all that are
    more than half together, are how the product looks, or films of it: then exact copies alone
    are connected.
    """

    inside = pairs.second < n
    found = _connected(n, pairs.first[inside], pairs.second[inside])
    if n and _mostly_alike(found):
        inside &= np.isinf(pairs.similarity)
        return _connected(n, pairs.first[inside], pairs.second[inside])
    return found


def table(paths: Sequence[str], n_train: int, pairs: Pairs) -> tuple[Duplicate, ...]:
    """Returns every image that repeats others, with the most similar of the images before it.

    An image is listed once for the training and once for the test images that it repeats.

    Args:
      paths: of all images in the order of `find`, the n_train to learn from first.
      n_train: how many these are.
      pairs: what `find` returned.
    """
    learned = pairs.first < n_train
    order = np.lexsort((pairs.first, pairs.similarity, learned, pairs.second))
    first, second, similarity = (column[order] for column in pairs[:3])
    same = (second[1:] == second[:-1]) & (learned[order][1:] == learned[order][:-1])
    best = np.ones(len(order), bool)  # the last of those of one image and one part
    best[:-1] = ~same
    rows = (first[best].tolist(), second[best].tolist(), similarity[best].tolist())
    return tuple(
        Duplicate(paths[j], paths[i], "exact" if r > 1 else "near", min(r, 1.0))
        for i, j, r in zip(*rows, strict=True)
    )


def warnings(
    category: str, found: Sequence[Duplicate], look_alike: bool = False
) -> tuple[str, ...]:
    """Says in one line each what repeats what: how many images, and the first of them."""
    lines = []
    if look_alike:
        lines.append(
            f"{category}: most images are nearly equal, as those of one part in one fixture are: "
            "near copies cannot be told among them, only exact ones are listed"
        )
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


def _look_alike(images: _Chosen) -> bool:
    """Whether near pairs chain through most of a sample of different images, see `groups`."""
    n = len(images)
    if n < _FEW:
        return False
    some = images.only(np.linspace(0, n - 1, min(n, _SAMPLE)).astype(int).tolist())
    first, second, _ = _near(some)
    of = _connected(len(some), first.astype(int), second.astype(int))
    return _mostly_alike(of)


def _mostly_alike(of: np.ndarray) -> bool:
    """Whether one group has more than half of all, or large ones together: several fixtures."""
    sizes = np.bincount(of)
    large = sizes[sizes > max(_MANY, _LARGE * len(of))].sum()
    return bool(2 * max(sizes.max(), large) > len(of))


def _connected(n: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """int [n], equal for those that pairs connect."""
    from scipy import sparse  # takes its time, which a --help need not wait for
    from scipy.sparse import csgraph

    graph = sparse.coo_array((np.ones(len(first)), (first, second)), shape=(n, n))
    return csgraph.connected_components(graph, directed=False)[1]


def _near(
    images: Sequence[np.ndarray], progress: Callable[[int], None] = lambda n: None
) -> np.ndarray:
    """Near duplicates among different images of one size, at least MIN_SIZE: float64 [3, m], the
    places in ascending order and the similarity."""
    chunks = range(0, len(images), _AT_ONCE)
    # a thread of ours each: BLAS's own would wait for each other at full speed
    with threadpool_limits(1), ThreadPoolExecutor(os.cpu_count()) as pool:
        each = pool.map(lambda i: _sketches(np.stack(images[i : i + _AT_ONCE]))[0], chunks)
        sketches = np.concatenate([*each])
        found = [np.empty((3, 0))]
        for pairs in pool.map(lambda i: _second_look(images, sketches, i), chunks):
            found.append(pairs)
            progress(min(_AT_ONCE, len(images)))
    return np.concatenate(found, axis=1)


def _second_look(images: Sequence[np.ndarray], sketches: np.ndarray, start: int) -> np.ndarray:
    """The near pairs of _AT_ONCE images with those after them, as `_near` returns them."""
    later = sketches[start:]
    some = _some(later)
    alike = some[:_AT_ONCE] @ some.T > _FIRST
    alike &= np.arange(len(later)) > np.arange(len(alike))[:, None]
    rows = np.flatnonzero(alike.any(axis=1))
    if not len(rows):
        return np.empty((3, 0))
    moved = _sketches(np.stack([images[start + i] for i in rows.tolist()]), _MOVES)
    likely = functools.reduce(np.maximum, (_some(each) @ some.T for each in moved))
    likely = alike[rows] & (likely > ALIKE - _DOUBT)
    i, columns = np.flatnonzero(likely.any(axis=1)), np.flatnonzero(likely.any(axis=0))
    if not len(i):
        return np.empty((3, 0))
    others = later[columns].T
    similarity = functools.reduce(np.maximum, (each[i] @ others for each in moved))
    similarity = np.where(likely[np.ix_(i, columns)], np.minimum(similarity, 1), 0)
    of, j = np.nonzero(similarity >= ALIKE)
    return np.stack([start + rows[i[of]], start + columns[j], similarity[of, j]])


def _some(sketches: np.ndarray) -> np.ndarray:
    """A fourth of the numbers of sketches [n, d], spread over the image, as rows of length 1."""
    some = np.ascontiguousarray(sketches[:, ::_FOURTH])
    return some / np.maximum(np.linalg.norm(some, axis=1, keepdims=True), _FLAT)


def _sketches(images: np.ndarray, moves: tuple[int, ...] = (0,)) -> np.ndarray:
    """Sketches of images [n, H, W, C], each moved by every pair of these pixels down and right:
    float32 [moves squared, n, d], of length 1, or 0 for an image without structure."""
    from scipy import ndimage  # as in `_connected`

    k = min(images.shape[1:3]) // MIN_SIZE
    height, width = (side // k for side in images.shape[1:3])
    gray = images.mean(axis=-1) if images.shape[-1] > 1 else images[..., 0]
    means = np.stack([*_means(gray, moves, k, height, width)])
    detail = means - ndimage.uniform_filter(means, (1, 1, 3, 3))
    detail = detail[..., 1:-1, 1:-1].reshape(*means.shape[:2], -1)  # the border has moved in
    detail[np.abs(detail) < _FLAT] = 0
    for row in detail.reshape(-1, detail.shape[-1]):
        if row.any():
            cut = _CUT * np.median(np.abs(row[row != 0]))
            np.clip(row, -cut, cut, out=row)
            row -= row.mean()
            row /= np.linalg.norm(row)
    return detail


def _means(
    gray: np.ndarray, moves: tuple[int, ...], k: int, height: int, width: int
) -> Iterator[np.ndarray]:
    """Means over blocks of k x k pixels, for each pair of moves: float32 [n, height, width]."""
    # One axis at a time, and by slices: several times faster than one mean over both.
    for down in moves:
        whole = np.roll(gray, down, axis=1)[:, : height * k]
        rows = functools.reduce(np.add, (whole[:, i::k] for i in range(k)))
        for right in moves:
            whole = np.roll(rows, right, axis=2)[:, :, : width * k]
            sums = functools.reduce(np.add, (whole[:, :, i::k] for i in range(k)))
            yield sums / np.float32(k * k)
