"""The application: its routes, and every error as one line of JSON."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import parse_qs

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, RedirectResponse, Response

from cae_jax.runs.machine.progress import say
from cae_jax.serving.service import docs, inference_protocol, page, predict
from cae_jax.serving.service.answers import FAILED, Answer, RefusedError, refusal, status_of
from cae_jax.serving.service.bodies import Bodies
from cae_jax.serving.service.guard import Guard, is_token
from cae_jax.serving.service.history import History
from cae_jax.serving.service.judging import Service
from cae_jax.serving.service.metrics import Metrics
from cae_jax.serving.service.models import Models
from cae_jax.serving.service.options import Options
from cae_jax.types import CaeError

VERSION = "1"  # of what the routes take and give
_LONGEST_LOGIN = 4096  # bytes


def make(models: Models, options: Options, history: History | None) -> FastAPI:
    """Returns the application.

    Args:
      models: started, or to be; routes that need a model say 503 until it is there.
      options: limits and rights.
      history: what keeps the verdicts, which the page shows; None for neither.
    """
    metrics = Metrics(models)
    pool = ThreadPoolExecutor(os.cpu_count(), "decode")
    service = Service(models, options, Bodies(options), metrics, pool, history)
    app = FastAPI(
        title="cae_jax",
        version=VERSION,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        default_response_class=Answer,
    )
    app.add_middleware(Guard, options=options, metrics=metrics)
    app.include_router(predict.router(service))
    app.include_router(inference_protocol.router(service, VERSION))
    if history is not None:
        app.include_router(
            page.router(history, lambda: {m.name: m.detector for m in models.served})
        )
    _add_states(app, service)
    _add_errors(app)
    return app


def _add_states(app: FastAPI, service: Service) -> None:
    models = service.models

    @app.get("/health")
    async def health() -> Answer:
        """Says that the process is alive."""
        return Answer({"alive": True})

    @app.get("/ready")
    async def ready() -> Answer:
        """Says whether all models are loaded and warmed up: 200, or 503."""
        found = {"ready": models.ready, "models": [each.name for each in models.served]}
        return Answer(found, 200 if models.ready else 503)

    @app.get("/metrics", response_class=Response)
    async def metrics_text() -> Response:
        """Gives the metrics, for Prometheus."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_LATEST)

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> HTMLResponse:
        return HTMLResponse(docs.page(app.openapi()))

    @app.post("/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        async with service.bodies.body(request, _LONGEST_LOGIN) as body:
            form = parse_qs(body.decode("utf-8", "replace"), max_num_fields=2)
        if not service.options.token or not is_token(service.options, form.get("token", [""])[0]):
            raise RefusedError(401, "this is not the token")
        answer = RedirectResponse("/", 303)
        answer.set_cookie("token", service.options.token, httponly=True, samesite="strict")
        return answer


def _add_errors(app: FastAPI) -> None:
    async def refused(request: Request, error: Exception) -> Answer:
        if (status := status_of(error)) != 500:
            return refusal(status, str(error))
        say(f"{request.method} {request.url.path!r}: {error}")  # it may name the server's files
        return refusal(status, FAILED)

    async def no_route(_: Request, error: Exception) -> Answer:
        assert isinstance(error, HTTPException)
        return refusal(error.status_code, error.detail, error.headers)

    async def not_valid(_: Request, error: Exception) -> Answer:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        return refusal(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}"[:500])

    app.add_exception_handler(RefusedError, refused)
    app.add_exception_handler(CaeError, refused)
    app.add_exception_handler(HTTPException, no_route)
    app.add_exception_handler(RequestValidationError, not_valid)
