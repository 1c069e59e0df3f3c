"""Cross-fitting in folds: every good image can be judged by a model that has not learned from it.

What learns in one pass can be fitted a few times over. Each fold of the good images is left out
once, and the model fitted to the rest scores it; so all of them calibrate thresholds, and the run's
own model still learns from all. `evaluation.thresholds` says what such thresholds promise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
from numpy.typing import ArrayLike

from cae_jax import files
from cae_jax.training import fit
from cae_jax.types import Array, Images, Variables


class Fold(NamedTuple):
    """Good images that are judged together, and those that their model learns from."""

    own: np.ndarray  # int64 [k], rising: the images that it judges
    learned: np.ndarray  # int64 [n - m], rising: m images are left out, among them its own


def folds(groups: ArrayLike, n_folds: int, seed: int) -> list[Fold]:
    """Returns the folds of n good images: every image is in one, every group in one.

    Groups are drawn in an order of the seed, larger ones first, and each joins the smallest fold;
    groups of one make folds that differ by one image at most. All folds leave out as many images
    as the largest has, so that their models learn from one number of images and are one program: a
    smaller fold leaves out a few of the others too, drawn by the seed, which it does not judge.

    Args:
      groups: int [n], equal for images that must stay together, see `data.duplicates.groups`.
      n_folds: at least 2; with fewer groups than that each is a fold.
      seed: with n and the groups, all that the folds depend on.

    Returns:
      [] where there are not two groups, and nothing can be left out.
    """
    groups, rng = np.unique(groups, return_inverse=True)[1], np.random.default_rng(seed)
    n, sizes = len(groups), np.bincount(groups)
    k = min(n_folds, len(sizes))
    if k < 2:
        return []
    drawn = rng.permutation(len(sizes))
    fold_of, filled = np.zeros(len(sizes), int), np.zeros(k, int)
    for group in drawn[np.argsort(-sizes[drawn], kind="stable")]:
        fold_of[group] = np.argmin(filled)
        filled[fold_of[group]] += sizes[group]
    found = []
    for i in range(k):
        inside = fold_of[groups] == i
        rest = np.flatnonzero(~inside)
        more = rng.choice(rest, filled.max() - filled[i], replace=False)
        found.append(Fold(np.flatnonzero(inside), np.setdiff1d(rest, more)))
    assert sum(len(fold.own) for fold in found) == n
    return found


def variables(
    learn: Callable[[jax.Array, jax.Array], Variables],
    examples: Array | Images,
    parts: Sequence[Fold],
    seed: int,
) -> Iterator[Variables]:
    """Yields what a method learns of each fold's images, of the good ones, or of their features,
    [n, ...].

    One after the other: no more than one model is held here. The seed is the run's own, so that
    what is drawn (channels, where a search begins) is drawn alike. Raises CaeError as `fit`.
    """
    for part in parts:
        yield fit.of(learn, files.rows(examples, part.learned), seed)
