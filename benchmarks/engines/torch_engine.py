"""The engines that start from the torch twin: torch itself, compiled, ONNX Runtime, OpenVINO."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import torch

from benchmarks.engines import graphs, twin
from benchmarks.engines.torch_score import Network, TorchScores, scorer
from cae_jax.scoring import patches
from cae_jax.scoring.scorer import device as device_name
from cae_jax.types import UsageError, Variables


def scoring_call(
    name: str, model: Any, variables: Variables, images: np.ndarray, stride: int
) -> Callable[[], TorchScores]:
    """Returns a call that scores images with a model's network and weights, and waits.

    Args:
      name: of `engines.PACKAGES`.
      model: see `twin.build`, whose errors it raises.
      variables: the model's.
      images: [B, H, W, C] in [0, 1], H = W; they are put on the device here.
      stride: between patches, in pixels.
    """
    size = images.shape[1]
    network: Network = twin.build(model, variables).to(device())
    exporters = {"onnxruntime": _onnxruntime, "openvino": _openvino}
    if name in exporters:
        n = len(images) * patches.number(size, stride)
        example = torch.zeros(n, model.channels, model.patch_size, model.patch_size)
        with warnings.catch_warnings():  # of exporters about themselves
            warnings.simplefilter("ignore")
            network = exporters[name](network, example)
    whole = scorer(network, model.patch_size, stride, size, device())
    if name == "torch_compile":
        whole = torch.compile(whole, dynamic=False)
    given = prepare(images)

    def call() -> TorchScores:
        with torch.inference_mode():
            scores = whole(given)
        if given.is_cuda:
            torch.cuda.synchronize()
        return scores

    return call


def device() -> torch.device:
    """Returns the device of JAX in torch's words, and gives torch every core, as XLA has them.

    Raises UsageError where JAX computes on what this torch cannot use.
    """
    torch.set_num_threads(os.cpu_count() or 1)
    where = {"cpu": "cpu", "gpu": "cuda"}.get(jax.default_backend())
    if where is None or (where == "cuda" and not torch.cuda.is_available()):
        raise UsageError(f"--against: torch {torch.__version__} cannot use {device_name()}")
    return torch.device(where)


def prepare(images: np.ndarray) -> torch.Tensor:
    """Images [B, H, W, C] -> [B, C, H, W] on the device, channels last in memory."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).to(device())
    return tensor.contiguous(memory_format=torch.channels_last)


def read(scores: TorchScores) -> dict[str, np.ndarray]:
    """Returns patches [N, p, p, C], map [B, H, W] and distance [B] as ours are."""
    made = scores.patches.permute(0, 2, 3, 1)
    found = {"patches": made, "map": scores.maps, "distance": scores.distances}
    return {name: tensor.cpu().numpy() for name, tensor in found.items()}


def _onnxruntime(network: torch.nn.Module, example: torch.Tensor) -> Network:
    file = io.BytesIO()
    torch.onnx.export(network, (example,), file, input_names=["x"], dynamo=False)
    run = graphs.onnxruntime_run(file.getvalue())
    return lambda x: torch.from_numpy(run(x.contiguous().numpy())[0])


def _openvino(network: torch.nn.Module, example: torch.Tensor) -> Network:
    import openvino

    converted = openvino.convert_model(network, example_input=example, input=[example.shape])
    run = graphs.openvino_run(converted)
    return lambda x: torch.from_numpy(run(x.contiguous().numpy())[0])
