"""Which test images are worth looking at, and their pictures in one file for the report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from cae_jax.types import GOOD, Scores, Split

_SHOWN = 24  # images of a report, each about 100 kB
WORST = 6  # of them the worst misses, and as many of the worst false alarms
_TOP = 0.999  # quantile of the good pixels that gets the color map's top


def choose(kinds: Sequence[str], distances: np.ndarray, n: int) -> list[int]:
    """Returns up to n test images that show every kind, good first, evenly over the distances."""
    names = sorted(set(kinds), key=lambda kind: (kind != GOOD, kind))[:n]
    chosen: list[int] = []
    for i, name in enumerate(names):
        of_kind = np.flatnonzero(np.array(kinds) == name)
        of_kind = of_kind[np.argsort(distances[of_kind], kind="stable")]
        share = -(-(n - len(chosen)) // (len(names) - i))  # rounded up: good images first
        k = min(share, len(of_kind))
        middles = (2 * np.arange(k) + 1) * len(of_kind) // (2 * k)  # of k equal parts
        chosen += of_kind[middles].tolist()
    return chosen


def worst(defective: ArrayLike, distances: ArrayLike) -> tuple[list[int], list[int]]:
    """Returns the test images that a report shows first: (misses, false alarms), as positions.

    `defective` [n] is bool or 0 and 1, `distances` [n] grow with the defect. The misses are the
    WORST defective ones with the lowest distances, lowest first; the false alarms the WORST good
    ones with the highest, highest first. Whether a threshold gets them wrong is not asked.
    """
    order = np.argsort(distances, kind="stable")
    defective = np.asarray(defective, bool)[order]
    return order[defective][:WORST].tolist(), order[~defective][::-1][:WORST].tolist()


def scale(unseen: np.ndarray, test: np.ndarray) -> float:
    """Returns the residual at the top of the one color scale: a quantile of the unseen good maps
    [n, H, W], or of the test maps [m, H, W] where there are none."""
    return float(np.quantile(unseen if len(unseen) else test, _TOP))


def pack(
    split: Split,
    test: Scores[np.ndarray],
    distance: str,
    top: float,
    predicted: np.ndarray | None,
    threshold: float,
    rows: np.ndarray,
) -> bytes:
    """Returns examples.npz: the pictures of a few test images, every kind among them.

    Args:
      split: its test images, of which `test` are the scores.
      test: as `scorer.score_all` gives them.
      distance: the one whose residual maps are shown.
      top: see `scale`.
      predicted: segmentations, bool [n_test, H, W], or None where there is no threshold.
      threshold: of the segmentation.
      rows: int [n_test], which row of scores.csv each of them is.

    Returns:
      The file's bytes. `row` [k] counts the rows of scores.csv; image and
      reconstruction are uint8 [k, H, W, C], residual float32 [k, H, W], mask and predicted bool
      [k, H, W], has_mask bool [k], scale and segmentation_threshold single numbers. A method that
      reconstructs nothing leaves no array reconstruction.
    """
    distances = np.asarray(test.distances[distance])
    misses, alarms = worst(split.labels, distances)
    # what is found most surely, if anything is
    found = sorted(np.flatnonzero(split.labels).tolist(), key=distances.__getitem__)[-1:]
    room = _SHOWN - len(misses + alarms + found)
    room = max(room, len(set(split.kinds)))  # every kind has to be there
    chosen = [*misses, *alarms, *found, *choose(split.kinds, distances, room)]
    shown = np.array(list(dict.fromkeys(chosen)))  # some of a kind may be among the worst
    masks = split.masks[shown]
    made = test.reconstruction
    optional: dict[str, Any] = {} if made is None else {"reconstruction": _bytes(made[shown])}
    file = io.BytesIO()
    np.savez_compressed(
        file,
        **optional,
        row=np.asarray(rows)[shown],
        image=_bytes(split.test[shown]),
        residual=np.asarray(test.residuals[distance][shown], np.float32),
        mask=masks,
        has_mask=split.has_mask[shown],
        predicted=np.zeros_like(masks) if predicted is None else predicted[shown],
        scale=np.float32(top),
        segmentation_threshold=np.float64(threshold),
    )
    return file.getvalue()


def _bytes(images: np.ndarray) -> np.ndarray:
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)
