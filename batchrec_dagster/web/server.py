"""A uvicorn that idle and half-open connections cannot shut others out of, nor large ones fill.

uvicorn waits for a request's headers without end, and its limit_concurrency answers the newcomer
with 503, so that a thousand connections that send nothing leave no room for anybody.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

import h11
import uvicorn
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Receive
from uvicorn.protocols.http.h11_impl import H11Protocol

HEADER_SECONDS = 10.0  # how long a client may take to send a request's headers
MAX_CONNECTIONS = 256  # well below the 1,024 descriptors that a process usually has
STOP_SECONDS = 10  # how long a stopping server waits for open requests
MAX_BODY_BYTES = 1 << 20  # far more than any request to Dagster or Personalize needs
BODY_SECONDS = 30.0  # how long a client may take to send one
# No other page may show what a server answers in a frame, and lead somebody to click there.
FRAME_HEADERS = (
    ("content-security-policy", "frame-ancestors 'none'"),
    ("x-frame-options", "DENY"),
)


class BodyTooLargeError(Exception):
    """A request has more than MAX_BODY_BYTES."""


async def read_body(receive: Receive) -> bytes:
    """The request's whole body; never holds more than the limit and one message in memory.

    Raises BodyTooLargeError, TimeoutError, and ClientDisconnect.
    """
    body, more = bytearray(), True
    async with asyncio.timeout(BODY_SECONDS):
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MAX_BODY_BYTES:
                raise BodyTooLargeError(f"A request may have at most {MAX_BODY_BYTES} bytes.")
    return bytes(body)


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 whose connections wait for headers for `header_seconds` at most.

    Of `max_connections`, a new one closes the one that has waited longest. If all are busy with
    requests, the new one is closed. h11 refuses headers once 64 KB have come and they do not end
    there: they have at most that and what one read of the socket brings, some 256 KB.
    """

    header_seconds = HEADER_SECONDS
    max_connections = MAX_CONNECTIONS
    _waiting_since = 0.0
    _deadline: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> bool:
        """Whether this connection has no request under way."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()
        if len(self.connections) > self.max_connections:
            idle = [
                other
                for other in self.connections
                if isinstance(other, LimitedProtocol) and other is not self and other.waiting
            ]
            closed = min(idle, key=lambda other: other._waiting_since, default=self)
            # Not later, when the loop gets round to it: many may come at once.
            self.connections.discard(closed)
            closed.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.waiting:
            self._stop_waiting()
        elif self._deadline is None:
            self._expect_headers()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, with the headers of all answers, which uvicorn leaves out."""
        headers = [
            (b"content-type", b"text/plain; charset=utf-8"),
            (b"connection", b"close"),
            *self.server_state.default_headers,
        ]
        response = h11.Response(status_code=400, headers=headers, reason=b"Bad Request")
        for event in (response, h11.Data(data=msg.encode("ascii")), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def _expect_headers(self) -> None:
        self._waiting_since = self.loop.time()
        self._deadline = self.loop.call_later(self.header_seconds, self._close_if_waiting)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _close_if_waiting(self) -> None:
        self._deadline = None
        # An upgraded connection belongs to the websocket's protocol.
        if self.waiting and self.transport.get_protocol() is self:
            self.transport.close()


class LimitedServer(uvicorn.Server):
    """Runs until SIGINT or SIGTERM, with LimitedProtocol; every answer has FRAME_HEADERS."""

    def __init__(
        self,
        app: ASGIApp,
        host: str,
        port: int,
        protocol: type[LimitedProtocol] = LimitedProtocol,
        **options: Any,
    ) -> None:
        config = uvicorn.Config(
            app,
            host=host,
            port=port,
            http=protocol,
            ws_max_size=MAX_BODY_BYTES,
            backlog=MAX_CONNECTIONS,
            server_header=False,
            headers=[*FRAME_HEADERS],
            timeout_graceful_shutdown=STOP_SECONDS,
            **options,
        )
        super().__init__(config)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn itself sets them when it is listening already.
        self.server_state.default_headers = [*self.config.encoded_headers]
        await super().startup(sockets)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        # Ctrl-C is raised again after the server has stopped: it is how one ends it.
        with suppress(KeyboardInterrupt):
            super().run(sockets)
