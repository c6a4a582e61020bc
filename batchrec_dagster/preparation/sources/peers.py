"""Connections that a redirect cannot lead into the own network, whatever its name resolves to.

The redirect's host is looked up before it is followed, and again to connect; who answers the second
look-up may give another address.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.util import parse_url


class NotPublicError(Exception):
    """A redirect led to this address, which is not public."""


def is_public(address: str) -> bool:
    """Whether the IP address is one of the Internet's."""
    found = ipaddress.ip_address(address.partition("%")[0])
    public = getattr(found, "ipv4_mapped", None) or found
    return public.is_global and not public.is_multicast


class PublicRedirects(HTTPAdapter):
    """Connects to the host of `url`, its owner's choice; to others only where they are public.

    The address is checked once the connection is there, and before anything is sent. Proxies
    choose the address themselves.
    """

    def __init__(self, url: str) -> None:
        super().__init__()
        self._host = parse_url(url).netloc

    def get_connection_with_tls_context(
        self,
        request: requests.PreparedRequest,
        verify: bool | str,
        proxies: dict[str, str] | None = None,
        cert: Any = None,
    ) -> Any:
        pool = super().get_connection_with_tls_context(request, verify, proxies, cert)
        url = str(request.url)
        if parse_url(url).netloc != self._host and not select_proxy(url, proxies):
            pool.ConnectionCls = _checked(pool.ConnectionCls)
        return pool


def _checked(connection: type[Any]) -> type[Any]:
    class Checked(connection):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            address = self.sock.getpeername()[0]
            if not is_public(address):
                self.close()
                raise NotPublicError(address)

    return Checked
