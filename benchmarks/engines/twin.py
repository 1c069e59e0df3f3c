"""The torch network that is a model's twin: built from the same tables, with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.engines.torch_layers import FlattenChannelsLast, Memory, convolution, transposed
from cae_jax.models.layers.table import Row, Table, costs
from cae_jax.types import UsageError, Variables

Path = tuple[str, ...]  # of a leaf in a Flax collection: part, row, "kernel"


def build(model: Any, variables: Variables) -> nn.Sequential:
    """Returns a model of tables as torch layers, channels last in memory, with its weights.

    Args:
      model: a built-in model, or a fork's that has `tables` in the same sense.
      variables: its Flax variables.

    Returns:
      [N, C, p, p] -> the same shape, in evaluation mode. A layer with parameters bears its path in
      Flax, PART/ROW.

    Raises:
      UsageError: the model has no tables.
    """
    if not hasattr(model, "tables"):
        raise UsageError(
            f"--against: {type(model).__name__} has no layer tables to build its twin from; "
            "time it alone, or give the model `tables` (see cae_jax/models/bergmann.py)"
        )
    shape, twin = (model.patch_size, model.patch_size, model.channels), nn.Sequential()
    for part, rows in model.tables().items():
        for cost in costs(rows, shape, model.channels):
            name = f"{part}/{cost.row.name}"
            norm = variables["params"][part].get(f"{cost.row.name}_norm")
            made = [*_layers(model, cost.row, shape, cost.output), *_activation(cost.row, norm)]
            for i, layer in enumerate(made):
                if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
                    twin.add_module(f"{name}_norm", layer)
                elif list(layer.parameters()):
                    twin.add_module(name, layer)
                else:
                    twin.add_module(f"{name}_{i}", layer)
            shape = cost.output
    _load(twin, variables)
    return twin.to(memory_format=torch.channels_last).eval()


def parameters(
    twin: nn.Sequential, pick: Callable[[nn.Parameter], torch.Tensor] = lambda p: p
) -> dict[Path, np.ndarray]:
    """Returns copies of the parameters, or what `pick` makes of them, by path as Flax has them."""
    return {
        path[1:]: np.array(_to_flax(layer, pick(tensor).detach().cpu().numpy()))
        for path, layer, tensor in _leaves(twin)
        if path[0] == "params"
    }


def _layers(
    model: Any, row: Row, shape: tuple[int, ...], output: tuple[int, ...]
) -> list[nn.Module]:
    match row.op:
        case "conv":
            return convolution(row, shape[:2], shape[-1], output[-1])
        case "deconv":
            return transposed(row, shape[:2], shape[-1], output[-1])
        case "max_pool":
            return [nn.MaxPool2d(row.kernel, row.stride)]
        case "flatten":
            return [FlattenChannelsLast()]
        case "dense":
            return [nn.Linear(shape[-1], output[-1])]
        case "reshape":
            return [nn.Unflatten(1, (output[-1], 1, 1))]
        case "memory":
            cosine = model.addressing == "cosine"
            default = 1 / row.kernel if cosine else 0.0025
            threshold = default if model.threshold < 0 else model.threshold
            return [Memory(row.kernel, shape[-1], cosine, threshold)]
    raise UsageError(f"--against: row {row.name}: no twin of {row.op!r}")


def _activation(row: Row, norm: Any) -> list[nn.Module]:
    """What follows a row; `norm` holds the batch norm's parameters: no scale is Oh and Yun's."""
    if row.linear or row.op not in ("conv", "deconv", "dense"):
        return []
    features = 0 if norm is None else len(norm["bias"])
    kind = nn.BatchNorm1d if row.op == "dense" else nn.BatchNorm2d
    if not features:
        return [nn.LeakyReLU(Table.slope)]
    if "scale" in norm:
        return [kind(features, eps=1e-5, momentum=0.01), nn.LeakyReLU(Table.slope)]
    layer = kind(features, eps=1e-3, momentum=0.001)
    layer.weight.requires_grad_(False)  # stays 1
    return [nn.ReLU(), layer, nn.ReLU()]


def _leaves(twin: nn.Sequential) -> Iterator[tuple[Path, nn.Module, torch.Tensor]]:
    """Every tensor that Flax has too: its path with the collection before, its layer, itself."""
    for name, layer in twin.named_children():
        path = tuple(name.split("/"))
        if isinstance(layer, Memory):
            yield ("params", path[0], "memory"), layer, layer.memory
        elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
            if layer.weight.requires_grad:
                yield ("params", *path, "scale"), layer, layer.weight
            yield ("params", *path, "bias"), layer, layer.bias
            yield ("batch_stats", *path, "mean"), layer, layer.running_mean
            yield ("batch_stats", *path, "var"), layer, layer.running_var
        elif list(layer.parameters()):
            yield ("params", *path, "kernel"), layer, layer.weight
            yield ("params", *path, "bias"), layer, layer.bias


def _load(twin: nn.Sequential, variables: Variables) -> None:
    with torch.no_grad():
        for path, layer, tensor in _leaves(twin):
            leaf: Any = variables
            for key in path:
                leaf = leaf[key]
            array = np.array(leaf)
            if array.ndim == 4:
                array = array.transpose(3, 2, 0, 1)
                if isinstance(layer, nn.ConvTranspose2d):
                    array = array.swapaxes(0, 1)[..., ::-1, ::-1]
            elif isinstance(layer, nn.Linear):
                array = array.T
            tensor.copy_(torch.from_numpy(array.copy()))


def _to_flax(layer: nn.Module, array: np.ndarray) -> np.ndarray:
    if array.ndim == 4:
        if isinstance(layer, nn.ConvTranspose2d):
            array = array.swapaxes(0, 1)[..., ::-1, ::-1]
        return array.transpose(2, 3, 1, 0)
    return array.T if isinstance(layer, nn.Linear) else array
