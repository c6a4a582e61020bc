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

# Networks that Python calls global, although they are not on the Internet, or although their
# addresses stand for any IPv4 address.
PRIVATE_NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's wire server
            "192.0.0.0/24",  # Oracle's metadata (192.0.0.192), and protocols
            "192.88.99.0/24",  # relays of 6to4
            "::/96",  # IPv4 in its oldest form
            "::ffff:0:0:0/96",  # IPv4 translated without a prefix
            "64:ff9b::/96",  # IPv4 behind NAT64
            "64:ff9b:1::/48",  # NAT64 of a network of one's own
            "2001::/32",  # Teredo
            "2002::/16",  # 6to4
            "5f00::/16",  # segments of one's own network
            "fec0::/10",  # addresses of one site
        ),
    )
)


class NotPublicError(Exception):
    """A redirect led to this address, which is not public."""


def is_public(address: str) -> bool:
    """Whether the IP address is on the public Internet.

    An IPv6 address that a gateway turns into an IPv4 address does not count as public, because the
    IPv4 address may be in this network.
    """
    ip_address = ipaddress.ip_address(address.partition("%")[0])
    target = getattr(ip_address, "ipv4_mapped", None) or ip_address
    if any(target in network for network in PRIVATE_NETWORKS):
        return False
    return target.is_global and not target.is_multicast


class PublicRedirects(HTTPAdapter):
    """Connects to the host of `url`, which the user chose, and else only to public addresses.

    An address is checked when the connection is open, before anything is sent. With a proxy nothing
    is checked, because the proxy chooses the address.
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
    """A subclass of the connection class that raises NotPublicError for a private address."""

    class PublicConnection(connection):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            address = self.sock.getpeername()[0]
            if not is_public(address):
                self.close()
                raise NotPublicError(address)

    return PublicConnection
