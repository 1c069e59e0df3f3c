"""Defects found by a fixed filter bank: no learned network and no pretrained weights.

The features are `models.filters`: edges, bars, spots and waves at several scales, on a grid of
every eighth pixel, or fourth. What is learned of them is --head: a Gaussian at every point
(`gaussian`), a memory of good ones (`feature_memory`) or principal components (`feature_pca`).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cae_jax.methods import feature_memory, feature_pca, features, gaussian
from cae_jax.methods.options.filter_bank import Options
from cae_jax.types import Method, Size

HEADS: Mapping[str, Any] = MappingProxyType(
    {"gaussian": gaussian, "memory": feature_memory, "pca": feature_pca}
)


# responses are averages around a point already; a memory wants more, as of a network's features
_AROUND = MappingProxyType({"gaussian": 1, "memory": 3, "pca": 1})


def make(options: Options, size: Size, channels: int) -> Method:
    """Returns the method for images [B, *size, channels]; raises UsageError."""
    o = options
    head = HEADS[o.head]
    around = o.around(_AROUND[o.head])
    found = features.of_filters(size, channels, o.filter_stride, around)
    return head.of_features(o, found)
