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

# What Python calls global, and is not on the Internet, or leads to an IPv4 address of any kind.
NOT_PUBLIC = tuple(
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
    """Whether the IP address is one of the Internet's.

    An IPv6 address that a gateway turns into an IPv4 address is not: it would reach this network.
    """
    parsed = ipaddress.ip_address(address.partition("%")[0])
    reached = getattr(parsed, "ipv4_mapped", None) or parsed
    if any(reached in network for network in NOT_PUBLIC):
        return False
    return reached.is_global and not reached.is_multicast


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
            pool.ConnectionCls = _with_address_check(pool.ConnectionCls)
        return pool


def _with_address_check(connection: type[Any]) -> type[Any]:
    class Checked(connection):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            address = self.sock.getpeername()[0]
            if not is_public(address):
                self.close()
                raise NotPublicError(address)

    return Checked
