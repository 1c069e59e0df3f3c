"""What travels between the rooms: images of a category, a method, its state, its scores, errors."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

# Shapes: B images, N patches, H x W pixels, C channels (1 or 3), p the side of a patch.
Array = jax.Array | np.ndarray
Variables = dict[str, Any]  # a Flax variable collection: "params", maybe "batch_stats"
Metrics = dict[str, jax.Array]  # name -> scalar

GOOD = "good"  # the defect kind of an image without a defect
_SHOWN = 20  # names beside the nearest ones


class CaeError(Exception):
    """What the user can mend: shown as one line, without a traceback; exit code 1."""

    exit_code = 1


class UsageError(CaeError):
    """A flag or argument that cannot work, found before anything is computed; exit code 2."""

    exit_code = 2


class DataError(CaeError):
    """A file or folder that cannot be used; the message names it; exit code 1."""


def unknown_name(what: str, name: str, known: Iterable[str]) -> UsageError:
    """Returns the error for a `name` not among `known`: the nearest names, then those there are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    hints = [f"did you mean {' or '.join(near)}?"] if near else []
    if not near or len(known) <= _SHOWN:
        hints.append(f"known: {', '.join(known)}")
    return UsageError(f"unknown {what} {name!r}: {' '.join(hints)}")


class LeftOut(NamedTuple):
    """A file that was found but is not used, and why."""

    path: str
    cause: str


class Duplicate(NamedTuple):
    """An image that repeats another one of its category, see `data.duplicates`."""

    path: str
    like: str  # the path of the image that it repeats
    kind: str  # "exact": equal pixels once decoded; "near": the same photograph
    similarity: float  # in (0, 1], 1 for exact


@dataclasses.dataclass(frozen=True)
class Split:
    """One category: images to learn from, good images held out, and images to judge.

    Images are float32 [n, H, W, C] in [0, 1]. Readers leave `validation` empty; `data.hold_out`
    moves images there from `train`. Paths are relative, with forward slashes, in sorted order.
    """

    dataset: str
    category: str
    train: np.ndarray
    train_paths: tuple[str, ...]
    validation: np.ndarray
    validation_paths: tuple[str, ...]
    test: np.ndarray
    test_paths: tuple[str, ...]
    kinds: tuple[str, ...]  # per test image: GOOD or its defect kind
    masks: np.ndarray  # bool [n_test, H, W]: defective pixels; all False for a good image
    has_mask: np.ndarray  # bool [n_test]: True for good images and defects with a mask file
    test_sizes: tuple[tuple[int, int], ...]  # (H, W) of each test image's file, in pixels
    left_out: tuple[LeftOut, ...] = ()
    warnings: tuple[str, ...] = ()
    duplicates: tuple[Duplicate, ...] = ()  # found by `data.hold_out`

    @property
    def labels(self) -> np.ndarray:
        """int64 [n_test]: 0 for a good test image, 1 for a defective one."""
        return np.array([kind != GOOD for kind in self.kinds], dtype=np.int64)


class State(NamedTuple):
    """All that training changes, as one pytree: what a checkpoint holds."""

    step: jax.Array  # int32 []: steps done
    key: jax.Array  # typed PRNG key of the member; folded with `step`, never split away
    variables: Variables
    opt_state: Any


class Reconstruction(NamedTuple):
    """What a model makes of patches: the output, and what it says about itself."""

    output: jax.Array  # float32 [N, p, p, C], the scale of the input
    # "penalty" [N] is added to the loss of each patch; "..._used", bool [N, K], says which of K
    # parts a patch made use of, and metrics count those used by any patch; {} for most models
    aux: dict[str, jax.Array]


class Method(NamedTuple):
    """How a model learns and reconstructs: a record of pure functions, un-jitted."""

    init: Callable[[jax.Array], State]  # key -> State
    step: Callable[[State, jax.Array], tuple[State, Metrics]]  # patches [N, p, p, C]
    evaluate: Callable[[Variables, jax.Array], Metrics]  # the loss on patches, nothing updated
    reconstruct: Callable[[Variables, jax.Array], Reconstruction]


class Scores(NamedTuple):
    """What scoring makes of images [B, H, W, C]: arrays lead with B; see `residuals`."""

    distances: dict[str, Array]  # by name, float32 [B]: the image's score, larger is worse
    residuals: dict[str, Array]  # by name, float32 [B, H, W]: the map the distance comes from
    reconstruction: Array  # float32 [B, H, W, C], the scale of the input
