"""The scoring call in torch: extract, reconstruct, merge, L2, as `scoring.scorer` does in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.nn import functional

from cae_jax.scoring.patches import counts, starts

Network = Callable[[torch.Tensor], torch.Tensor]  # patches [N, C, p, p] -> the same shape


class TorchScores(NamedTuple):
    """What scoring makes of images [B, C, H, W]; B * R * K patches as `scoring.patches` cuts."""

    patches: torch.Tensor  # [B * R * K, C, p, p], reconstructed
    maps: torch.Tensor  # [B, H, W]
    distances: torch.Tensor  # [B]


def scorer(
    network: Network, patch_size: int, stride: int, image_size: int, device: torch.device
) -> Callable[[torch.Tensor], TorchScores]:
    """Returns the function of images [B, C, H, W] in [0, 1], H = W = image_size."""
    first = starts(image_size, stride)
    outside = max(0, first[-1] + patch_size - image_size)
    covered = torch.from_numpy(counts(image_size, image_size, patch_size, stride)).to(device)

    def score(images: torch.Tensor) -> TorchScores:
        channels = images.shape[1]
        padded = functional.pad(images, (0, outside, 0, outside), "replicate")
        cut = padded.unfold(2, patch_size, stride).unfold(3, patch_size, stride)
        cut = cut[:, :, : len(first), : len(first)].permute(0, 2, 3, 1, 4, 5)
        patches = cut.reshape(-1, channels, patch_size, patch_size)
        made = network(patches.contiguous(memory_format=torch.channels_last))
        output = _merge(made.unflatten(0, cut.shape[:3]), first, image_size) / covered
        maps = ((images - output) * 255).square().sum(1)
        return TorchScores(made, maps, maps.sum((1, 2)))

    return score


def _merge(patches: torch.Tensor, first: tuple[int, ...], side: int) -> torch.Tensor:
    """Sums [B, R, K, C, p, p] into images, an axis at a time: 9 + 9 sums instead of 81."""
    batch, rows, _, channels, size, _ = patches.shape
    wide = first[-1] + size
    bands = patches.new_zeros(batch, rows, channels, size, wide)
    for k, c in enumerate(first):
        bands[..., c : c + size] += patches[:, :, k]
    canvas = patches.new_zeros(batch, channels, wide, wide)
    for k, r in enumerate(first):
        canvas[:, :, r : r + size] += bands[:, k]
    return canvas[:, :, :side, :side]
