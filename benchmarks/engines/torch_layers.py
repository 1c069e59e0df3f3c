"""The layers of a table in torch, channels first: what `cae_jax.models.layers` does in JAX."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from cae_jax.models.layers.convolution import same_pads
from cae_jax.models.layers.table import Row

_EPSILON = 1e-12  # of `cae_jax.models.layers.memory`


class Crop(nn.Module):
    """The first rows and columns: torch cannot cut a transposed convolution at its end alone."""

    def __init__(self, height: int, width: int) -> None:
        """Sizes are what is kept, in pixels."""
        super().__init__()
        self.height, self.width = height, width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, C, height, width]."""
        return x[:, :, : self.height, : self.width]


class FlattenChannelsLast(nn.Module):
    """Flattens in the order that Flax has: rows, columns, channels."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> [N, H * W * C]."""
        return x.permute(0, 2, 3, 1).flatten(1)


class Memory(nn.Module):
    """`cae_jax.models.layers.memory.Memory`; in training `entropy` [N] is kept for the penalty."""

    def __init__(self, items: int, channels: int, cosine: bool, threshold: float) -> None:
        """See `cae_jax.models.layers.memory`; dot products unless `cosine`."""
        super().__init__()
        self.memory = nn.Parameter(torch.empty(items, channels))
        self.cosine, self.threshold = cosine, threshold
        self.entropy: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, H, W] -> the same shape, read from the memory."""
        query = x.permute(0, 2, 3, 1).flatten(1, 2)
        if self.cosine:
            query, memory = _unit(query), _unit(self.memory)
        else:
            memory = self.memory
        weights = functional.softmax(query @ memory.T, dim=-1)
        over = weights - self.threshold
        kept = functional.relu(over) * weights / (over.abs() + _EPSILON)
        total = kept.sum(-1, keepdim=True)
        dead = total <= 0
        weights = torch.where(dead, weights, kept / torch.where(dead, 1.0, total))
        if self.training:
            self.entropy = -(weights * (weights + _EPSILON).log()).sum(-1).mean(1)
        return (weights @ self.memory).unflatten(1, x.shape[2:]).permute(0, 3, 1, 2)


def convolution(row: Row, size: tuple[int, ...], inputs: int, features: int) -> list[nn.Module]:
    """A convolution of (H, W) pixels; SAME has a padding layer of its own where it is uneven."""
    top = bottom = left = right = 0
    if row.padding == "SAME":
        pads = same_pads(size, (row.kernel,) * 2, (row.stride,) * 2)
        (top, bottom), (left, right) = pads
    if (top, left) == (bottom, right):
        return [nn.Conv2d(inputs, features, row.kernel, row.stride, (top, left))]
    padding = nn.ZeroPad2d((left, right, top, bottom))
    return [padding, nn.Conv2d(inputs, features, row.kernel, row.stride)]


def transposed(row: Row, size: tuple[int, ...], inputs: int, features: int) -> list[nn.Module]:
    """A transposed convolution from (H, W) to stride times as many pixels, cut as JAX's SAME."""
    kernel, stride = row.kernel, row.stride
    total = kernel + stride - 2  # what lax.conv_transpose pads with; before is the larger half
    before = kernel - 1 if stride > kernel - 1 else -(-total // 2)
    first, last = kernel - 1 - before, kernel - 1 - (total - before)  # cut off at either end
    layer = nn.ConvTranspose2d(inputs, features, kernel, stride, first, max(0, first - last))
    if last <= first:
        return [layer]
    return [layer, Crop(*(n * stride for n in size))]


def _unit(x: torch.Tensor) -> torch.Tensor:
    return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + _EPSILON)
