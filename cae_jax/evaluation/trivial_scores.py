"""Trivial scores: what a model has to beat before its AUROC means anything.

Each learns from good training images alone, as an autoencoder does. Where one of them ranks the
test images well (or badly wrong), the data has a shortcut: exposure, focus, pose, or a leak: with
`nearest_thumbnail` there is no model at all, only the training images themselves, so where tiles or
products recur in train and test it ranks well for that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from scipy import ndimage

from cae_jax.types import Images

CLEAR = 0.9  # an AUROC from which on, or 1 minus it down from which, a trivial score is a shortcut
_NEAR = 0.7  # an AUROC up to which, or 1 minus it from which on, a score tells nothing apart
_RECURRING = 0.1  # share of test images that repeat training ones, from which on images recur
_COMPONENTS = 16  # of the PCA, at most
_SIDE = 64  # images are averaged down to at most this side for the PCA
# Thumbnails: fine enough to show which tile or product it is, coarse enough that noise,
# recompression and a shift by a pixel average out.
THUMBNAIL = 32
_FLAT = 1e-4  # a fortieth of a gray level of 255: an image that varies less shows nothing
_AT_ONCE = 512  # thumbnails whose distances are held at a time, to as many others
LIGHT = ("brightness", "contrast")  # the scores that exposure changes
Seen: TypeAlias = Callable[[np.ndarray], np.ndarray]
Named: TypeAlias = dict[str, np.ndarray]


def _as_it_is(image: np.ndarray) -> np.ndarray:
    return image


def trivial_scores(train: Images, test: Images, seen: Seen = _as_it_is) -> Named:
    """Returns the scores [n_test] of every trivial method by name; larger is more anomalous.

    Beside the images, memory holds what is kept of each, at most 64 x 64 or so pixels.

    Args:
      train: good images, float32 [n, H, W, C] in [0, 1], n at least 1.
      test: images to score, [m, H, W, C].
      seen: what the model sees of an image, [H, W, C], as --intensity has it.
    """
    of_train, of_test = _Kept([], [], []), _Kept([], [], [])
    center = np.zeros(seen(train[0]).shape)
    for image in map(seen, train):
        of_train.add(image)
        center += image
    center /= len(train)
    from_center = []
    for image in map(seen, test):
        of_test.add(image)
        from_center.append(np.sum((image - center) ** 2))
    off = _deviations(np.array(of_train.statistics), np.array(of_test.statistics))
    return {
        **dict(zip(_STATISTICS, off.T, strict=True)),
        "mean_image": np.array(from_center),
        "pca": _pca_error(np.array(of_train.small), np.array(of_test.small)),
        "nearest_thumbnail": nearest(np.array(of_train.thumbnails), np.array(of_test.thumbnails)),
    }


def light_scores(train: Images, test: Images, seen: Seen = _as_it_is) -> Named:
    """Returns `trivial_scores`' brightness and contrast alone, which exposure changes."""
    of_each = []
    for images in (train, test):
        kept = [[_STATISTICS[name](_gray(image)) for name in LIGHT] for image in map(seen, images)]
        of_each.append(np.array(kept))
    return dict(zip(LIGHT, _deviations(*of_each).T, strict=True))


def thumbnail(gray: np.ndarray, side: int = THUMBNAIL) -> np.ndarray:
    """Returns what an image looks like from afar, whatever its exposure: float32 [k].

    Means over side x side blocks of nearly one size that cover the image, or its pixels along an
    axis that has no more; less their own mean, over their own deviation. So an image in other light
    has the same thumbnail: brightness and contrast are controls of their own, and images that recur
    do so under other exposures. An image that shows nothing has zeros.

    Args:
      gray: [H, W].
      side: blocks along an axis, at least 1.
    """
    blocks = gray.astype(np.float64)
    for axis in (0, 1):
        n = blocks.shape[axis]
        ends = np.arange(min(side, n) + 1) * n // min(side, n)
        sums = np.add.reduceat(blocks, ends[:-1], axis)
        blocks = sums / np.expand_dims(np.diff(ends), 1 - axis)
    off = blocks.ravel() - blocks.mean()
    return (off / off.std() if off.std() > _FLAT else 0 * off).astype(np.float32)


