"""What stands before all routes: whom the server answers, how much it listens to, and that it
always answers in JSON."""

from __future__ import annotations

import asyncio
import hmac
from collections import Counter
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import HTMLResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from cae_jax.runs.machine.progress import say
from cae_jax.serving.service.answers import FAILED, RefusedError, refusal
from cae_jax.serving.service.metrics import Metrics
from cae_jax.serving.service.options import Options

# To those without the token: nothing that tells of an image or a model.
OPEN = frozenset({"/health", "/ready", "/login", "/"})
_OPEN_FILES = "/page/static/"
_ONCE = ("host", "content-type", "content-length", "authorization", "cookie", "origin")
_OTHER = 64_000  # bytes of a body that is no image
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
}
_LOGIN = """<!doctype html><html lang="en"><meta charset="utf-8"><title>Token</title>
<meta name="viewport" content="width=device-width"><style>:root{color-scheme:light dark}
body{font:1rem system-ui,sans-serif;margin:3rem auto;max-width:20rem}</style>
<form method="post" action="/login"><label>Token <input type="password" name="token" required
autofocus></label> <button>Open</button></form></html>"""


class Guard:
    """ASGI middleware: the Host header, the origin of a request, the token, the size of its body
    and the time that it may take, and failures."""

    def __init__(self, app: ASGIApp, options: Options, metrics: Metrics) -> None:
        """Takes the application behind it."""
        self._app, self._options, self._metrics = app, options, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or lets the application do it."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = False

        async def sent(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                have = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"]] + [
                    (name.lower().encode(), value.encode())
                    for name, value in _HEADERS.items()
                    if name.lower().encode() not in have
                ]
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            refused = self._refused(scope)
            try:
                await (refused or self._app)(scope, self._heard(scope["path"], receive), sent)
            except Exception as error:
                cause = " ".join(f"{type(error).__name__}: {error}".split())
                say(f"{scope['method']} {scope['path']!r}: {cause}")
                if not started:
                    await refusal(500, FAILED)(scope, receive, sent)

    def _heard(self, path: str, receive: Receive) -> Receive:
        """The body's messages until there are too many bytes, or too late; then RefusedError."""
        loop = asyncio.get_running_loop()
        until = loop.time() + self._options.timeout
        images = path == "/predict" or path.endswith("/infer")
        most = self._options.max_bytes if images else _OTHER
        size, ended = 0, False

        async def heard() -> Message:
            nonlocal size, ended
            if ended:  # what is waited for now is that the client hangs up
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                wait = self._options.timeout
                raise RefusedError(408, f"the body did not come within {wait:g} seconds") from None
            size += len(message.get("body", b""))
            if size > most:
                raise RefusedError(413, f"the body has more than {most} bytes")
            ended = not message.get("more_body", False)
            return message

        return heard

    def _refused(self, scope: Scope) -> Response | None:
        """The answer to a request that goes no further."""
        headers = Headers(scope=scope)
        times = Counter(name for name, _ in scope["headers"])
        for name in _ONCE:
            if times[name.encode()] > 1:
                return refusal(400, f"more than one header {name}")
        host = headers.get("host", "")
        if self._options.hosts and _name(host) not in self._options.hosts:
            return refusal(403, "the Host header names another server than this one")
        origin = headers.get("origin")
        reading = scope["method"] in ("GET", "HEAD", "OPTIONS")
        if origin is not None and not reading and _address(origin) != host:
            return refusal(403, "a page of another server may not send anything here")
        path = scope["path"]
        if path in OPEN or path.startswith(_OPEN_FILES) or self._knows(headers):
            return None
        if scope["method"] == "GET" and "text/html" in headers.get("accept", ""):
            return HTMLResponse(_LOGIN, 401)
        return refusal(
            401,
            "a token is needed: Authorization: Bearer TOKEN",
            {"WWW-Authenticate": "Bearer"},
        )

    def _knows(self, headers: Headers) -> bool:
        if not self._options.token:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get("token")
        except CookieError:
            cookie = None
        return (kind.lower() == "bearer" and is_token(self._options, given.strip())) or (
            cookie is not None and is_token(self._options, cookie.value)
        )


def is_token(options: Options, given: str) -> bool:
    """Returns whether it is the server's token, in a time that does not tell how near it is."""
    return hmac.compare_digest(given.encode("utf-8", "replace"), options.token.encode())


def _address(origin: str) -> str | None:
    """http://[::1]:8000 -> [::1]:8000"""
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _name(host: str) -> str:
    """[::1]:8000 -> ::1"""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
