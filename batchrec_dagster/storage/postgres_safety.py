"""What a connection to a PostgreSQL needs beyond its URL to be safe."""

from __future__ import annotations

from collections.abc import Mapping


def safe_defaults(parts: Mapping[str, str]) -> dict[str, str]:
    """What the parts of a URL do not say: TLS off this machine, and no log-in that sends the
    password as it is. Keys are libpq's."""
    hosts = (parts.get("hostaddr") or parts.get("host") or "").split(",")
    here = all(host in ("", "localhost", "127.0.0.1", "::1") or host[0] in "/@" for host in hosts)
    safe = {"require_auth": "!password"}
    if not here:
        safe["sslmode"] = "require"
    return {name: value for name, value in safe.items() if name not in parts}
