"""Trivial scores: what a model has to beat before its AUROC means anything.

Each learns from good training images alone, as an autoencoder does. Where one of them ranks the
test images well (or badly wrong), the data has a shortcut: exposure, focus, pose.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from scipy import ndimage

_COMPONENTS = 16  # of the PCA, at most
_SIDE = 64  # images are averaged down to at most this side for the PCA


def trivial_scores(train: np.ndarray, test: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the scores [n_test] of every trivial method by name; larger is more anomalous.

    Args:
      train: good images, float32 [n, H, W, C] in [0, 1], n at least 1.
      test: images to score, [m, H, W, C].
    """
    gray_train, gray_test = train.mean(-1), test.mean(-1)
    center = train.mean(0)
    return {
        "brightness": _deviation(_brightness, gray_train, gray_test),
        "contrast": _deviation(_contrast, gray_train, gray_test),
        "gradient_energy": _deviation(_gradient_energy, gray_train, gray_test),
        "mean_image": np.array([np.sum((image - center) ** 2) for image in test]),
        "pca": _pca_error(gray_train, gray_test),
    }


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


def _brightness(image: np.ndarray) -> float:
    return float(image.mean())


def _contrast(image: np.ndarray) -> float:
    return float(image.std())


def _gradient_energy(image: np.ndarray) -> float:
    return float(sum(np.mean(ndimage.sobel(image, axis) ** 2) for axis in (0, 1)))


def _deviation(
    statistic: Callable[[np.ndarray], float], train: np.ndarray, test: np.ndarray
) -> np.ndarray:
    """How far a statistic lies from its mean over the training images."""
    center = np.mean([statistic(image) for image in train])
    return np.array([abs(statistic(image) - center) for image in test])


def _pca_error(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """Squared error of the reconstruction from the principal components of the training images."""
    train, test = (_small(images).reshape(len(images), -1) for images in (train, test))
    center = train.mean(0)
    _, _, components = np.linalg.svd(train - center, full_matrices=False)
    # fewer than images: with all of them every training image is reconstructed perfectly
    components = components[: min(_COMPONENTS, len(train) // 2)]
    rest = test - center
    rest = rest - rest @ components.T @ components
    return np.sum(rest**2, axis=1)


def _small(images: np.ndarray) -> np.ndarray:
    """Block means, so that no side is much above _SIDE pixels."""
    n, height, width = images.shape
    a, b = max(1, height // _SIDE), max(1, width // _SIDE)
    cut = images[:, : height // a * a, : width // b * b].astype(np.float64)
    return cut.reshape(n, height // a, a, width // b, b).mean((2, 4))
