"""A paper's layer table as data, and the Flax module that is built from it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax

from cae_jax.models.conv_transpose import conv_transpose


class Row(NamedTuple):
    """One row of a printed table, and how it is read where print and arithmetic disagree."""

    name: str
    op: str  # conv, deconv, max_pool, flatten, dense, reshape
    features: int | None  # None: the channels of the image, which the tables print as 1
    kernel: int = 0
    stride: int = 1
    printed: tuple[int, ...] = ()  # output size, as the table prints it
    printed_padding: int | None = None
    padding: str = "SAME"
    linear: bool = False  # no activation: the latent and the output
    note: str = ""  # why the reading differs from the print


class Cost(NamedTuple):
    """What a row costs for one patch: shapes are (H, W, C) or (C,)."""

    row: Row
    output: tuple[int, ...]
    parameters: int
    macs: int  # multiply-accumulates; a deconv's without the zeros of a dilated input


class ConvTranspose(nn.Module):
    """`flax.linen.ConvTranspose` with SAME padding, by phases: same parameters, same numbers."""

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, Ci] -> [N, H * sh, W * sw, features]."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        return conv_transpose(x, kernel, self.strides) + bias


class Table(nn.Module):
    """The layers of a table's rows, one after the other; parameters carry the rows' names."""

    rows: tuple[Row, ...]
    channels: int
    activation: Callable[[jax.Array], jax.Array]

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, C] -> what the last row leaves."""
        for row in self.rows:
            x = self._apply_row(row, x)
            if row.op in ("conv", "deconv", "dense") and not row.linear:
                x = self.activation(x)
        return x

    def _apply_row(self, row: Row, x: jax.Array) -> jax.Array:
        features = row.features or self.channels
        window, strides = (row.kernel, row.kernel), (row.stride, row.stride)
        match row.op:
            case "conv":
                return nn.Conv(features, window, strides, row.padding, name=row.name)(x)
            case "deconv":
                return ConvTranspose(features, window, strides, name=row.name)(x)
            case "max_pool":
                return nn.max_pool(x, window, strides)
            case "flatten":
                return x.reshape(x.shape[0], -1)
            case "dense":
                return nn.Dense(features, name=row.name)(x)
            case "reshape":
                return x.reshape(x.shape[0], 1, 1, features)
        raise ValueError(f"row {row.name}: unknown op {row.op!r}")


def costs(rows: tuple[Row, ...], shape: tuple[int, ...], channels: int) -> list[Cost]:
    """Returns every row's output size, parameters and multiply-accumulates for one patch.

    Args:
      rows: a table.
      shape: (H, W, C) of what goes in.
      channels: of the image, for rows whose features are None.
    """
    found = []
    for row in rows:
        output = _output_shape(row, shape, row.features or channels)
        parameters = macs = 0
        if row.op in ("conv", "deconv", "dense"):
            weights = max(row.kernel, 1) ** 2 * shape[-1] * output[-1]
            places = shape if row.op == "deconv" else output
            parameters = weights + output[-1]
            macs = weights * (places[0] * places[1] if row.op != "dense" else 1)
        found.append(Cost(row, output, parameters, macs))
        shape = output
    return found


def _output_shape(row: Row, shape: tuple[int, ...], features: int) -> tuple[int, ...]:
    match row.op:
        case "flatten":
            return (math.prod(shape),)
        case "dense":
            return (features,)
        case "reshape":
            return (1, 1, features)
        case "deconv":
            return (shape[0] * row.stride, shape[1] * row.stride, features)
    covered = row.kernel if row.padding == "VALID" else 1
    height, width = (-(-(n - covered + 1) // row.stride) for n in shape[:2])
    return (height, width, shape[-1] if row.op == "max_pool" else features)
