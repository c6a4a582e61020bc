"""Middleware that refuses what another site's page, or another name for this address, sends.

The servers have no login: reaching them is the permission. A browser lets any page send requests to
127.0.0.1, and after DNS rebinding under the page's own name, so the address they listen on is not
enough. A program is not held back by this: it can send the headers it likes.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from batchrec_dagster.web import AUTHORITY, HOSTS_VARIABLE, is_loopback

DEFAULT_PORTS = {"http": "80", "https": "443"}
LONGEST_QUOTE = 80  # characters of a header that an answer repeats


class Guard:
    """ASGI middleware for HTTP and websockets.

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
