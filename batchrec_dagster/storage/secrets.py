"""Keeps secrets out of text that leaves this deployment, and passwords off the network."""

from __future__ import annotations

import re
from collections.abc import Mapping

HIDDEN = "***"

# The value of an environment variable with such a name is a secret.
_NAMES = re.compile(r"SECRET|TOKEN|PASSW|KEY|WEBHOOK|CREDENTIAL|DATABASE_URL|DSN", re.IGNORECASE)
# Shorter values would hide ordinary words.
_LEAST = 6
_PATTERNS = (
    # The user and password in a URL.
    (re.compile(r"(\w+://)[^\s/@]+@"), rf"\1{HIDDEN}@"),
    # AWS's access keys, and the signatures of presigned URLs.
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (re.compile(r"(X-Amz-(?:Signature|Credential|Security-Token)=)[^&\s]+"), rf"\1{HIDDEN}"),
    (re.compile(r"(?i)((?:password|secret|token)\"?\s*[=:]\s*)[^\s,;&]+"), rf"\1{HIDDEN}"),
    (re.compile(r"https://hooks\.slack\.com/\S+"), HIDDEN),
)


def redact(text: str, environment: Mapping[str, str]) -> str:
    """The text without secret variables' values and anything that looks like a secret."""
    values = [
        value for name, value in environment.items() if _NAMES.search(name) and len(value) >= _LEAST
    ]
    # Longest first, as one may contain another.
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def choose_safe_defaults(parts: Mapping[str, str]) -> dict[str, str]:
    """What the parts of a URL do not say: TLS off this machine, and no log-in that sends the
    password as it is. Keys are libpq's."""
    hosts = (parts.get("hostaddr") or parts.get("host") or "").split(",")
    here = all(host in ("", "localhost", "127.0.0.1", "::1") or host[0] in "/@" for host in hosts)
    safe = {"require_auth": "!password"}
    if not here:
        safe["sslmode"] = "require"
    return {name: value for name, value in safe.items() if name not in parts}
