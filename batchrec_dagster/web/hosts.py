"""The host names of the HTTP servers."""

from __future__ import annotations

import ipaddress
import re

import click

HOSTS_VARIABLE = "BATCHREC_ALLOWED_HOSTS"
AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::(\d{1,5}))?")  # host and port


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach the host, which is a name or an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def parse_hosts(context: click.Context, parameter: click.Parameter, text: str) -> frozenset[str]:
    """Return the host names in a comma-separated text. The function is a click callback."""
    hosts = frozenset(host.strip().lower() for host in text.split(",") if host.strip())
    for host in hosts:
        authority = AUTHORITY.fullmatch(host)
        if not authority or authority[2]:
            raise click.BadParameter(
                f"{host!r} is not a host name. Give names without scheme and port, with commas"
                " between them, such as dagster.example.com,10.0.0.5"
            )
    return hosts


allowed_hosts = click.option(
    "--allowed-hosts",
    envvar=HOSTS_VARIABLE,
    show_envvar=True,
    default="",
    metavar="NAMES",
    callback=parse_hosts,
    help="Host names by which clients reach this server besides localhost: a.example,b.example",
)
