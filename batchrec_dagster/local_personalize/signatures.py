"""AWS Signature Version 4: was a request signed with the key that this service knows?

Source: AWS General Reference, "Signature Version 4 signing process"; the service model's signing
name is `personalize`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from batchrec_dagster.local_personalize.service_model import SERVICE

_ALGORITHM = "AWS4-HMAC-SHA256"
_TIME = "%Y%m%dT%H%M%SZ"
_SKEW = timedelta(minutes=15)
_HEADER = re.compile(
    rf"{_ALGORITHM} Credential=(?P<id>[^/,\s]+)/(?P<day>\d{{8}})/(?P<region>[^/,\s]+)"
    rf"/{SERVICE}/aws4_request, ?SignedHeaders=(?P<signed>[a-z0-9;_-]+),"
    r" ?Signature=(?P<signature>[0-9a-f]{64})"
)
# What makes a signature worth something: the operation and the moment must be part of it.
_MUST_BE_SIGNED = {"host", "x-amz-date", "x-amz-target"}


class SignatureError(Exception):
    """The request is not signed with the key; `code` is the exception's name on the wire."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class AccessKey:
    """The one key that may use the service."""

    key_id: str
    secret: str = field(repr=False)


def check_signature(
    key: AccessKey, headers: Mapping[str, str], body: bytes, now: datetime | None = None
) -> None:
    """Checks a `POST /` with these headers (lower-case names). Raises SignatureError."""
    header = headers.get("authorization")
    if not header:
        raise SignatureError("MissingAuthenticationTokenException", "The request is not signed.")
    parts = _HEADER.fullmatch(header)
    if parts is None:
        raise SignatureError(
            "IncompleteSignatureException",
            f"The Authorization header must be one of {_ALGORITHM} for the service {SERVICE}.",
        )
    if not hmac.compare_digest(parts["id"].encode(), key.key_id.encode()):
        raise SignatureError(
            "UnrecognizedClientException", "The security token included in the request is invalid."
        )
    moment = _check_moment(headers, parts["day"], now or datetime.now(UTC))
    signed = parts["signed"].split(";")
    if not set(signed) >= _MUST_BE_SIGNED or any(name not in headers for name in signed):
        raise SignatureError(
            "InvalidSignatureException", f"Sign at least {', '.join(sorted(_MUST_BE_SIGNED))}."
        )
    canonical = "\n".join(
        [
            *("POST", "/", ""),
            *(f"{name}:{' '.join(headers[name].split())}" for name in signed),
            "",
            parts["signed"],
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{parts['day']}/{parts['region']}/{SERVICE}/aws4_request"
    text = "\n".join([_ALGORITHM, moment, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    expected = _hmac(_signing_key(key.secret, scope), text).hex()
    if not hmac.compare_digest(expected, parts["signature"]):
        raise SignatureError(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        )


def _check_moment(headers: Mapping[str, str], day: str, now: datetime) -> str:
    moment = headers.get("x-amz-date", "")
    try:
        signed_at = datetime.strptime(moment, _TIME).replace(tzinfo=UTC)
    except ValueError:
        raise SignatureError(
            "IncompleteSignatureException", "The header X-Amz-Date must be like 20240131T120000Z."
        ) from None
    if abs(now - signed_at) > _SKEW or not moment.startswith(day):
        raise SignatureError(
            "InvalidSignatureException", f"Signature expired or not yet current: {moment}."
        )
    return moment


def _signing_key(secret: str, scope: str) -> bytes:
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = _hmac(key, part)
    return key


def _hmac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
