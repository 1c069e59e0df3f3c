"""A paper's layer table as data, and the Flax module that is built from it."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cae_jax.models.layers.conv_transpose import conv, conv_transpose
from cae_jax.models.layers.pooling import max_pool
from cae_jax.types import UsageError


class Row(NamedTuple):
    """One row of a printed table, and how it is read where print and arithmetic disagree."""

    name: str
    op: str  # conv, deconv, max_pool, flatten, dense, reshape, memory, sample
    features: int | None  # None: the channels of the image, which the tables print as 1
    kernel: int = 0  # of a memory: its items; of a reshape: the side of the map, 0 for 1
    stride: int = 1
    printed: tuple[int, ...] = ()  # output size, as the table prints it
    printed_padding: int | None = None
    printed_stride: int | None = None  # where it is not `stride`
    padding: str = "SAME"
    linear: bool = False  # no activation: the latent and the output
    note: str = ""  # why the reading differs from the print


class Cost(NamedTuple):
    """What a row costs for one patch: shapes are (H, W, C) or (C,)."""

    row: Row
    output: tuple[int, ...]
    parameters: int
    macs: int  # multiply-accumulates; a deconv's without the zeros of a dilated input


def coded(row: Row, code: int) -> Row:
    """Returns the latent's row with `code` features, nothing printed to hold against it.

    With 0, or as many as it has, it is the row itself. Raises UsageError for fewer than 0.
    """
    if code < 0:
        raise UsageError(f"a code of {code} numbers: must be 0, the table's own, or more")
    if code in (0, row.features):
        return row
    return row._replace(features=code, printed=(), printed_padding=None, note="")


def he_normal(slope: float, taps: float | None = None) -> nn.initializers.Initializer:
    """Returns He et al.'s initialiser (arXiv 1502.01852, eq. 15): variance kept by a leaky ReLU.

    Args:
      slope: of the leaky ReLU that follows; 1 for none, 0 for a ReLU.
      taps: weights per channel that meet in one output, where that is not the kernel's size.
    """
    scale = 2 / (1 + slope**2)

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        fan_in = (taps or math.prod(shape[:-2])) * shape[-2]
        return jax.random.normal(key, shape, dtype) * math.sqrt(scale / fan_in)

    return init


class Conv(nn.Module):
    """`flax.linen.Conv` with SAME or VALID padding: same parameters, same numbers."""

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    padding: str = "SAME"
    slope: float = 1.0  # of the activation that follows, for the initial scale
    kernel_init: nn.initializers.Initializer | None = None  # in the place of He's
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, Ci] -> [N, H', W', features]."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init or he_normal(self.slope), shape)
        y = conv(x, kernel, self.strides, self.padding)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,))


class ConvTranspose(nn.Module):
    """`flax.linen.ConvTranspose` with SAME padding, by phases: same parameters, same numbers."""

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int]
    slope: float = 1.0  # of the activation that follows, for the initial scale
    kernel_init: nn.initializers.Initializer | None = None  # in the place of He's
    use_bias: bool = True

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[N, H, W, Ci] -> [N, H * sh, W * sw, features]."""
        shape = (*self.kernel_size, x.shape[-1], self.features)
        # An output meets k / s taps per axis, not k: the others fall on the zeros between inputs.
        taps = math.prod(max(1, k / s) for k, s in zip(self.kernel_size, self.strides, strict=True))
        kernel = self.param("kernel", self.kernel_init or he_normal(self.slope, taps), shape)
        y = conv_transpose(x, kernel, self.strides)
        if not self.use_bias:
            return y
        return y + self.param("bias", nn.initializers.zeros, (self.features,))


