"""The check that a request is signed with this service's key (AWS Signature Version 4).

botocore computes signatures (`botocore.auth.SigV4Auth`) but does not verify them.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials

from .validation import SERVICE

_MAX_CLOCK_DIFFERENCE = timedelta(minutes=15)
_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/,\s]+)/(?P<day>\d{8})/(?P<region>[^/,\s]+)"
    rf"/{SERVICE}/aws4_request, ?SignedHeaders=(?P<signed>[a-z0-9;_-]+),"
    r" ?Signature=(?P<signature>[0-9a-f]{64})"
)
# If a signature did not cover the operation and the time, it could be reused for another request.
_MUST_BE_SIGNED = {"host", "x-amz-date", "x-amz-target"}
_BODY_HASH = "x-amz-content-sha256"


class SignatureError(Exception):
    """A request is not signed with the key."""

    code: str
    """The exception's name on the wire."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class AccessKey:
    """The only access key with which clients may use the service."""

    key_id: str
    secret: str = field(repr=False)


def check_signature(
    key: AccessKey, headers: Mapping[str, str], body: bytes, now: datetime | None = None
) -> None:
    """Raise SignatureError unless a `POST /` is signed with the key.

    headers: the request's headers, with names in lower case.
    now: the time to check against; None for the current time.
    """
    header = headers.get("authorization")
    if not header:
        raise SignatureError("MissingAuthenticationTokenException", "The request is not signed.")
    parts = _HEADER.fullmatch(header)
    if parts is None:
        raise SignatureError(
            "IncompleteSignatureException",
            f"The Authorization header must be one of AWS4-HMAC-SHA256 for the service {SERVICE}.",
        )
    if not hmac.compare_digest(parts["id"].encode(), key.key_id.encode()):
        raise SignatureError(
            "UnrecognizedClientException", "The security token included in the request is invalid."
        )
    _check_time(headers.get("x-amz-date", ""), parts["day"], now or datetime.now(UTC))
    signed_names = parts["signed"].split(";")
    if not _MUST_BE_SIGNED.issubset(signed_names) or any(n not in headers for n in signed_names):
        raise SignatureError(
            "InvalidSignatureException", f"Sign at least {', '.join(sorted(_MUST_BE_SIGNED))}."
        )
    signed = {name: headers[name] for name in signed_names}
    expected = _compute_signature(key, parts["region"], signed, body)
    # botocore signs the hash in this header, even if the body does not match it.
    body_hash = hashlib.sha256(body).hexdigest()
    is_own_body = headers.get(_BODY_HASH, body_hash) == body_hash
    if not is_own_body or not hmac.compare_digest(expected, parts["signature"]):
        raise SignatureError(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        )


class _Signer(SigV4Auth):
    """A signer of all headers, because other SDKs sign some headers that botocore leaves out."""

    def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
        return request.headers


def _compute_signature(key: AccessKey, region: str, signed: Mapping[str, str], body: bytes) -> str:
    """Return the signature that a request must have.

    signed: the signed headers.
    """
    request = AWSRequest("POST", "http://any-host/", headers=signed, data=body)
    request.context["timestamp"] = signed["x-amz-date"]
    signer = _Signer(Credentials(key.key_id, key.secret), SERVICE, region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    signature: str = signer.signature(text, request)
    return signature


def _check_time(time: str, day: str, now: datetime) -> None:
    """Raise SignatureError if the request's time is too far from `now`, or is not on `day`.

    time: the header X-Amz-Date.
    day: the day in the signature's scope, such as 20240131.
    """
    try:
        signed_at = datetime.strptime(time, SIGV4_TIMESTAMP).replace(tzinfo=UTC)
    except ValueError:
        raise SignatureError(
            "IncompleteSignatureException", "The header X-Amz-Date must be like 20240131T120000Z."
        ) from None
    if abs(now - signed_at) > _MAX_CLOCK_DIFFERENCE or not time.startswith(day):
        # These are AWS's own words.
        raise SignatureError(
            "InvalidSignatureException", f"Signature expired or not yet current: {time}."
        )
