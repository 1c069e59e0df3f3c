"""The built-in data set: pictures of four made-up products, drawn from a seed, with exact masks.

Two textures (`grain`, `weave`) and two objects (`tablet`, `washer`) in the manner of MVTec AD. A
picture is drawn twice, without and with its defect, under the same light, exposure and noise; the
mask is where the two differ visibly. Exposure is set on the defective picture, as a camera's
automatic exposure would, and its level and contrast spread alike over good and defective pictures:
neither mean brightness nor contrast tells them apart.
"""

from __future__ import annotations

import itertools
import pathlib
import zlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np

from cae_jax import types
from cae_jax.data import pictures

VISIBLE = 8  # gray levels of 255: a pixel changed by more than this is defective
N_TRAIN, N_GOOD, N_DEFECTIVE = 60, 20, 8  # images of a category; defective ones: of each kind
MIN_SIZE = 32  # pixels; below this a scratch is thinner than a pixel can show

_NOISE = 0.01  # standard deviation of the sensor noise
_LEVEL = (0.43, 0.53)  # range of an image's mean
_CONTRAST = (0.93, 1.07)  # range of an image's standard deviation, relative to its category's
_GRADIENT = 0.25  # largest relative change of the light from the centre to a side

_Pair = tuple[np.ndarray, np.ndarray]  # the picture without and with its defect, [S, S]
_Points = list[tuple[float, float]]


class Drawn(NamedTuple):
    """One picture: as it is, as it would be without its defect, and where the two differ."""

    image: np.ndarray  # float32 [S, S, C], multiples of 1/255 in [0, 1]
    flawless: np.ndarray  # the same; equals `image` for a good picture
    mask: np.ndarray  # bool [S, S]: changed by more than VISIBLE gray levels in some channel


class _Canvas(NamedTuple):
    """Coordinates of the pixels, relative to the image's side: 0 is its centre, y points down."""

    x: np.ndarray  # float32 [S, S]
    y: np.ndarray
    soft: float  # width of an edge: three pixels of 256, and never under one and a half

    def posed(
        self, rng: np.random.Generator, shift: float, degrees: float, scale: float
    ) -> _Canvas:
        """Coordinates on a thing that lies shifted, turned and scaled by up to these amounts."""
        dx, dy = rng.uniform(-shift, shift, 2)
        angle = np.deg2rad(rng.uniform(-degrees, degrees))
        size = 1 + rng.uniform(-scale, scale)
        x, y = (self.x - dx) / size, (self.y - dy) / size
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return _Canvas(c * x + s * y, c * y - s * x, self.soft)

    def cover(self, distance: np.ndarray) -> np.ndarray:
        """1 inside (distance < 0), 0 outside, a smooth step between."""
        t = np.clip(0.5 - distance / self.soft, 0, 1)
        return t * t * (3 - 2 * t)

    def stroke(self, points: _Points, width: float) -> np.ndarray:
        """Cover of a line through `points`, never so thin that it fades."""
        distance = np.full_like(self.x, np.inf)
        for (ax, ay), (bx, by) in itertools.pairwise(points):
            ux, uy = bx - ax, by - ay
            px, py = self.x - ax, self.y - ay
            along = np.clip((px * ux + py * uy) / (ux * ux + uy * uy), 0, 1)
            np.minimum(distance, np.hypot(px - along * ux, py - along * uy), out=distance)
        return self.cover(distance - max(width, self.soft) / 2)

    def blob(self, rng: np.random.Generator, x: float, y: float, radius: float) -> np.ndarray:
        """Cover of a roundish spot of uneven outline."""
        dx, dy = self.x - x, self.y - y
        angle = np.arctan2(dy, dx)
        outline = np.ones_like(angle)
        for waves, size in ((2, 0.18), (3, 0.12), (5, 0.06)):
            outline = outline + size * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
        return self.cover(np.hypot(dx, dy) - radius * outline)


def _change(rng: np.random.Generator, low: float, high: float) -> float:
    """A change of brightness, lighter or darker."""
    return float(rng.choice([-1, 1]) * rng.uniform(low, high))


