"""The operator's page: its files, and what it asks the service for beside verdicts.

`/` and `/page/static/` hold nothing of any image and can be had without a token; the rest of
`/page/` is for those who may see the images. The page itself is in `templates`: plain JavaScript
modules, and nothing from another address.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Literal

import fastapi
from fastapi import Response
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel

from cae_jax.files import BOM
from cae_jax.reports import charts
from cae_jax.serving.detector import Detector
from cae_jax.serving.service import display, drift
from cae_jax.serving.service.history import PICTURES, REVIEWS, History, Row
from cae_jax.types import UsageError

# The page loads nothing that this service did not send; what it shows of an image it holds itself.
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data: blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Cache-Control": "no-cache",  # asked for again, so a new version is seen at once
}
_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
_CSV = "text/csv; charset=utf-8"
_MAGIC = ((b"\x89PNG", "image/png"), (b"\xff\xd8\xff", "image/jpeg"))


class Review(BaseModel):
    """What an operator says of a part."""

    id: str
    review: str  # see `history.REVIEWS`


def router(history: History, models: Callable[[], Mapping[str, Detector]]) -> fastapi.APIRouter:
    """Returns the routes `/` and `/page/...`.

    Args:
      history: where what was judged is found, and the operator's word kept.
      models: returns the detectors that are served now, by name.
    """
    routes = fastapi.APIRouter(include_in_schema=False)
    _add_files(routes)
    _add_history(routes, history, models)

    @routes.get("/page/models")
    def what_is_served() -> JSONResponse:
        served = [_about(name, detector) for name, detector in models().items()]
        reviews = {"defective": REVIEWS[True], "good": REVIEWS[False]}
        shown = {"models": served, "ramp": charts.RAMP.tolist(), "reviews": reviews}
        return JSONResponse(shown, headers=HEADERS)

    return routes


def _add_files(routes: fastapi.APIRouter) -> None:
    files = display.static_files("operator.js", "service.js", "history.js", "chart.js")
    html = display.document("page.html")

    @routes.get("/")
    def page() -> HTMLResponse:
        return HTMLResponse(html, headers=HEADERS)

    @routes.get("/page/static/{name}")
    def static(name: str) -> Response:
        if name not in files:
            return _error(404, "no such file of the page")
        media_type = _TYPES[name.rpartition(".")[2]]
        return Response(files[name], headers=HEADERS, media_type=media_type)


def _add_history(
    routes: fastapi.APIRouter, history: History, models: Callable[[], Mapping[str, Detector]]
) -> None:
    @routes.get("/page/history")
    def rows(model: str | None = None, verdict: str | None = None,
             review: str | None = None, limit: int = PICTURES) -> JSONResponse:  # fmt: skip
        try:
            found = history.rows(max(0, min(limit, PICTURES)), model, verdict, review)
        except UsageError as error:
            return _error(400, str(error))
        detector = models().get(model) if model is not None else None
        said, version = "", None
        if detector is not None:
            version = detector.model.version
            newest = history.rows(drift.LAST, model)
            same = [row.score for row in newest if row.version == version]
            said = drift.sentence(same, detector.judge.held_out)
        shown = {"rows": [_plain(row) for row in found], "drift": said, "version": version}
        return JSONResponse(shown, headers=HEADERS)

    @routes.get("/page/pictures/{id}/{part}")
    def picture(id: str, part: Literal["picture", "map", "mask"]) -> Response:
        found = history.picture(id, part)
        if found is None:
            return _error(404, "this image's pictures are not kept any more")
        kind = next((kind for magic, kind in _MAGIC if found.startswith(magic)), None)
        if kind is None:
            return _error(404, "this image is of a kind that browsers do not show")
        return Response(found, headers=HEADERS, media_type=kind)

    @routes.post("/page/review")
    def review(said: Review) -> JSONResponse:
        try:
            history.review(said.id, said.review)
        except UsageError as error:
            return _error(400, str(error))
        return JSONResponse({"id": said.id, "review": said.review}, headers=HEADERS)

    @routes.get("/page/history.csv")
    def table() -> StreamingResponse:
        name = {"Content-Disposition": 'attachment; filename="history.csv"'}
        lines = itertools.chain([BOM], history.csv())  # the mark by which Excel knows UTF-8
        return StreamingResponse(lines, headers=HEADERS | name, media_type=_CSV)


def _about(name: str, detector: Detector) -> dict[str, Any]:
    return {
        "name": name,
        **display.about(detector.model._asdict(), detector.threshold, detector.judge.held_out),
    }


def _plain(row: Row) -> dict[str, Any]:
    numbers = {
        name: display.number(getattr(row, name)) for name in ("score", "threshold", "p_value")
    }
    return row._asdict() | numbers


def _error(status: int, line: str) -> JSONResponse:
    return JSONResponse({"error": line}, status_code=status, headers=HEADERS)
