"""The Open Inference Protocol, version 2, over HTTP, with the binary tensor data extension.

Of github.com/kserve/open-inference-protocol, inference_rest.md. A model has one input, `image`, of
decoded pixels: UINT8, or FP32 in [0, 1], of shape [H, W, C] or [B, H, W, C], C = 1 or 3. Its
outputs are `score`, `defective` and, where it has unseen good images, `p_value`, [B] each; `map`,
[B, S, S], is given where it is asked for by name.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from cae_jax.serving.detector import Verdict
from cae_jax.serving.service import tensors
from cae_jax.serving.service.answers import Answer, RefusedError
from cae_jax.serving.service.judging import Service, UnusableError, judge, see_shape
from cae_jax.serving.service.models import Served
from cae_jax.types import height_width, unknown_name

_EXAMPLE = {
    "inputs": [{"name": "image", "shape": [1, 1, 3], "datatype": "UINT8", "data": [9, 9, 9]}]
}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"type": "object"}, "example": _EXAMPLE}},
    }
}
_TYPES = {"score": "FP32", "defective": "BOOL", "p_value": "FP64", "map": "FP32"}


def router(service: Service, version: str) -> APIRouter:
    """Returns the routes under /v2; `version` is the server's."""
    made = APIRouter(prefix="/v2", default_response_class=Answer)
    models = service.models

    def found(name: str, asked: str | None) -> Served:
        served = models.get(models.name_of(name))
        if asked is not None and asked != (served.detector.model.version or None):
            raise unknown_name("version", asked[:200], _versions(served))
        return served

    @made.get("")
    async def server() -> Answer:
        """Says what this server is."""
        known = {"name": "cae_jax", "version": version, "extensions": ["binary_tensor_data"]}
        return Answer(known)

    @made.get("/health/live")
    async def live() -> Answer:
        """Says that the server answers."""
        return Answer({"live": True})

    @made.get("/health/ready")
    async def ready() -> Answer:
        """Says whether all models are loaded: 200, or 503."""
        return Answer({"ready": models.ready}, 200 if models.ready else 503)

    @made.get("/models/{model}")
    @made.get("/models/{model}/versions/{version}")
    async def metadata(model: str, version: str | None = None) -> Answer:
        """Says what a model takes and gives."""
        return Answer(_metadata(found(model, version)))

    @made.get("/models/{model}/ready")
    @made.get("/models/{model}/versions/{version}/ready")
    async def model_ready(model: str, version: str | None = None) -> Answer:
        """Says whether a model is loaded: 200, or 503."""
        return Answer({"name": found(model, version).name, "ready": True})

    @made.post("/models/{model}/infer", openapi_extra=_BODY)
    @made.post("/models/{model}/versions/{version}/infer", openapi_extra=_BODY)
    async def infer(request: Request, model: str, version: str | None = None) -> Response:
        """Judges decoded images; all of them, or none."""
        with service.metrics.request() as names:
            names.append(found(model, version).name)
            return await _infer(service, names[-1], request)

    return made


async def _infer(service: Service, name: str, request: Request) -> Response:
    head = tensors.json_length(request.headers)
    most = service.options.max_bytes if head is not None else service.options.max_json
    async with service.bodies.body(request, most) as body:
        asked = await service.run(functools.partial(tensors.parse, body, head, service.options))
    with service.models.seats(name, len(asked.images)) as (served, seats):
        _check_outputs(served, [each for each, _ in asked.outputs])
        results = await asyncio.gather(
            *(
                judge(
                    service,
                    served,
                    seats,
                    f"image {i}",
                    functools.partial(served.detector.pixels, image),
                    functools.partial(_see, served, image.shape[:2]),
                )
                for i, image in enumerate(asked.images)
            ),
            return_exceptions=True,
        )
    for i, result in enumerate(results):
        if isinstance(result, UnusableError):
            raise RefusedError(result.status, f"image {i}: {result}")
        if isinstance(result, BaseException):
            raise result
    verdicts = [result[0] for result in results if not isinstance(result, BaseException)]
    return await service.run(functools.partial(_answer, served, asked, verdicts))


def _see(served: Served, size: tuple[int, int], _: np.ndarray) -> None:
    see_shape(served, size)


def _versions(served: Served) -> list[str]:
    version = served.detector.model.version
    return [version] if version else []


def _outputs(served: Served) -> list[str]:
    """The names of what a model gives."""
    there = len(served.detector.judge.held_out)
    return [name for name in _TYPES if name != "p_value" or there]


def _check_outputs(served: Served, asked: Sequence[str]) -> None:
    if len(asked) > len(set(asked)):  # each would be another copy of all the maps
        raise RefusedError(400, "an output is asked for more than once")
    for name in asked:
        if name not in _outputs(served):
            raise RefusedError(400, str(unknown_name("output", name[:200], _outputs(served))))


def _metadata(served: Served) -> dict[str, Any]:
    model = served.detector.model
    shapes = {"map": [-1, *height_width(model.image_size)]}
    versions = {"versions": _versions(served)} if model.version else {}
    return {
        "name": served.name,
        **versions,
        "platform": f"cae_jax_{model.runtime}",
        "inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, -1, -1, model.channels]}],
        "outputs": [
            {"name": name, "datatype": _TYPES[name], "shape": shapes.get(name, [-1])}
            for name in _outputs(served)
        ],
    }


def _answer(served: Served, asked: tensors.Asked, verdicts: Sequence[Verdict]) -> Response:
    made = {
        "score": lambda: np.array([each.distance for each in verdicts], np.float32),
        "defective": lambda: np.array([each.defective for each in verdicts]),
        "p_value": lambda: np.array([each.p_value for each in verdicts], np.float64),
        "map": lambda: np.stack([each.residual for each in verdicts]).astype(np.float32),
    }
    usual = [(name, asked.binary) for name in _outputs(served) if name != "map"]
    outputs = [
        tensors.Output(name, _TYPES[name], made[name](), binary)
        for name, binary in asked.outputs or usual
    ]
    known: dict[str, Any] = {"model_name": served.name}
    if version := served.detector.model.version:
        known["model_version"] = version
    return tensors.answer(known | asked.known, outputs)
