"""A uvicorn server whose connections and request bodies have limits.

uvicorn itself waits forever for a request's headers, and its limit_concurrency answers new
connections with 503. So a thousand connections that send nothing would shut everybody else out.
Here the connection that has waited longest is closed instead.
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
BODY_SECONDS = 30.0  # how long a client may take to send a body
# Keep other pages from showing this server in a frame, where they could mislead people to click.
FRAME_HEADERS = (
    ("content-security-policy", "frame-ancestors 'none'"),
    ("x-frame-options", "DENY"),
)


class BodyTooLargeError(Exception):
    """A request has more than MAX_BODY_BYTES."""


async def read_body(receive: Receive) -> bytes:
    """The request's whole body. At most the limit and one message are in memory.

    Raises BodyTooLargeError, TimeoutError, and ClientDisconnect.
    """
    body = bytearray()
    is_complete = False
    async with asyncio.timeout(BODY_SECONDS):
        while not is_complete:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            body += message.get("body", b"")
            is_complete = not message.get("more_body", False)
            if len(body) > MAX_BODY_BYTES:
                raise BodyTooLargeError(f"A request may have at most {MAX_BODY_BYTES} bytes.")
    return bytes(body)


class LimitedProtocol(H11Protocol):
    """HTTP/1.1 with limits on how long and how many connections wait.

    A connection waits for headers for at most `header_seconds`. When there are more than
    `max_connections`, the one that has waited longest is closed, or the new one if all others are
    busy with requests. h11 limits the size of headers: it refuses them once more than 64 KB have
    arrived without an end. Since it checks after each read of the socket, that is some 256 KB.
    """

    header_seconds = HEADER_SECONDS
    max_connections = MAX_CONNECTIONS
    _waiting_since = 0.0
    _deadline: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether this connection has no request under way."""
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_headers()
        if len(self.connections) > self.max_connections:
            waiting = [
                connection
                for connection in self.connections
                if isinstance(connection, LimitedProtocol) and connection.is_waiting
            ]
            older = [connection for connection in waiting if connection is not self]
            to_close = min(older, key=lambda connection: connection._waiting_since, default=self)
            # uvicorn would remove it only when the event loop gets to it. Many connections may
            # arrive before that.
            self.connections.discard(to_close)
            to_close.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.is_waiting:
            self._stop_waiting()
        elif self._deadline is None:
            self._expect_headers()

    def send_400_response(self, msg: str) -> None:
        """Refuse input that is not HTTP.

        uvicorn's own answer lacks the headers that all other answers have.
        """
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
        if self.is_waiting and self.transport.get_protocol() is self:
            self.transport.close()


class LimitedServer(uvicorn.Server):
    """A server that runs until SIGINT or SIGTERM.

    It uses LimitedProtocol, and all of its answers have FRAME_HEADERS.
    """

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
        # uvicorn itself sets them after it has started to listen, too late for the first answer.
        self.server_state.default_headers = [*self.config.encoded_headers]
        await super().startup(sockets)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn raises Ctrl-C again after it has stopped, although that is how people end it.
        with suppress(KeyboardInterrupt):
            super().run(sockets)
