"""What an exported model computes: from pixels to score, verdict, map and mask, as one function."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from cae_jax.data.frame import Frame
from cae_jax.evaluation import segmentation
from cae_jax.evaluation.verdict import Judge
from cae_jax.runs.build import scoring_call
from cae_jax.runs.config import Config
from cae_jax.scoring.resize import resize
from cae_jax.serving.trained import TrainedRun
from cae_jax.types import Array, Variables

Weights = Mapping[str, Array]


@dataclasses.dataclass(frozen=True, eq=False)  # eq: JAX keeps what it compiled by identity
class Program:
    """A run's scoring with its thresholds in it; a function of weights by flat names."""

    title: str
    config: Config
    frame: Frame  # that images are brought to
    judge: Judge
    weights: dict[str, np.ndarray]
    tree: jax.tree_util.PyTreeDef

    def __call__(self, weights: Weights, images: jax.Array) -> dict[str, jax.Array]:
        """Judges images float32 [B, S, T, C] in [0, 1], with a last channel more where not all of
        them counts, see `types.with_counts`.

        Returns "score" float32 [B], "defective" bool [B], "map" float32 [B, S, T], "mask" bool
        [B, S, T] and, of a method that makes one, "reconstruction" float32 [B, S, T, C].
        """
        variables: Variables = jax.tree.unflatten(self.tree, [weights[n] for n in self.weights])
        name = self.config.distance
        scores = scoring_call(self.config)(variables, images)
        score, found = scores.distances[name], scores.residuals[name]
        mask = _opened(found > _below(self.judge.map_threshold), self.config.opening)
        if images.shape[-1] > self.config.channels:
            mask &= images[..., -1] > 0.5
        out = {
            "score": score,
            "defective": score > _below(self.judge.threshold.value),
            "map": found,
            "mask": mask,
        }
        made = scores.reconstruction
        return out if made is None else out | {"reconstruction": made}

    def whole(self, weights: Weights, images: jax.Array) -> dict[str, jax.Array]:
        """Judges images of any one size, float32 [B, H, W, C] in [0, 1], which it resizes; returns
        what a call returns."""
        return self(weights, resize(images, self.config.image_size))


def program_of(run: TrainedRun) -> Program:
    """Returns what an opened run computes."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(run.variables)
    weights = {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
        for path, leaf in leaves
    }
    return Program(run.cell.title, run.cell.config, run.cell.frame, run.judge, weights, tree)


def _below(threshold: float) -> np.float32:
    """The largest float32 up to a threshold: what is above the one is above the other."""
    near = np.float32(threshold)
    return near if near <= threshold else np.nextafter(near, np.float32(-np.inf))


def _opened(mask: jax.Array, diameter: int) -> jax.Array:
    """Opens masks, bool [B, H, W], with a disc, as `segmentation.segment` does."""
    if diameter == 0:
        return mask
    disc, low = segmentation.disc(diameter), diameter // 2
    high = diameter - 1 - low
    _, height, width = mask.shape

    def shifted(field: jax.Array, before: int, after: int) -> list[jax.Array]:
        padded = jnp.pad(field, ((0, 0), (before, after), (before, after)))
        return [padded[:, i : i + height, j : j + width] for i, j in np.argwhere(disc)]

    kept = jnp.ones_like(mask, jnp.float32)
    for each in shifted(mask.astype(jnp.float32), low, high):
        kept = jnp.minimum(kept, each)
    grown = jnp.zeros_like(kept)
    for each in shifted(kept, high, low):  # a disc is the same turned round
        grown = jnp.maximum(grown, each)
    return grown > 0.5