def _wander(
    rng: np.random.Generator, x: float, y: float, angle: float, length: float, bend: float
) -> _Points:
    """Points of a line around (x, y) that turns by up to `bend` radians at each of its joints."""
    turns = np.cumsum(np.r_[0, rng.uniform(-bend, bend, 5)])
    steps = length / 6 * np.stack([np.cos(angle + turns), np.sin(angle + turns)], axis=1)
    points = np.vstack([np.zeros(2), np.cumsum(steps, axis=0)])
    points += np.array([x, y]) - points.mean(axis=0)
    return [(float(a), float(b)) for a, b in points]


def _grain(rng: np.random.Generator, canvas: _Canvas, kind: str) -> _Pair:
    """Planed wood: broad bands along y that sway a little."""
    thing = canvas.posed(rng, 0, 2, 0.03)
    a, b, c, sway = rng.uniform(0, 2 * np.pi, 4)
    x = thing.x + 0.015 * np.sin(5 * thing.y + sway)
    clean = 0.5 + 0.06 * np.sin(11 * x + a) + 0.04 * np.sin(23 * x + b) + 0.012 * np.sin(47 * x + c)
    if kind == types.GOOD:
        return clean, clean

    x, y = rng.uniform(-0.33, 0.33, 2)
    if kind == "scratch":
        angle = rng.uniform(-0.6, 0.6) + rng.choice([0, np.pi / 2])
        path = _wander(rng, x, y, angle, rng.uniform(0.3, 0.5), 0.1)
        change = thing.stroke(path, rng.uniform(0.014, 0.022)) * _change(rng, 0.3, 0.42)
    elif kind == "crack":
        path = _wander(rng, x, y, np.pi / 2 + rng.uniform(-0.2, 0.2), rng.uniform(0.3, 0.5), 0.7)
        change = -thing.stroke(path, rng.uniform(0.016, 0.024)) * rng.uniform(0.3, 0.4)
    elif kind == "spot":
        spot = thing.blob(rng, x, y, rng.uniform(0.05, 0.09))
        change = spot * _change(rng, 0.25, 0.4)
    else:  # contamination, a splash of droplets
        sign, change = _change(rng, 0.3, 0.42), np.zeros_like(clean)
        for _ in range(rng.integers(5, 9)):
            dx, dy = rng.normal(0, 0.07, 2)
            drop = thing.blob(rng, x + dx, y + dy, rng.uniform(0.018, 0.035))
            np.maximum(change, drop, out=change)
        change *= sign
    return clean, clean + change


def _weave(rng: np.random.Generator, canvas: _Canvas, kind: str) -> _Pair:
    """Coarse plain-woven cloth, six threads to a side."""
    thing = canvas.posed(rng, 1 / 6, 1.5, 0.02)
    thread = 1 / 6
    warp, weft = np.sin(np.pi * thing.x / thread), np.sin(np.pi * thing.y / thread)
    over = 0.5 + 0.5 * np.tanh(3 * warp * weft)
    clean = 0.42 + over * 0.13 * warp**2 + (1 - over) * 0.08 * weft**2
    if kind == types.GOOD:
        return clean, clean

    x, y = rng.uniform(-0.22, 0.22, 2)
    if kind == "stain":
        stain = thing.blob(rng, x, y, rng.uniform(0.06, 0.105))
        return clean, clean + stain * _change(rng, 0.22, 0.35)
    if kind == "hole":
        hole = thing.blob(rng, x, y, rng.uniform(0.045, 0.08))
        return clean, clean + hole * (rng.choice([0.05, 0.95]) - clean)
    if kind == "missing_thread":
        row, half = (np.floor(y / thread) + 0.5) * thread, rng.uniform(0.15, 0.28)
        gap = thing.stroke([(x - half, row), (x + half, row)], 0.4 * thread)
        return clean, clean + gap * (0.22 + over * 0.13 * warp**2 - clean)
    # A fold: one flank lit, the other in the shade.
    angle, half, width = rng.uniform(0, np.pi), rng.uniform(0.22, 0.32), rng.uniform(0.014, 0.02)
    c, s = np.cos(angle), np.sin(angle)
    along, across = c * (thing.x - x) + s * (thing.y - y), c * (thing.y - y) - s * (thing.x - x)
    flank = across / width * np.exp(0.5 - 0.5 * (across / width) ** 2)
    return clean, clean + 0.3 * flank * np.clip(1.5 - 1.5 * (along / half) ** 2, 0, 1)


