"""What protects both HTTP servers: a guard of Host and Origin, and limits that stop floods.

The servers have no login: reaching them is the permission. A browser lets any page send requests to
127.0.0.1, and after DNS rebinding under the page's own name, so the address they listen on is not
enough. A program is not held back by this: it can send the headers it likes.

uvicorn waits for a request's headers without end, and its limit_concurrency answers the newcomer
with 503, so that a thousand connections that send nothing leave no room for anybody.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import uvicorn
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from batchrec_dagster.web import AUTHORITY, HOSTS_VARIABLE, is_loopback

DEFAULT_PORTS = {"http": "80", "https": "443"}
LONGEST_QUOTE = 80  # characters of a header that an answer repeats


class Guard:
    """ASGI middleware that refuses what another site's page, or another name of this host, sends.

    - Host is a loopback name or address, or one of `hosts`, with any port.
    - Origin, if there is one, is this server.
    - Sec-Fetch-Site is not another site's, except to open a page: a link that somebody follows.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or (reason := self.refusal(scope)) is None:
            await self.app(scope, receive, send)
        else:
            await refuse(scope, receive, send, reason)

    def refusal(self, scope: Scope) -> str | None:
        """Why the request is refused, or None."""
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        host = hosts[0].lower() if len(hosts) == 1 else ""
        authority = AUTHORITY.fullmatch(host)
        if not authority:
            return "A request needs one valid Host header."
        if authority[1] not in self.hosts and not is_loopback(authority[1]):
            return (
                f"The host {host[:LONGEST_QUOTE]!r} is not allowed here. If this server is meant to"
                f" have that name, start it with {HOSTS_VARIABLE}={authority[1][:LONGEST_QUOTE]}"
            )
        for origin in headers.getlist("origin"):
            if not _same_authority(origin.lower(), authority):
                return (
                    f"A page of {origin[:LONGEST_QUOTE]!r} may not send requests here. Behind a"
                    " proxy, pass the browser's Host header on."
                )
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") and not _opens_a_page(scope, headers):
            return "A page of another site may not send requests here."
        return None


def _same_authority(origin: str, host: re.Match[str]) -> bool:
    """Whether the Origin is the host, where a scheme's own port may be left out of either."""
    scheme, separator, rest = origin.partition("://")
    found = AUTHORITY.fullmatch(rest)
    if not separator or scheme not in DEFAULT_PORTS or not found:
        return False
    port = DEFAULT_PORTS[scheme]
    return found[1] == host[1] and (found[2] or port) == (host[2] or port)


def _opens_a_page(scope: Scope, headers: Headers) -> bool:
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


async def refuse(
    scope: Scope, receive: Receive, send: Send, reason: str, status: int = 403
) -> None:
    """Answer with the reason; a websocket is closed before it opens, which clients see as 403."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
    else:
        headers = {"connection": "close", "x-content-type-options": "nosniff"}
        await PlainTextResponse(f"{reason}\n", status, headers)(scope, receive, send)


HEADER_SECONDS = 10.0  # how long a client may take to send a request's headers
MAX_CONNECTIONS = 256  # well below the 1,024 descriptors that a process usually has
STOP_SECONDS = 10  # how long a stopping server waits for open requests
MAX_BODY_BYTES = 1 << 20  # far more than any request to Dagster or Personalize needs
BODY_SECONDS = 30.0  # how long a client may take to send one


class BodyTooLargeError(Exception):
    """A request has more than MAX_BODY_BYTES."""


async def read_body(receive: Receive, seconds: float = BODY_SECONDS) -> bytes:
    """The request's whole body; never holds more than the limit and one message in memory.

    Raises BodyTooLargeError, TimeoutError, and ClientDisconnect.
    """
    body, more = bytearray(), True
    async with asyncio.timeout(seconds):
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
    """Runs until SIGINT or SIGTERM, with LimitedProtocol."""

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
            timeout_graceful_shutdown=STOP_SECONDS,
            **options,
        )
        super().__init__(config)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        # Ctrl-C is raised again after the server has stopped: it is how one ends it.
        with suppress(KeyboardInterrupt):
            super().run(sockets)
