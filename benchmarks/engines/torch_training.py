"""A training step in torch: crops, L2 loss, gradient, Adam with L2 in the gradient."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn import functional

from benchmarks.engines import twin
from benchmarks.engines.torch_engine import device, prepare
from benchmarks.engines.torch_layers import Memory
from cae_jax.types import Variables


class Training:
    """The twin of a model, its optimizer and its images, and the step that moves them."""

    def __init__(
        self,
        model: Any,
        variables: Variables,
        images: np.ndarray,
        learning_rate: float,
        weight_decay: float,
    ) -> None:
        """Images are float32 [m, H, W, C]; the other arguments as `methods.autoencoder` has them.

        Raises UsageError, see `twin.build`.
        """
        self.twin = twin.build(model, variables).to(device()).train()
        self.images = prepare(images)
        self.patch_size = model.patch_size
        self.entropy_weight = getattr(model, "entropy_weight", 0.0)
        self.adam = torch.optim.Adam(
            self.twin.parameters(), learning_rate, weight_decay=weight_decay
        )

    def step(self, crops: np.ndarray) -> float:
        """One step on crops [n, 3] of (image, row, column); returns its loss, waited for."""
        p = self.patch_size
        cut = [self.images[i, :, r : r + p, c : c + p] for i, r, c in crops.tolist()]
        patches = torch.stack(cut).contiguous(memory_format=torch.channels_last)
        loss = functional.mse_loss(self.twin(patches), patches)
        for layer in self.twin:
            if isinstance(layer, Memory):
                loss = loss + self.entropy_weight * layer.entropy.mean()
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return loss.item()

    def parameters(self) -> dict[twin.Path, np.ndarray]:
        """Returns the parameters as Flax has them."""
        return twin.parameters(self.twin)

    def momenta(self) -> dict[twin.Path, np.ndarray]:
        """Returns Adam's first moments as Flax has them."""
        return twin.parameters(self.twin, lambda p: self.adam.state[p]["exp_avg"])