def _tablet(rng: np.random.Generator, canvas: _Canvas, kind: str) -> _Pair:
    """A capsule of two halves on a plain ground, with a T as imprint."""
    thing = canvas.posed(rng, 0.02, 4, 0.03)
    half, ground = thing.cover(thing.x), 0.42

    def capsule(slip: float) -> tuple[np.ndarray, np.ndarray]:
        """Cover and picture, the right half slipped along y."""
        right = thing._replace(y=thing.y + slip * (half - 1))
        distance = np.hypot(np.maximum(np.abs(thing.x) - 0.18, 0), right.y) - 0.15
        body = thing.cover(distance)
        letter = [[(0.1, -0.05), (0.2, -0.05)], [(0.15, -0.05), (0.15, 0.05)]]
        printed = np.maximum(*(right.stroke(line, 0.02) for line in letter))
        dome = 0.05 * np.clip(-distance / 0.15, 0, 1)
        seam = 0.1 * thing.stroke([(0, -0.3), (0, 0.3)], 0.016)
        surface = 0.54 + 0.1 * half + dome - seam - 0.15 * printed
        return body, ground + body * (surface - ground)

    body, clean = capsule(slip=0)
    if kind == types.GOOD:
        return clean, clean

    x, y = rng.uniform(-0.22, 0.22), rng.uniform(-0.06, 0.06)
    if kind == "misplaced":
        return clean, capsule(slip=_change(rng, 0.05, 0.075))[1]
    if kind == "missing":
        side = rng.choice([-1, 1])
        bite = thing.blob(rng, x, side * 0.14, rng.uniform(0.07, 0.1))
        return clean, clean + bite * (ground - clean)
    if kind == "crack":
        path = _wander(rng, x, y, rng.uniform(0, np.pi), rng.uniform(0.26, 0.36), 0.8)
        line = thing.stroke(path, rng.uniform(0.018, 0.026))
        return clean, clean - line * body * rng.uniform(0.32, 0.45)
    spot = thing.blob(rng, x, y, rng.uniform(0.045, 0.075))
    return clean, clean + spot * body * _change(rng, 0.28, 0.4)