def nearest(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Returns how far each of test [m, k] is from the nearest of train [n, k]: float64 [m], L2.

    By matrix products, chunk by chunk: 10,000 by 2,000 thumbnails take a few MB beside themselves,
    and an image that is another one may be 1e-6 away from it.
    """
    found = np.full(len(test), np.inf)
    for j in range(0, len(train), _AT_ONCE):
        these = train[j : j + _AT_ONCE].astype(np.float64)
        for i in range(0, len(test), _AT_ONCE):
            others = test[i : i + _AT_ONCE].astype(np.float64)
            squares = np.sum(others**2, 1)[:, None] + np.sum(these**2, 1) - 2 * others @ these.T
            found[i : i + _AT_ONCE] = np.minimum(found[i : i + _AT_ONCE], squares.min(1))
    return np.sqrt(np.maximum(found, 0))


def flag(auroc: float | None, trivial: Mapping[str, float | None]) -> str:
    """Returns what is wrong with a model's AUROC beside those of the trivial scores, or ""."""
    if auroc is None or np.isnan(auroc):
        return "no AUROC: one class has no images"
    words = [_below_chance(trivial)] if auroc < 0.5 else []
    known = _known(trivial)
    name = best(known)
    if name and auroc <= known[name]:
        words.append(f"does not beat {name} ({known[name]:.3f})")
    return ", ".join(words)


def recurrence(auroc: float, share: float) -> str:
    """Returns what it means that `nearest_thumbnail` has so high an AUROC, from CLEAR on; else "".

    Args:
      auroc: its AUROC; NaN for none.
      share: of the test images, how many repeat a training one (`data.duplicates`).
    """
    if not auroc >= CLEAR:
        return ""
    words = f"the nearest training image alone reaches {auroc:.3f}"
    if share >= _RECURRING:
        return f"tiles recur: {words}"
    return f"{words}: large defects, or images that recur"


def exposure(intensity: str, auroc: Mapping[str, Mapping[str, float | None]]) -> str:
    """Returns which --intensity is to be trusted where raw brightness tells test images apart.

    Args:
      intensity: the run's own.
      auroc: of `light_scores`, of images as they are ("none") and divided by their median.

    Returns:
      One line; "" where brightness does not reach CLEAR, in either direction.
    """
    raw, even = (auroc[name]["brightness"] for name in ("none", "median"))
    if raw is None or even is None or not _apart(raw) >= CLEAR:
        return ""
    words = f"brightness alone separates these images (AUROC {raw:.3f})"
    if _apart(even) >= CLEAR:
        return f"{words}, and still does divided by their median ({even:.3f}): defects change it"
    after = "it does not" if _apart(even) <= _NEAR else "less so"
    trust = "the run with --intensity=median" if intensity == "none" else "this run"
    return f"{words}, divided by their median {after} ({even:.3f}): trust {trust}"


def _apart(auroc: float) -> float:
    """How well it tells images apart, whichever way round."""
    return max(auroc, 1 - auroc)


def _below_chance(trivial: Mapping[str, float | None]) -> str:
    """Says so, and which trivial score shows why: the good images are the unusual ones by it."""
    known = {k: v for k, v in _known(trivial).items() if v < 0.5}
    if not known:
        return "below chance"
    name = min(known, key=known.__getitem__)
    return f"below chance, as {name} is ({known[name]:.3f}): good test images stand out by it"


def best(trivial: Mapping[str, float | None]) -> str:
    """Returns the name of the trivial score with the highest AUROC, "" when none has one."""
    known = _known(trivial)
    return max(known, key=known.__getitem__, default="")


def _known(trivial: Mapping[str, float | None]) -> dict[str, float]:
    return {k: v for k, v in trivial.items() if v is not None and not np.isnan(v)}


def _gray(image: np.ndarray) -> np.ndarray:
    """[H, W, C] -> [H, W]."""
    return image.mean(-1)


def _brightness(gray: np.ndarray) -> float:
    return float(gray.mean(dtype=np.float64))


def _contrast(gray: np.ndarray) -> float:
    return float(gray.std(dtype=np.float64))


def _gradient_energy(gray: np.ndarray) -> float:
    return float(sum(np.mean(ndimage.sobel(gray, axis) ** 2) for axis in (0, 1)))


_STATISTICS = {
    "brightness": _brightness,
    "contrast": _contrast,
    "gradient_energy": _gradient_energy,
}


class _Kept(NamedTuple):
    """What is kept of images."""

    statistics: list[list[float]]
    small: list[np.ndarray]
    thumbnails: list[np.ndarray]

    def add(self, image: np.ndarray) -> None:
        gray = _gray(image)
        self.statistics.append([of(gray) for of in _STATISTICS.values()])
        self.small.append(_small(gray))
        self.thumbnails.append(thumbnail(gray))


def _deviations(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """How far statistics of test images [m, k] lie from their means over training images [n, k].

    Rounded: of images made even by it, a statistic is the same but for float32's last digits.
    """
    return np.round(np.abs(np.round(test, 6) - np.round(train, 6).mean(0)), 6)


def _pca_error(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Squared error of the reconstruction from the principal components of the training images."""
    center = train.mean(0)
    _, _, components = np.linalg.svd(train - center, full_matrices=False)
    # fewer than images: with all of them every training image is reconstructed perfectly
    components = components[: min(_COMPONENTS, len(train) // 2)]
    rest = test - center
    rest = rest - rest @ components.T @ components
    return np.sum(rest**2, axis=1)


def _small(gray: np.ndarray) -> np.ndarray:
    """Block means, in one row, so that no side is much above _SIDE pixels."""
    height, width = gray.shape
    a, b = max(1, height // _SIDE), max(1, width // _SIDE)
    cut = gray[: height // a * a, : width // b * b].astype(np.float64)
    return cut.reshape(height // a, a, width // b, b).mean((1, 3)).ravel()
