"""Answers as JSON; a refusal is {"error": one line}."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from cae_jax.serving.service.worker import BusyError
from cae_jax.types import UsageError

FAILED = "the server failed; its log says how"
LABEL = 200  # characters of a name that came with a request


class Answer(JSONResponse):
    """JSON in ASCII, so that any text that came with a request can go back."""

    def render(self, content: Any) -> bytes:
        """Returns the body; raises ValueError for a number that is not finite."""
        return json.dumps(content, allow_nan=False, separators=(",", ":")).encode("ascii")


class RefusedError(Exception):
    """A request that is not done, by its own fault or for want of room."""

    def __init__(self, status: int, message: str) -> None:
        """Takes the HTTP status and what to say."""
        super().__init__(message)
        self.status = status


def refusal(status: int, message: str, headers: Mapping[str, str] | None = None) -> Answer:
    """Returns {"error": message} as one line; a 503 says when to come again."""
    again = {"Retry-After": "1"} if status == 503 else {}
    return Answer({"error": " ".join(message.split())}, status, {**again, **(headers or {})})


def status_of(error: BaseException) -> int:
    """Returns the HTTP status of an error of a request."""
    if isinstance(error, RefusedError):
        return error.status
    if isinstance(error, HTTPException):
        return error.status_code
    if isinstance(error, BusyError):
        return 503
    if isinstance(error, UsageError):
        return 404  # a model that there is not
    return 500


def printable(text: str) -> str:
    """Returns a label: on one line, without what cannot be shown, cut to LABEL characters."""
    return "".join(c if c.isprintable() else "?" for c in text[:LABEL])