def _washer(rng: np.random.Generator, canvas: _Canvas, kind: str) -> _Pair:
    """A ring with a hole and four notches on a plain ground."""
    thing = canvas.posed(rng, 0.02, 6, 0.03)
    radius, angle = np.hypot(thing.x, thing.y), np.arctan2(thing.y, thing.x)
    ground = 0.4

    def ring(outer: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Cover and picture of a ring of this outer radius."""
        notch = 0.03 * np.clip(4 * np.cos(4 * angle) - 3, 0, 1)
        body = thing.cover(np.maximum(radius - outer + notch, 0.13 - radius))
        bevel = 0.04 * np.cos((radius - 0.235) * 14)
        return body, ground + body * (0.14 + bevel)

    body, clean = ring(outer=0.34)
    if kind == types.GOOD:
        return clean, clean

    where = rng.uniform(0, 2 * np.pi)
    x, y = 0.235 * np.cos(where), 0.235 * np.sin(where)
    if kind == "bent":
        turn = np.abs(np.angle(np.exp(1j * (angle - where)))) / rng.uniform(0.45, 0.6)
        bump = np.where(turn < 1, np.cos(np.pi / 2 * np.minimum(turn, 1)) ** 2, 0)
        return clean, ring(outer=0.34 + _change(rng, 0.085, 0.115) * bump)[1]
    if kind == "missing":
        bite = thing.blob(rng, 1.4 * x, 1.4 * y, rng.uniform(0.08, 0.11))
        return clean, clean + bite * (ground - clean)
    if kind == "scratch":
        path = _wander(rng, x, y, rng.uniform(0, np.pi), rng.uniform(0.28, 0.42), 0.15)
        line = thing.stroke(path, rng.uniform(0.02, 0.028))
        return clean, clean + line * body * _change(rng, 0.32, 0.45)
    reach = rng.uniform(0.3, 1.3)
    dirt = thing.blob(rng, reach * x, reach * y, rng.uniform(0.045, 0.08))
    return clean, clean + dirt * _change(rng, 0.28, 0.4)


class _Category(NamedTuple):
    draw: Callable[[np.random.Generator, _Canvas, str], _Pair]
    kinds: tuple[str, ...]
    contrast: float  # the usual standard deviation of an image
    tint: tuple[float, float, float]  # of three channels; its luma (ITU-R 601) is 1


_CATEGORIES = {
    "grain": _Category(
        _grain, ("contamination", "crack", "scratch", "spot"), 0.077, (1.08, 0.98, 0.893)
    ),
    "tablet": _Category(
        _tablet, ("crack", "misplaced", "missing", "spot"), 0.084, (1.04, 0.99, 0.947)
    ),
    "washer": _Category(
        _washer, ("bent", "contamination", "missing", "scratch"), 0.086, (0.97, 1.0, 1.08)
    ),
    "weave": _Category(
        _weave, ("fold", "hole", "missing_thread", "stain"), 0.064, (1.05, 0.985, 0.946)
    ),
}
CATEGORIES: tuple[str, ...] = tuple(_CATEGORIES)


def kinds(category: str) -> tuple[str, ...]:
    """Returns the defect kinds of a category, sorted; raises UsageError for an unknown one."""
    if category not in _CATEGORIES:
        raise types.unknown_name("category", category, CATEGORIES)
    return _CATEGORIES[category].kinds


def _exposure(
    seed: int, category: str, folder: str, index: int, contrast: float
) -> tuple[float, float]:
    """Mean and standard deviation that picture `index` of a folder is exposed to.

    Both follow a Kronecker sequence from a start drawn for the folder: any number of pictures
    spreads evenly over the range, so no seed makes good and defective pictures differ in them.
    """
    start = _generator(seed, category, folder).uniform(size=2)
    u, v = (start + index * np.array([5**0.5 - 1, 2 * 2**0.5]) / 2) % 1
    low, high = _CONTRAST
    return _LEVEL[0] + u * (_LEVEL[1] - _LEVEL[0]), contrast * (low + v * (high - low))


def _generator(seed: int, category: str, folder: str, *index: int) -> np.random.Generator:
    """The generator of one folder or one picture: no two pictures share any randomness."""
    return np.random.default_rng([seed, zlib.crc32(f"{category}/{folder}".encode()), *index])


def draw(
    category: str, folder: str, index: int, image_size: int, channels: int, seed: int
) -> Drawn:
    """Draws picture `index` of a folder: "train/good", "test/good" or "test/KIND".

    The picture depends on nothing but these arguments, and its scene is the same at every
    `image_size` (pixels, at least 32). Raises UsageError where one of them cannot work.
    """
    known = ("train/good", "test/good", *(f"test/{kind}" for kind in kinds(category)))
    if folder not in known:
        raise types.unknown_name(f"folder of {category}", folder, known)
    _check(image_size, channels, seed)
    spec, rng = _CATEGORIES[category], _generator(seed, category, folder, index)

    axis = (np.arange(image_size, dtype=np.float32) + 0.5) / image_size - 0.5
    x, y = np.meshgrid(axis, axis)
    canvas = _Canvas(x, y, max(3 / 256, 1.5 / image_size))
    angle, strength = rng.uniform(-0.3, 1.1), 2 * _GRADIENT * rng.uniform(0.7, 1)
    light = 1 + strength * (np.cos(angle) * x + np.sin(angle) * y)
    pair = [light * p for p in spec.draw(rng, canvas, folder.split("/")[1])]

    mean, deviation = _exposure(seed, category, folder, index, spec.contrast)
    gain = deviation / pair[1].std()
    offset = mean - gain * pair[1].mean()
    tint = np.array(spec.tint if channels == 3 else [1.0])
    noise = _NOISE * rng.standard_normal((image_size, image_size, 1), dtype=np.float32)
    flawless, image = (
        np.rint(255 * np.clip((gain * p + offset)[..., None] * tint + noise, 0, 1)).astype(np.uint8)
        for p in pair
    )
    mask = (np.abs(image.astype(np.int16) - flawless) > VISIBLE).any(axis=-1)
    return Drawn(image / np.float32(255), flawless / np.float32(255), mask)


def _check(image_size: int, channels: int, seed: int) -> None:
    if image_size < MIN_SIZE:
        raise types.UsageError(f"--image_size={image_size}: synthetic needs {MIN_SIZE} or more")
    if channels not in (1, 3):
        raise types.UsageError(f"--channels={channels}: expected 1 or 3")
    if seed < 0:
        raise types.UsageError(f"--seed={seed}: expected 0 or more")


def read(
    category: str,
    image_size: int,
    channels: int,
    seed: int,
    n_train: int = N_TRAIN,
    n_good: int = N_GOOD,
    n_defective_per_kind: int = N_DEFECTIVE,
) -> types.Split:
    """Draws a category: images float32 [n, image_size, image_size, channels] in [0, 1].

    Values are multiples of 1/255, so PNG files keep them. The same arguments give equal arrays,
    and other counts leave the pictures that remain as they are. `validation` is empty. Raises
    UsageError for an unknown category or a size, count, or number of channels that cannot work.
    """
    counts = {"train/good": n_train, "test/good": n_good}
    counts |= {f"test/{kind}": n_defective_per_kind for kind in kinds(category)}
    if min(counts.values()) < 1:
        raise types.UsageError(f"synthetic {category}: expected 1 picture or more, got {counts}")
    train: dict[str, Drawn] = {}
    test: dict[str, Drawn] = {}
    for folder, count in counts.items():
        for index in range(count):
            drawn = draw(category, folder, index, image_size, channels, seed)
            (train if folder == "train/good" else test)[f"{folder}/{index:03d}.png"] = drawn
    train, test = dict(sorted(train.items())), dict(sorted(test.items()))
    return types.Split(
        dataset="synthetic",
        category=category,
        train=np.stack([drawn.image for drawn in train.values()]),
        train_paths=tuple(train),
        validation=np.zeros((0, image_size, image_size, channels), np.float32),
        validation_paths=(),
        test=np.stack([drawn.image for drawn in test.values()]),
        test_paths=tuple(test),
        kinds=tuple(path.split("/")[1] for path in test),
        masks=np.stack([drawn.mask for drawn in test.values()]),
        has_mask=np.ones(len(test), bool),
        test_sizes=((image_size, image_size),) * len(test),
    )


def write(
    root: pathlib.Path,
    categories: Iterable[str],
    image_size: int,
    channels: int,
    seed: int,
    n_train: int = N_TRAIN,
    n_good: int = N_GOOD,
    n_defective_per_kind: int = N_DEFECTIVE,
) -> None:
    """Writes what `read` gives as an MVTec AD folder: CATEGORY/{train,test,ground_truth}/...

    Raises UsageError, before anything is written, for a category folder that is not empty and
    for what `read` refuses.
    """
    categories = tuple(categories)
    _check(image_size, channels, seed)
    for category in categories:
        kinds(category)
        folder = root / category
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise types.UsageError(f"{folder}: exists and is not an empty folder")
    for category in categories:
        split = read(category, image_size, channels, seed, n_train, n_good, n_defective_per_kind)
        files = dict(zip(split.train_paths, split.train, strict=True))
        files |= dict(zip(split.test_paths, split.test, strict=True))
        for path, kind, mask in zip(split.test_paths, split.kinds, split.masks, strict=True):
            if kind != types.GOOD:
                files[f"ground_truth/{kind}/{pathlib.Path(path).stem}_mask.png"] = mask
        for path, array in files.items():
            (root / category / path).parent.mkdir(parents=True, exist_ok=True)
            pictures.save_png(root / category / path, array)
