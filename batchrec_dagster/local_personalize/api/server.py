"""The local Personalize over HTTP: for any AWS SDK, or the `aws` command.

Point a client at it with AWS_ENDPOINT_URL_PERSONALIZE. It answers as the embedded client does.
With a key, requests must be signed by AWS Signature Version 4: botocore computes signatures
(`botocore.auth.SigV4Auth`) but does not verify them.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import uuid
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from batchrec_dagster.local_personalize.api.service import CONTENT_TYPE, LocalPersonalize, answer
from batchrec_dagster.local_personalize.api.validation import SERVICE
from batchrec_dagster.local_personalize.errors import CatalogError
from batchrec_dagster.local_personalize.jobs.job import logger
from batchrec_dagster.web import is_loopback
from batchrec_dagster.web.server import (
    BODY_SECONDS,
    BodyTooLargeError,
    Guard,
    LimitedServer,
    read_body,
)

_SKEW = timedelta(minutes=15)
_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<id>[^/,\s]+)/(?P<day>\d{8})/(?P<region>[^/,\s]+)"
    rf"/{SERVICE}/aws4_request, ?SignedHeaders=(?P<signed>[a-z0-9;_-]+),"
    r" ?Signature=(?P<signature>[0-9a-f]{64})"
)
# Without the operation and the time in it, a signature could be replayed for another request.
_MUST_BE_SIGNED = {"host", "x-amz-date", "x-amz-target"}
_BODY_HASH = "x-amz-content-sha256"


class SignatureError(Exception):
    """The request is not signed with the key; `code` is the exception's name on the wire."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class AccessKey:
    """The only key that may use the service."""

    key_id: str
    secret: str = field(repr=False)


def check_signature(
    key: AccessKey, headers: Mapping[str, str], body: bytes, now: datetime | None = None
) -> None:
    """Check the signature of a `POST /` with these headers (lower-case names).

    Raises SignatureError.
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
    signed = parts["signed"].split(";")
    if not set(signed) >= _MUST_BE_SIGNED or any(name not in headers for name in signed):
        raise SignatureError(
            "InvalidSignatureException", f"Sign at least {', '.join(sorted(_MUST_BE_SIGNED))}."
        )
    # botocore signs the hash in this header, even if the body does not match it.
    body_hash = hashlib.sha256(body).hexdigest()
    expected = _signature(key, parts["region"], {name: headers[name] for name in signed}, body)
    if headers.get(_BODY_HASH, body_hash) != body_hash or not hmac.compare_digest(
        expected, parts["signature"]
    ):
        raise SignatureError(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        )


class _Signer(SigV4Auth):
    """Signs every header: other SDKs sign some that botocore leaves out."""

    def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
        return request.headers


def _signature(key: AccessKey, region: str, signed: Mapping[str, str], body: bytes) -> str:
    request = AWSRequest("POST", "http://any-host/", headers=signed, data=body)
    request.context["timestamp"] = signed["x-amz-date"]
    signer = _Signer(Credentials(key.key_id, key.secret), SERVICE, region)
    text = signer.string_to_sign(request, signer.canonical_request(request))
    signature: str = signer.signature(text, request)
    return signature


def _check_time(time: str, day: str, now: datetime) -> None:
    try:
        signed_at = datetime.strptime(time, SIGV4_TIMESTAMP).replace(tzinfo=UTC)
    except ValueError:
        raise SignatureError(
            "IncompleteSignatureException", "The header X-Amz-Date must be like 20240131T120000Z."
        ) from None
    if abs(now - signed_at) > _SKEW or not time.startswith(day):
        raise SignatureError(
            "InvalidSignatureException", f"Signature expired or not yet current: {time}."
        )


def application(
    service: LocalPersonalize,
    *,
    key: AccessKey | None = None,
    hosts: Collection[str] = (),
    request_seconds: float = BODY_SECONDS,
) -> Starlette:
    """The ASGI application, for clients that reach it by a loopback name or one of `hosts`.

    If `key` is given, requests must be signed with it.
    """

    async def personalize(request: Request) -> Response:
        try:
            body = await read_body(request.receive, request_seconds)
        except TimeoutError:
            return _error_response(408, "RequestTimeoutException", "The request came too slowly.")
        except ClientDisconnect:
            return Response(status_code=400)
        except BodyTooLargeError as error:
            return _error_response(413, "RequestEntityTooLargeException", str(error))
        if key is not None:
            try:
                check_signature(key, request.headers, body)
            except SignatureError as error:
                return _error_response(403, error.code, str(error))
        target = request.headers.get("x-amz-target", "")
        try:
            return _response(*await run_in_threadpool(answer, service.call, target, body))
        except CatalogError as error:
            return _error_response(500, "InternalFailure", str(error))

    async def health(request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.close)

    routes = [
        Route("/", personalize, methods=["POST"]),
        Route("/health", health, methods=["GET"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan, middleware=[Middleware(Guard, hosts)])


def serve(
    service: LocalPersonalize,
    host: str,
    port: int,
    *,
    key: AccessKey | None = None,
    hosts: Collection[str] = (),
) -> None:
    """Serve until SIGINT or SIGTERM; logs each request."""
    if not is_loopback(host):
        logger.warning(
            "listening on %s: anyone who can reach this address can use this Personalize%s",
            host,
            "" if key else ", as no access key is set",
        )
    app = application(service, key=key, hosts=hosts)
    LimitedServer(app, host, port, log_level="info").run()


def _error_response(status: int, code: str, message: str) -> Response:
    return _response(status, json.dumps({"__type": code, "message": message}).encode())


def _response(status: int, content: bytes, own: Mapping[str, str] | None = None) -> Response:
    headers = {"x-amzn-RequestId": str(uuid.uuid4()), **(own or {})}
    return Response(content, status, headers, media_type=CONTENT_TYPE)
