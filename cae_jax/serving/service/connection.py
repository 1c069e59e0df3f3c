"""An HTTP connection with an end to waiting: uvicorn itself waits for ever for slow clients."""

from __future__ import annotations

import asyncio
import json

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

_LINGER = 2.0  # seconds in which the rest of a body that was refused may still come
_GRACE = 0.5  # seconds in which a request that is on its way when the server stops is still taken


def protocol(timeout: float) -> type[asyncio.Protocol]:
    """Returns the protocol of connections with a timeout in seconds."""
    return type("Connection", (Patient,), {"timeout": timeout})


class Patient(H11Protocol):
    """One connection. A request's head must come within `timeout` seconds, and an answer be taken;
    what is left of a body that was refused is heard for a moment, so that the client reads the
    answer, and no longer. What is no HTTP is refused in JSON. Of a server that stops, connections
    are closed once nothing came on them for a moment: a request may be on its way."""

    timeout = 30.0
    _head: asyncio.TimerHandle | None = None
    _write: asyncio.TimerHandle | None = None
    _rest: asyncio.TimerHandle | None = None
    _stopping = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for a request."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Takes what came."""
        super().data_received(data)
        self._await_head()
        if self._stopping:
            self._make_last()

    def shutdown(self) -> None:
        """Closes the connection after the request under way, or the one that may be on its way."""
        self._stopping = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(_GRACE, self._close_idle)
        else:
            self._make_last()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all waiting."""
        for timer in (self._head, self._write, self._rest):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Hears the rest of a body that nobody reads, for a moment."""
        super().on_response_complete()
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self._rest = self.loop.call_later(_LINGER, self._close_unread)

    def pause_writing(self) -> None:
        """Begins to wait for a client that does not read."""
        super().pause_writing()
        self._write = self.loop.call_later(self.timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads."""
        super().resume_writing()
        if self._write is not None:
            self._write.cancel()

    def send_400_response(self, msg: str) -> None:
        """Refuses what is no HTTP, in JSON."""
        body = json.dumps({"error": msg}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"connection", b"close"),
        ]
        try:
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer was under way
            pass
        self.transport.close()

    def _await_head(self) -> None:
        waits = self.conn.their_state is h11.IDLE
        if waits and self._head is None:
            self._head = self.loop.call_later(self.timeout, self.transport.close)
        elif not waits and self._head is not None:
            self._head.cancel()
            self._head = None

    def _make_last(self) -> None:
        """Closes the connection after the answer under way, which says so if it has not begun."""
        if self.cycle is None or self.cycle.response_complete or not self.cycle.keep_alive:
            return
        self.cycle.keep_alive = False
        if not self.cycle.response_started:
            self.cycle.default_headers = [*self.cycle.default_headers, (b"connection", b"close")]

    def _close_idle(self) -> None:
        if not self.transport.is_closing():
            super().shutdown()

    def _close_unread(self) -> None:
        unread = self.conn.their_state is h11.SEND_BODY
        if unread and self.cycle is not None and self.cycle.response_complete:
            self.transport.close()
