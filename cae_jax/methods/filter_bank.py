"""Defects found by a fixed filter bank: no learned network and no pretrained weights.

The features are `models.filters`: edges, bars, spots and waves at several scales, on a grid of
every eighth pixel, or fourth. What is learned of them is --head: a Gaussian at every point
(`gaussian`), a memory of good ones (`feature_memory`) or principal components (`feature_pca`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cae_jax.methods import feature_memory, feature_pca, features, gaussian
from cae_jax.methods.features import Judged, Neighborhood
from cae_jax.models import filters
from cae_jax.options import check, flag
from cae_jax.types import Method, Size

HEADS: Mapping[str, Any] = MappingProxyType(
    {"gaussian": gaussian, "memory": feature_memory, "pca": feature_pca}
)


# responses are averages around a point already; a memory wants more, as of a network's features
_AROUND = MappingProxyType({"gaussian": 1, "memory": 3, "pca": 1})


@dataclasses.dataclass(frozen=True)
class Options(Neighborhood, gaussian.Head, feature_memory.Head, feature_pca.Head, Judged):
    """The flags of --method=filter_bank; those of another head than the chosen one are idle."""

    head: str = flag("gaussian", "what is learned of the features", among=HEADS)
    filter_stride: int = flag(8, "pixels between points of the grid", among=filters.STRIDES)


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError."""
    o = options
    check(o)
    head = HEADS[o.head]
    around = o.around(_AROUND[o.head])
    found = features.of_filters(size, channels, o.filter_stride, around)
    return head.of_features(o, found)
