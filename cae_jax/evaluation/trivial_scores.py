"""Trivial scores: what a model has to beat before its AUROC means anything.

Each learns from good training images alone, as an autoencoder does. Where one of them ranks the
test images well (or badly wrong), the data has a shortcut: exposure, focus, pose, or a leak: with
`nearest_thumbnail` there is no model at all, only the training images themselves, so where tiles or
products recur in train and test it ranks well for that alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np
from scipy import ndimage

CLEAR = 0.9  # an AUROC from which on, or 1 minus it down from which, a trivial score is a shortcut
_RECURRING = 0.1  # share of test images that repeat training ones, from which on images recur
_COMPONENTS = 16  # of the PCA, at most
_SIDE = 64  # images are averaged down to at most this side for the PCA
# Thumbnails: fine enough to show which tile or product it is, coarse enough that noise,
# recompression and a shift by a pixel average out.
THUMBNAIL = 32
_FLAT = 1e-4  # a fortieth of a gray level of 255: an image that varies less shows nothing
_AT_ONCE = 512  # thumbnails whose distances are held at a time, to as many others


def trivial_scores(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the scores [n_test] of every trivial method by name; larger is more anomalous.

    Beside the images, memory holds what is kept of each, at most 64 x 64 or so pixels.

    Args:
      train: good images, float32 [n, H, W, C] in [0, 1], n at least 1.
      test: images to score, [m, H, W, C].
    """
    center = train.mean(0)
    return {
        **{name: _deviation(of, train, test) for name, of in _STATISTICS.items()},
        "mean_image": np.array([np.sum((image - center) ** 2) for image in test]),
        "pca": _pca_error(*(np.stack([_small(_gray(x)) for x in of]) for of in (train, test))),
        "nearest_thumbnail": nearest(thumbnails(train), thumbnails(test)),
    }


def thumbnails(images: Iterable[np.ndarray], side: int = THUMBNAIL) -> np.ndarray:
    """Returns what images look like from afar, whatever their exposure: float32 [n, k].

    Gray means over side x side blocks of nearly one size that cover the image, or its pixels along
    an axis that has no more; less their own mean, over their own deviation. So an image in other
    light has the same thumbnail: brightness and contrast are controls of their own, and images that
    recur do so under other exposures. An image that shows nothing has zeros.

    Args:
      images: [n, H, W, C], or one by one.
      side: blocks along an axis, at least 1.
    """
    found = []
    for image in images:
        blocks = _gray(image).astype(np.float64)
        for axis in (0, 1):
            n = blocks.shape[axis]
            ends = np.arange(min(side, n) + 1) * n // min(side, n)
            sums = np.add.reduceat(blocks, ends[:-1], axis)
            blocks = sums / np.expand_dims(np.diff(ends), 1 - axis)
        off = blocks.ravel() - blocks.mean()
        found.append(off / off.std() if off.std() > _FLAT else np.zeros_like(off))
    return np.array(found, np.float32)


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
    return float(gray.mean())


def _contrast(gray: np.ndarray) -> float:
    return float(gray.std())


def _gradient_energy(gray: np.ndarray) -> float:
    return float(sum(np.mean(ndimage.sobel(gray, axis) ** 2) for axis in (0, 1)))


_STATISTICS = {
    "brightness": _brightness,
    "contrast": _contrast,
    "gradient_energy": _gradient_energy,
}


def _deviation(
    statistic: Callable[[np.ndarray], float], train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """How far a statistic of gray images lies from its mean over the training images."""
    center = np.mean([statistic(_gray(image)) for image in train])
    return np.array([abs(statistic(_gray(image)) - center) for image in test])


def _pca_error(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Squared error of the reconstruction from the principal components of the training images."""
    train, test = (images.reshape(len(images), -1) for images in (train, test))
    center = train.mean(0)
    _, _, components = np.linalg.svd(train - center, full_matrices=False)
    # fewer than images: with all of them every training image is reconstructed perfectly
    components = components[: min(_COMPONENTS, len(train) // 2)]
    rest = test - center
    rest = rest - rest @ components.T @ components
    return np.sum(rest**2, axis=1)


def _small(gray: np.ndarray) -> np.ndarray:
    """Block means, so that no side is much above _SIDE pixels."""
    height, width = gray.shape
    a, b = max(1, height // _SIDE), max(1, width // _SIDE)
    cut = gray[: height // a * a, : width // b * b].astype(np.float64)
    return cut.reshape(height // a, a, width // b, b).mean((1, 3))
