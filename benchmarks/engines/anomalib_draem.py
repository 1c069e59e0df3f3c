"""anomalib's DRAEM with the weights of ours: its two networks, its loss, Adam.

Its networks double maps between the corners of pixels and ours between their centers; the twin is
told to do as ours. Reference: anomalib, models/image/draem, torch_model.py.
"""

from __future__ import annotations

import jax
import numpy as np
import torch
from anomalib.models.image.draem.loss import DraemLoss
from anomalib.models.image.draem.torch_model import (
    DiscriminativeSubNetwork,
    ReconstructiveSubNetwork,
)
from torch import nn

from benchmarks.engines.torch_engine import device, prepare
from cae_jax.methods import draem
from cae_jax.runs.config import Config
from cae_jax.types import UsageError, Variables

_DEPTHS = {"reconstruction": 5, "segmentation": 6}  # levels that theirs always have


class Twin:
    """Both networks, and the step that moves them."""

    def __init__(self, settings: Config, variables: Variables) -> None:
        """Takes our settings, and variables of these; raises UsageError where images are too small
        for all the levels that theirs have."""
        o, c = settings.options.resolved(settings.image_size), settings.channels
        if f"down{_DEPTHS['segmentation'] - 1}_1" not in variables["params"]["segmentation"]:
            raise UsageError(f"--patch_size={o.patch_size}: anomalib's DRAEM has 6 levels: 256")
        self._made = ReconstructiveSubNetwork(c, c, o.width)
        self._seen = DiscriminativeSubNetwork(2 * c, 2, o.width // 2)
        for name, network in {"reconstruction": self._made, "segmentation": self._seen}.items():
            _load(network, {part: tree[name] for part, tree in variables.items()}, _DEPTHS[name])
            for module in network.modules():
                if isinstance(module, nn.Upsample):
                    module.align_corners = False
            network.to(device(), memory_format=torch.channels_last)
        first = next(m for m in self._seen.modules() if isinstance(m, nn.Conv2d))
        with torch.no_grad():  # ours has the reconstruction before the image
            first.weight.copy_(torch.cat(first.weight.split(c, dim=1)[::-1], dim=1))
        both = [*self._made.parameters(), *self._seen.parameters()]
        self._adam, self._loss = torch.optim.Adam(both, o.learning_rate), DraemLoss()

    def networks(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns the reconstructions of images [B, H, W, C], and the logits [B, H, W, 2]."""
        self._made.eval(), self._seen.eval()
        with torch.inference_mode():
            made, logits = self._applied(prepare(images))
        return tuple(x.permute(0, 2, 3, 1).cpu().numpy() for x in (made, logits))

    def step(self, images: np.ndarray, masks: np.ndarray) -> float:
        """Learns from images, and where they have anomalies [B, H, W]; returns the loss."""
        self._made.train(), self._seen.train()
        x, mask = prepare(images), torch.from_numpy(masks)[:, None].to(device())
        made, logits = self._applied(x)
        loss = self._loss(x, made, mask, logits)
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        return loss.item()

    def _applied(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        made = self._made(x)
        return made, self._seen(torch.cat([x, made], dim=1))


def ours(settings: Config, variables: Variables, images: np.ndarray) -> list[np.ndarray]:
    """Returns what our networks make of images, as `Twin.networks` does."""
    o = settings.options.resolved(settings.image_size)
    networks = draem.Networks(settings.channels, o.width, o.patch_size)
    return [np.asarray(found) for found in jax.jit(networks.apply)(variables, images)]


def _load(network: nn.Module, variables: Variables, depth: int) -> None:
    """Gives a network the weights of ours, whose layers come in the same order."""
    names = [f"down{i}_{k}" for i in range(depth) for k in (1, 2)]
    names += [f"up{i}_{k}" for i in reversed(range(depth - 1)) for k in range(3)]
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
    params, stats = variables["params"], variables["batch_stats"]
    with torch.no_grad():
        for name, layer in zip([*names, "output"], convolutions, strict=True):
            layer.weight.copy_(_tensor(params[name]["kernel"]).permute(3, 2, 0, 1))
            layer.bias.zero_()
        layer.bias.copy_(_tensor(params["output"]["bias"]))
        for name, norm in zip(names, norms, strict=True):
            norm.weight.copy_(_tensor(params[name]["norm"]["scale"]))
            norm.bias.copy_(_tensor(params[name]["norm"]["bias"]))
            norm.running_mean.copy_(_tensor(stats[name]["norm"]["mean"]))
            norm.running_var.copy_(_tensor(stats[name]["norm"]["var"]))


def _tensor(leaf: object) -> torch.Tensor:
    return torch.from_numpy(np.array(leaf))