class Table(nn.Module):
    """The layers of a table's rows, one after the other; parameters carry the rows' names.

    After every row that is not linear comes a block's rest: "leaky", a leaky ReLU; "norm_leaky",
    batch norm before it; "relu_norm_relu", Oh and Yun's ReLU, batch norm without scale, ReLU.
    """

    rows: tuple[Row, ...]
    channels: int
    block: str = "leaky"
    slope: float = 0.2

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[N, H, W, C] -> what the last row leaves; `train` lets batch statistics move."""
        for row in self.rows:
            x = self._apply_row(row, x)
            if row.op in ("conv", "deconv", "dense") and not row.linear:
                x = self._activate(row, x, train)
        return x

    def _apply_row(self, row: Row, x: jax.Array) -> jax.Array:
        features = row.features or self.channels
        window, strides = (row.kernel, row.kernel), (row.stride, row.stride)
        slope = 1.0 if row.linear else self.slope
        match row.op:
            case "conv":
                return Conv(features, window, strides, row.padding, slope, name=row.name)(x)
            case "deconv":
                return ConvTranspose(features, window, strides, slope, name=row.name)(x)
            case "max_pool":
                if row.kernel != row.stride:
                    raise ValueError(f"row {row.name}: windows of a pooling must not overlap")
                return max_pool(x, row.kernel)
            case "flatten":
                return x.reshape(x.shape[0], -1)
            case "dense":
                return nn.Dense(features, kernel_init=he_normal(slope), name=row.name)(x)
            case "reshape":
                return x.reshape(x.shape[0], *(max(row.kernel, 1),) * 2, features)
        raise ValueError(f"row {row.name}: unknown op {row.op!r}")

    def _activate(self, row: Row, x: jax.Array, train: bool) -> jax.Array:
        name = f"{row.name}_norm"
        match self.block:
            case "leaky":
                return nn.leaky_relu(x, self.slope)
            case "norm_leaky":
                x = nn.BatchNorm(use_running_average=not train, name=name)(x)
                return nn.leaky_relu(x, self.slope)
            case "relu_norm_relu":  # the defaults of tf.contrib.layers, which the authors used
                norm = nn.BatchNorm(
                    not train, momentum=0.999, epsilon=1e-3, use_scale=False, name=name
                )
                return nn.relu(norm(nn.relu(x)))
        raise ValueError(f"unknown block {self.block!r}")


def apply_tables(model: Any, x: jax.Array, train: bool, block: str = "leaky") -> jax.Array:
    """Applies a model's tables one after the other, inside its compact `__call__`."""
    for name, rows in model.tables().items():
        with jax.named_scope(name):
            x = Table(rows, model.channels, block, name=name)(x, train)
    return x


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
        elif row.op == "memory":
            parameters = row.kernel * shape[-1]
            macs = 2 * parameters * shape[0] * shape[1]  # addressing, and the mean of items
        found.append(Cost(row, output, parameters, macs))
        shape = output
    return found


def _output_shape(row: Row, shape: tuple[int, ...], features: int) -> tuple[int, ...]:
    match row.op:
        case "memory":
            return shape
        case "flatten":
            return (math.prod(shape),)
        case "dense":
            return (features,)
        case "reshape":
            return (*(max(row.kernel, 1),) * 2, features)
        case "sample":  # of a mean and a variance for every feature
            return (*shape[:-1], features)
        case "deconv":
            return (shape[0] * row.stride, shape[1] * row.stride, features)
    covered = row.kernel if row.padding == "VALID" else 1
    height, width = (-(-(n - covered + 1) // row.stride) for n in shape[:2])
    return (height, width, shape[-1] if row.op == "max_pool" else features)


def literal_size(row: Row, printed: tuple[int, ...]) -> int | None:
    """Returns the side that a row's printed padding gives, or None where there is nothing to check.

    The rule is PyTorch's, on the printed size before the row: floor((n + 2 p - k) / s) + 1 for a
    convolution, (n - 1) s - 2 p + k for a transposed one. 0 stands for an impossible size.
    """
    if row.printed_padding is None or len(printed) != 3:
        return None
    stride = row.printed_stride or row.stride
    if row.op == "deconv":
        size = (printed[0] - 1) * stride - 2 * row.printed_padding + row.kernel
    else:
        size = (printed[0] + 2 * row.printed_padding - row.kernel) // stride + 1
    return max(size, 0)
