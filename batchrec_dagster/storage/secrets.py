"""Functions that keep secrets out of published text, and passwords off the network."""

from __future__ import annotations

import re
from collections.abc import Mapping

HIDDEN = "***"

# The value of an environment variable with such a name is a secret.
_NAMES = re.compile(r"SECRET|TOKEN|PASSW|KEY|WEBHOOK|CREDENTIAL|DATABASE_URL|DSN", re.IGNORECASE)
# Shorter values stay in the text, because hiding them would also hide ordinary words.
_MIN_LENGTH = 6
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
    """Return the text without values of secret variables and without text that looks secret."""
    values = [
        value
        for name, value in environment.items()
        if _NAMES.search(name) and len(value) >= _MIN_LENGTH
    ]
    # The longest value comes first, because a value may contain another one.
    for value in sorted(values, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def choose_safe_defaults(parts: Mapping[str, str]) -> dict[str, str]:
    """Return safe values for parameters that a database's URL does not set.

    A server on another machine needs TLS. No log-in may send the password in clear text.

    parts: the parts of the URL, by libpq's names.
    """
    hosts = (parts.get("hostaddr") or parts.get("host") or "").split(",")
    on_this_machine = all(
        host in ("", "localhost", "127.0.0.1", "::1") or host[0] in "/@" for host in hosts
    )
    safe = {"require_auth": "!password"}
    if not on_this_machine:
        safe["sslmode"] = "require"
    return {name: value for name, value in safe.items() if name not in parts}
