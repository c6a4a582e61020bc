"""Connections that refuse to follow a redirect into this machine's own network.

The name of a redirect's host is resolved twice: to check it, and again to connect. An attacker who
answers the second query can give another address. So the address of the open connection is checked.
"""

from __future__ import annotations

import ipaddress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from requests.utils import select_proxy
from urllib3.util import parse_url

# Networks that Python wrongly calls global. They are not on the Internet, or their addresses may
# stand for any IPv4 address.
PRIVATE_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's wire server
            "192.0.0.0/24",  # IETF protocols, and Oracle's metadata (192.0.0.192)
            "192.88.99.0/24",  # 6to4 relays
            "::/96",  # IPv4-compatible IPv6, deprecated
            "::ffff:0:0:0/96",  # IPv4-translated IPv6 (SIIT)
            "64:ff9b::/96",  # NAT64, well-known prefix
            "64:ff9b:1::/48",  # NAT64, local use
            "2001::/32",  # Teredo
            "2002::/16",  # 6to4
            "5f00::/16",  # segment routing (SRv6)
            "fec0::/10",  # site-local addresses, deprecated
        ),
    )
)


class NotPublicError(Exception):
    """An error of a redirect to an address that is not public.

    The message is the address.
    """


def is_public(address: str) -> bool:
    """Return whether the IP address is on the public Internet.

    An IPv6 address that a gateway turns into an IPv4 address does not count as public, because the
    IPv4 address may be in this network.
    """
    ip_address = ipaddress.ip_address(address.partition("%")[0])
    target = getattr(ip_address, "ipv4_mapped", None) or ip_address
    if any(target in network for network in PRIVATE_NETWORKS):
        return False
    return target.is_global and not target.is_multicast


class PublicRedirects(HTTPAdapter):
    """An HTTP adapter that connects to the host of `url`, and otherwise only to public addresses.

    The user chose the host of `url`, so its address may be private. Other addresses are checked
    when the connection is open, before anything is sent. With a proxy nothing is checked, because
    the proxy chooses the address.
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
            pool.ConnectionCls = _add_address_check(pool.ConnectionCls)
        return pool


def _add_address_check(connection: type[Any]) -> type[Any]:
    """Return a subclass of the connection that raises NotPublicError for a private address."""

    class PublicConnection(connection):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            address = self.sock.getpeername()[0]
            if not is_public(address):
                self.close()
                raise NotPublicError(address)

    return PublicConnection
