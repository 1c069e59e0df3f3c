"""DFR's autoencoder of vectors in torch: Adam on the mean squared error, a batch at a time."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from benchmarks.engines.torch_engine import device
from cae_jax.types import Variables


def network(params: Variables) -> nn.Sequential:
    """Returns the layers of `models.dfr.FeatureAutoencoder` with its fresh parameters."""
    layers: list[nn.Module] = []
    for name in (*sorted(n for n in params if n.startswith("layer")), "output"):
        kernel = np.array(params[name]["kernel"])
        linear = nn.Linear(*kernel.shape)
        with torch.no_grad():
            linear.weight.copy_(torch.from_numpy(kernel.T.copy()))
            linear.bias.copy_(torch.from_numpy(np.array(params[name]["bias"])))
        layers.append(linear)
        if f"norm{name.removeprefix('layer')}" in params:
            layers += [nn.BatchNorm1d(kernel.shape[1]), nn.ReLU()]
    return nn.Sequential(*layers)


def losses(
    params: Variables, vectors: torch.Tensor, batches: torch.Tensor, learning_rate: float
) -> list[float]:
    """Returns the losses of a step for each batch [steps, n] of numbers of vectors [m, c]."""
    where = device()
    learns, vectors = network(params).to(where).train(), vectors.to(where)
    adam, found = torch.optim.Adam(learns.parameters(), learning_rate), []
    for batch in batches.to(where):
        x = vectors[batch]
        loss = functional.mse_loss(learns(x), x)
        adam.zero_grad()
        loss.backward()
        adam.step()
        found.append(loss.detach())
    return torch.stack(found).tolist()
