"""POST /predict: images in, verdicts out."""

from __future__ import annotations

import asyncio
import base64
import functools
import math
import secrets
import time
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter, Query, Request
from starlette.background import BackgroundTask

from cae_jax.data import images, pictures
from cae_jax.data.frame import Frame
from cae_jax.runs.machine.progress import say
from cae_jax.serving.detector import Model, Verdict
from cae_jax.serving.service import bodies
from cae_jax.serving.service.answers import Answer, RefusedError
from cae_jax.serving.service.history import History
from cae_jax.serving.service.judging import Service, UnusableError, judge, see_shape
from cae_jax.serving.service.models import Served
from cae_jax.serving.service.words import sentence
from cae_jax.serving.service.worker import Seats
from cae_jax.types import CaeError

_BINARY = {"type": "string", "format": "binary"}
_FORM = {"type": "object", "properties": {"image": {"type": "array", "items": _BINARY}}}
_BODY = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": {"schema": _FORM}, "image/*": {"schema": _BINARY}},
    }
}
_LARGEST = 1024  # pixels of the longer side of a map that is put back into its file's shape
_AT_ONCE = 1_000_000  # bytes of a body that is taken apart in less time than a thread wakes up in
_PARAMETERS = frozenset({"model", "map"})


def router(service: Service) -> APIRouter:
    """Returns the route."""
    made = APIRouter()

    @made.post("/predict", openapi_extra=_BODY, response_class=Answer)
    async def predict(
        request: Request,
        model: Annotated[str | None, Query(description="its name, where there are several")] = None,
        map: Annotated[bool, Query(description="also the map and the mask, as PNG")] = False,
    ) -> Answer:
        """Judges 1 to 16 images: parts named `image` of a form, or one as the body.

        Each result has a status of its own; one that is not 200 has an `error`. One of an image
        that is squeezed has a `warning`.
        """
        with service.metrics.request() as names:
            if unknown := set(request.query_params) - _PARAMETERS:
                raise RefusedError(400, f"unknown parameter {min(unknown)[:200]!r}")
            names.append(service.models.name_of(model))
            service.models.get(names[-1])  # while it is being loaded no body is read
            kind = request.headers.get("content-type", "")
            if kind.lower().partition("/")[0] not in ("multipart", "image"):
                bodies.images(b"", kind)  # says what is wrong with it, before it is read
            async with service.bodies.body(request, service.options.max_bytes) as body:
                if len(body) < _AT_ONCE:
                    parts = bodies.images(body, kind)
                else:
                    parts = await service.run(functools.partial(bodies.images, body, kind))
                del body
                return await _judged(service, names[-1], parts, map, "multipart" in kind.lower())

    return made


async def _judged(
    service: Service, name: str, parts: list[bodies.Part], maps: bool, form: bool
) -> Answer:
    later: list[Callable[[], None]] = []  # what is kept, when the answer is on its way
    with service.models.seats(name, len(parts)) as (served, seats):
        results = await asyncio.gather(
            *(_result(service, served, seats, part, maps, later) for part in parts)
        )
    if not form and results[0]["status"] != 200:
        raise RefusedError(results[0]["status"], results[0]["error"])
    model = served.detector.model
    about = {
        "name": name,
        "title": model.title,
        "version": model.version,
        "distance": model.distance,
        "image_size": model.image_size,
    }
    return Answer({"model": about, "results": results}, background=BackgroundTask(_all, later))


def _all(later: list[Callable[[], None]]) -> None:
    for each in later:
        each()


async def _result(
    service: Service,
    served: Served,
    seats: Seats,
    part: bodies.Part,
    maps: bool,
    later: list[Callable[[], None]],
) -> dict[str, Any]:
    began = time.perf_counter()
    model = served.detector.model
    limit = service.options.max_pixels

    def read() -> np.ndarray:
        return images.seen(part.content, model.frame, part.label, limit)

    def meanwhile(pixels: np.ndarray) -> tuple[bytes, tuple[int, int], str]:
        size = images.size(part.content, part.label)
        picture = _picture(pixels, size, model) if service.history is not None else b""
        return picture, size, see_shape(served, size)

    try:
        verdict, (picture, size, lost) = await judge(
            service, served, seats, part.label, read, meanwhile
        )
    except UnusableError as error:
        return {"name": part.label, "status": error.status, "error": str(error)}
    found = {"name": part.label, "status": 200, **_said(served, verdict)}
    if maps:
        found |= await service.run(functools.partial(_urls, served, verdict, size))
    if service.history is not None:
        row = (service.history, served, found["id"], part.label, verdict, picture)
        later.append(functools.partial(_keep, *row))
    if lost:
        found["warning"] = lost
    if maps:
        found["size"] = list(size)
    found["milliseconds"] = round(1e3 * (time.perf_counter() - began), 3)
    return found


def _picture(pixels: np.ndarray, size: tuple[int, int], model: Model) -> bytes:
    """A JPEG of an image in the proportions of (height, width), as large as the model sees it; of
    one that is not stretched whole, as the model sees it."""
    if not model.frame.plain:
        pixels, size = pixels[..., : model.channels], pixels.shape[:2]
    share = max(pixels.shape[:2]) / max(size)
    fit = (max(1, round(size[0] * share)), max(1, round(size[1] * share)))
    shown = images.from_array(np.clip(pixels, 0, 1), Frame(fit, pixels.shape[-1]))
    return pictures.jpeg_bytes(np.clip(shown, 0, 1))


def _said(served: Served, verdict: Verdict) -> dict[str, Any]:
    return {
        "id": secrets.token_hex(8),
        "defective": verdict.defective,
        "score": verdict.distance,
        "threshold": _finite(verdict.threshold.value),
        "p_value": _finite(verdict.p_value),
        "sentence": sentence(verdict, len(served.detector.judge.held_out)),
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _shown(served: Served, verdict: Verdict) -> tuple[bytes, bytes]:
    """Map and mask as PNG."""
    model = served.detector.model
    scale = model.scale if model.scale > 0 else float(verdict.residual.max()) or 1.0
    levels = np.clip(np.rint(verdict.residual * (255 / scale)), 0, 255).astype(np.uint8)
    return pictures.png_bytes(levels, quick=True), pictures.png_bytes(verdict.mask, quick=True)


def _urls(served: Served, verdict: Verdict, size: tuple[int, int]) -> dict[str, str]:
    """Map and mask for a page that lays them over the file, of that (height, width)."""
    frame = served.detector.model.frame
    if not frame.plain:
        share = min(1, _LARGEST / max(size))
        fit = (max(1, round(size[0] * share)), max(1, round(size[1] * share)))
        residual, mask = (frame.back(each, size) for each in (verdict.residual, verdict.mask))
        verdict = verdict._replace(
            residual=pictures.resize_map(residual, fit), mask=pictures.resize_mask(mask, fit)
        )
    shown = _shown(served, verdict)
    return {"map": _url(shown[0]), "mask": _url(shown[1])}


def _keep(
    history: History, served: Served, id: str, name: str, verdict: Verdict, picture: bytes
) -> None:
    """Writes down what was said."""
    shown = _shown(served, verdict)
    row = (served.name, served.detector.model.version, name, verdict, picture, *shown)
    try:
        history.record(*row, id)
    except CaeError as error:  # a full disk takes nobody's verdict away
        say(f"model {served.name}: {name}: not in the history: {error}")


def _url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
