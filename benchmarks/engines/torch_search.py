"""AnoGAN's latent search in torch, eagerly: `methods.anogan.reconstructor`, step by step."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from cae_jax.methods import anogan
from cae_jax.models.layers.convolution import same_pads
from cae_jax.types import Variables

_KERNEL, _STRIDE, _SLOPE, _EPSILON = 5, 2, 0.2, 1e-5


class Twin:
    """The two networks, with the weights of ours; batch norm by its running statistics."""

    def __init__(self, variables: Variables, device: torch.device) -> None:
        """Takes AnoGAN's variables."""

        def tensors(network: str) -> dict[str, torch.Tensor]:
            found = {}
            for part in ("params", "batch_stats"):
                for layer, values in variables[part].get(network, {}).items():
                    for name, value in values.items():
                        array = torch.tensor(np.array(value), device=device)
                        if name == "kernel" and array.ndim == 4:
                            array = self._kernel(array, network == "generator")
                        found[f"{layer}.{name}"] = array
            return found

        self.up, self.down = tensors("generator"), tensors("discriminator")
        self.doublings = sum(name.endswith("mean") for name in self.up)

    @staticmethod
    def _kernel(kernel: torch.Tensor, transposed: bool) -> torch.Tensor:
        """[kh, kw, Ci, Co] as torch has it."""
        moved = kernel.flip(0, 1).permute(2, 3, 0, 1) if transposed else kernel.permute(3, 2, 0, 1)
        return moved.contiguous(memory_format=torch.channels_last)

    def generate(self, z: torch.Tensor) -> torch.Tensor:
        """[N, latent] -> [N, C, p, p] in [-1, 1]."""
        w = self.up
        x = functional.linear(z, w["input.kernel"].T, w["input.bias"])
        features = len(w["norm1.mean"])
        side = math.isqrt(x.shape[1] // features)
        x = x.view(-1, side, side, features).permute(0, 3, 1, 2)
        for i in range(1, self.doublings + 1):
            last = i == self.doublings
            x = functional.relu(self._norm(x, w, f"norm{i}"))
            kernel = w["output.kernel" if last else f"deconv{i}.kernel"]
            bias = w["output.bias"] if last else None
            # as SAME cuts it: one pixel before, two behind
            x = functional.conv_transpose2d(x, kernel, bias, _STRIDE, 1)[:, :, :-1, :-1]
        return torch.tanh(x)

    def features(self, x: torch.Tensor) -> torch.Tensor:
        """[N, C, p, p] -> [N, F], in another order than ours."""
        for i in range(1, self.doublings + 1):
            (top, bottom), (left, right) = same_pads(x.shape[2:], (_KERNEL,) * 2, (_STRIDE,) * 2)
            x = functional.pad(x, (left, right, top, bottom))
            kernel, bias = self.down[f"conv{i}.kernel"], self.down.get(f"conv{i}.bias")
            x = functional.conv2d(x, kernel, bias, _STRIDE)
            if i > 1:
                x = self._norm(x, self.down, f"norm{i}")
            x = functional.leaky_relu(x, _SLOPE)
        return x.flatten(1)

    @staticmethod
    def _norm(x: torch.Tensor, w: dict[str, torch.Tensor], name: str) -> torch.Tensor:
        moments, affine = (w[f"{name}.mean"], w[f"{name}.var"]), (f"{name}.scale", f"{name}.bias")
        return functional.batch_norm(x, *moments, *(w[each] for each in affine), eps=_EPSILON)


def searcher(
    variables: Variables, patches: np.ndarray, start: np.ndarray, o: anogan.Options
) -> Callable[[], np.ndarray]:
    """Returns the call that searches for patches [N, p, p, C] in [0, 1] from `start` [N, latent],
    one search each, and gives their scores [N]."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    twin, schedule = Twin(variables, device), anogan.rates(o)
    rates = [float(schedule(i)) for i in range(o.search_steps)]
    x = torch.tensor(2 * patches.transpose(0, 3, 1, 2) - 1, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    with torch.no_grad():
        of_x = twin.features(x)

    def score(z: torch.Tensor) -> torch.Tensor:
        made = twin.generate(z)
        of_pixels = (x - made).abs().sum((1, 2, 3))
        of_features = (of_x - twin.features(made)).abs().sum(1)
        return (1 - o.feature_weight) * of_pixels + o.feature_weight * of_features

    def call() -> np.ndarray:
        z = torch.tensor(start, device=device, requires_grad=True)
        adam = torch.optim.Adam([z])
        for rate in rates:
            adam.param_groups[0]["lr"] = rate
            adam.zero_grad()
            score(z).sum().backward()
            adam.step()
        with torch.no_grad():
            return score(z).cpu().numpy()

    return call
