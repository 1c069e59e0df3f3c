"""Other engines on a method's scoring as a graph of ONNX's operators, so that every method has one.

The graph is that of exported models, for one shape of images and without resizing. ONNX Runtime and
OpenVINO compile it. torch runs it eagerly, an operator at a time: as code in torch runs, but not as
one would write it who knows the method.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from benchmarks.engines import graphs
from benchmarks.engines.graphs import Run, apart
from benchmarks.production import Scoring
from cae_jax.runs import build
from cae_jax.types import CaeError

OUTPUTS = ("score", "map")
# of a method's largest value; hundreds of steps of a latent search make rounding large
ALLOWED, ALLOWED_OF_A_SEARCH = 1e-4, 1e-2
_SHOWN = 160  # characters of why an engine cannot


def scoring(
    names: Iterable[str], ready: Scoring
) -> tuple[dict[str, Callable[[], object]], dict[str, dict[str, float]]]:
    """Returns every engine's call that scores the images of ours, waited for, and how far its
    score and its map are off: the largest difference over the largest value.

    An engine that cannot, or is further off than ALLOWED, is told on stderr and left out; so are
    all of them where the method has no graph.

    Args:
      names: of `engines.GRAPH`.
      ready: our call.
    """
    calls: dict[str, Callable[[], object]] = {}
    errors: dict[str, dict[str, float]] = {}
    try:
        made = graph_of(ready)
    except CaeError as error:
        _skipped("other engines", error)
        return calls, errors
    s, images = ready.settings, ready.images
    ours = [ready.scores.distances[s.distance], ready.scores.residuals[s.distance]]
    allowed = ALLOWED_OF_A_SEARCH if hasattr(s.options, "search_steps") else ALLOWED
    for name in names:
        try:
            run = _RUNS[name](made)
            theirs = run(images)
            off = dict(zip(OUTPUTS, map(apart, ours, theirs), strict=True))
        except Exception as error:  # of whatever kind the engine raises
            _skipped(name, error)
            continue
        if not max(off.values()) <= allowed:
            _skipped(name, f"off by {off}, of which {allowed} is allowed")
            continue
        errors[name], calls[name] = off, lambda run=run: run(images)
    return calls, errors


def graph_of(ready: Scoring) -> Any:
    """Returns the ONNX model of our call, images [B, H, W, C] in, OUTPUTS out; raises CaeError for
    a method that ONNX has no operators for."""
    from cae_jax.serving.onnx import graph  # needs onnx

    name, score = ready.settings.distance, build.scoring_call(ready.settings)

    def judged(images: jax.Array) -> Sequence[jax.Array]:
        found = score(ready.variables, images)
        return [found.distances[name], found.residuals[name]]

    shape = jax.ShapeDtypeStruct(ready.images.shape, np.float32)
    return graph.of_function(judged, {"images": shape}, OUTPUTS)


def _onnxruntime(model: Any) -> Run:
    return graphs.onnxruntime_run(model.SerializeToString())


def _openvino(model: Any) -> Run:
    import openvino

    return graphs.openvino_run(openvino.Core().read_model(model.SerializeToString()))


def _torch(model: Any) -> Run:
    import torch
    from onnx2fx import convert

    from benchmarks.engines.torch_engine import device

    where = device()
    module = convert(model).to(where).eval()

    def run(images: np.ndarray) -> list[np.ndarray]:
        with torch.inference_mode():
            return [found.cpu().numpy() for found in module(torch.from_numpy(images).to(where))]

    return run


_RUNS: dict[str, Callable[[Any], Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torch,
}


def _skipped(name: str, why: object) -> None:
    said = " ".join(str(why).split())
    print(f"skipped {name}: {said[:_SHOWN]}", file=sys.stderr)
