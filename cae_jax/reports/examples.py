"""Which test images are worth looking at, and their pictures in one file for the report."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np

from cae_jax.types import GOOD, Scores, Split

_SHOWN = 24  # images of a report, each about 100 kB
_WORST = 6  # of them the worst misses, and as many of the worst false alarms
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


def scale(validation: np.ndarray, test: np.ndarray) -> float:
    """Returns the residual at the top of the one color scale: a quantile of the validation maps
    [n, H, W], or of the test maps [m, H, W] where none is held out."""
    return float(np.quantile(validation if len(validation) else test, _TOP))


def pack(
    split: Split,
    test: Scores,
    distance: str,
    top: float,
    predicted: np.ndarray | None,
    threshold: float,
) -> bytes:
    """Returns examples.npz: the pictures of a few test images, every kind among them.

    Args:
      split: its test images, of which `test` are the scores.
      test: as `score.score_all` gives them.
      distance: the one whose residual maps are shown.
      top: see `scale`.
      predicted: segmentations, bool [n_test, H, W], or None where there is no threshold.
      threshold: of the segmentation.

    Returns:
      The file's bytes. `row` [k] counts the rows of scores.csv, validation images first; image and
      reconstruction are uint8 [k, H, W, C], residual float32 [k, H, W], mask and predicted bool
      [k, H, W], has_mask bool [k], scale and segmentation_threshold single numbers.
    """
    distances = np.asarray(test.distances[distance])
    order = np.argsort(distances, kind="stable")
    good = np.array([kind == GOOD for kind in split.kinds])
    chosen = [*order[~good[order]][:_WORST], *order[good[order]][::-1][:_WORST]]
    room = max(_SHOWN - len(chosen), len(set(split.kinds)))  # every kind has to be there
    chosen = [*map(int, chosen), *choose(split.kinds, distances, room)]
    shown = np.array(list(dict.fromkeys(chosen)))  # some of a kind may be among the worst
    masks = split.masks[shown]
    file = io.BytesIO()
    np.savez_compressed(
        file,
        row=shown + len(split.validation_paths),
        image=_bytes(split.test[shown]),
        reconstruction=_bytes(test.reconstruction[shown]),
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
