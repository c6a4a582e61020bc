"""Middleware that refuses requests from pages of other sites.

The servers have no login: anybody who reaches them may use them. Listening on 127.0.0.1 is not
enough, because a browser lets any page send requests there. After DNS rebinding, a page can even
send them under its own name. So the guard checks the Host, Origin and Sec-Fetch-Site headers, which
a page cannot set. Other programs can send any headers, and the guard does not protect from them.
"""

from __future__ import annotations

import re
from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from batchrec_dagster.web.hosts import AUTHORITY, HOSTS_VARIABLE, is_loopback

DEFAULT_PORTS = {"http": "80", "https": "443"}
LONGEST_QUOTE = 80  # characters of a header that an answer repeats


class Guard:
    """ASGI middleware that passes on a request or websocket under three conditions.

    - Host is a loopback name or address, or one of `hosts`, with any port.
    - Origin, if there is one, is this server.
    - Sec-Fetch-Site, if there is one, is `same-origin` or `none`, unless the browser opens a page
      of this server in a tab or window.
    """

    def __init__(self, app: ASGIApp, hosts: Collection[str] = ()) -> None:
        self.app = app
        self.hosts = frozenset(host.lower() for host in hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        reason = None if scope["type"] == "lifespan" else self.find_refusal_reason(scope)
        if reason is None:
            await self.app(scope, receive, send)
        else:
            await refuse(scope, receive, send, reason)

    def find_refusal_reason(self, scope: Scope) -> str | None:
        """Return the reason to refuse the request; None if the request may pass."""
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
            if not _is_same_authority(origin.lower(), authority):
                return (
                    f"A page of {origin[:LONGEST_QUOTE]!r} may not send requests here. Behind a"
                    " proxy, pass the browser's Host header on."
                )
        site = headers.get("sec-fetch-site", "none")
        if site not in ("same-origin", "none") and not _is_page_visit(scope, headers):
            return "A page of another site may not send requests here."
        return None


def _is_same_authority(origin: str, host: re.Match[str]) -> bool:
    """Return whether the Origin has the name and the port of the Host.

    Each header may leave out the default port of the scheme.
    """
    scheme, _, authority_text = origin.partition("://")
    authority = AUTHORITY.fullmatch(authority_text)
    if scheme not in DEFAULT_PORTS or not authority:
        return False
    default_port = DEFAULT_PORTS[scheme]
    is_same_port = (authority[2] or default_port) == (host[2] or default_port)
    return authority[1] == host[1] and is_same_port


def _is_page_visit(scope: Scope, headers: Headers) -> bool:
    """Return whether the browser opens a page in a tab or window.

    Loading a page into another page, such as into a frame, is no visit.
    """
    return (
        scope["type"] == "http"
        and scope["method"] == "GET"
        and headers.get("sec-fetch-mode") == "navigate"
        and headers.get("sec-fetch-dest") == "document"
    )


async def refuse(
    scope: Scope, receive: Receive, send: Send, reason: str, status: int = 403
) -> None:
    """Refuse the request, and answer with the reason.

    A websocket is closed before it opens, which clients see as status 403.
    """
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": reason[:100]})
    else:
        headers = {"connection": "close", "x-content-type-options": "nosniff"}
        await PlainTextResponse(f"{reason}\n", status, headers)(scope, receive, send)
