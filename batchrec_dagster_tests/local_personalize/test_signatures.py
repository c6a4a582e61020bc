"""Tests of Signature Version 4, compared with botocore's own signer."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.compat import HTTPHeaders
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.local_personalize.api.signatures import (
    AccessKey,
    SignatureError,
    check_signature,
)

KEY = AccessKey("AKIDEXAMPLE", "secret/+of the key")


def _sign(body: bytes, *, secret: str = KEY.secret, token: str | None = None) -> dict[str, str]:
    request = AWSRequest(
        "POST",
        "http://127.0.0.1:9500/",
        headers={"X-Amz-Target": "AmazonPersonalize.ListSchemas", "Host": "127.0.0.1:9500"},
        data=body,
    )
    SigV4Auth(Credentials(KEY.key_id, secret, token), "personalize", "eu-west-1").add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


@given(st.binary(max_size=2000), st.sampled_from([None, "a token"]))
def test_botocores_signatures_are_accepted(body: bytes, token: str | None) -> None:
    check_signature(KEY, _sign(body, token=token), body)


def _refuse(headers: Mapping[str, str], body: bytes = b"{}", moment: datetime | None = None) -> str:
    with pytest.raises(SignatureError) as error:
        check_signature(KEY, headers, body, moment)
    assert KEY.secret not in str(error.value)
    return error.value.code


def test_anything_changed_is_refused() -> None:
    headers = _sign(b"{}")
    assert _refuse(headers, b"{ }") == "InvalidSignatureException"
    changed_headers = headers | {"x-amz-target": "AmazonPersonalize.DeleteSchema"}
    assert _refuse(changed_headers) == "InvalidSignatureException"
    assert _refuse(_sign(b"{}", secret="other")) == "InvalidSignatureException"


def test_an_old_signature_is_refused() -> None:
    headers = _sign(b"{}")
    signing_time = datetime.now(UTC)
    check_signature(KEY, headers, b"{}", signing_time + timedelta(minutes=14))
    for minutes in (16, -16):
        late_time = signing_time + timedelta(minutes=minutes)
        assert _refuse(headers, moment=late_time) == "InvalidSignatureException"


def test_the_operation_and_the_host_must_be_signed() -> None:
    headers = _sign(b"{}")
    for left_out in ("host;", ";x-amz-target", ";x-amz-date"):
        incomplete_headers = headers | {
            "authorization": headers["authorization"].replace(left_out, "")
        }
        assert _refuse(incomplete_headers) == "InvalidSignatureException"


@given(st.text(max_size=300))
def test_any_other_header_is_refused(text: str) -> None:
    expected = "IncompleteSignatureException" if text else "MissingAuthenticationTokenException"
    assert _refuse({"authorization": text}) == expected


@given(st.text(max_size=30))
def test_any_other_date_is_refused(text: str) -> None:
    headers = _sign(b"{}") | {"x-amz-date": text}
    assert _refuse(headers) in ("IncompleteSignatureException", "InvalidSignatureException")


class _SignsEverything(SigV4Auth):
    def headers_to_sign(self, request: AWSRequest) -> HTTPHeaders:
        headers = HTTPHeaders()
        for name, value in request.headers.items():
            headers[name.lower()] = value
        return headers


def _sign_with_header(name: str, value: str, body: bytes) -> dict[str, str]:
    headers = {"X-Amz-Target": "A.B", "Host": "h", name: value}
    request = AWSRequest("POST", "http://h/", headers=headers, data=body)
    credentials = Credentials(KEY.key_id, KEY.secret)
    _SignsEverything(credentials, "personalize", "eu-west-1").add_auth(request)
    return {name.lower(): value for name, value in request.headers.items()}


def test_headers_that_only_other_sdks_sign_are_checked() -> None:
    headers = _sign_with_header("User-Agent", "aws-sdk-java/1.12", b"{}")
    assert "user-agent" in headers["authorization"]
    check_signature(KEY, headers, b"{}")
    assert _refuse(headers | {"user-agent": "another"}) == "InvalidSignatureException"


def test_a_signed_hash_of_another_body_is_refused() -> None:
    header = "X-Amz-Content-SHA256"
    check_signature(KEY, _sign_with_header(header, hashlib.sha256(b"{}").hexdigest(), b"{}"), b"{}")
    for value in (hashlib.sha256(b"{}").hexdigest(), "UNSIGNED-PAYLOAD"):
        assert (
            _refuse(_sign_with_header(header, value, b"{}"), b"{ }") == "InvalidSignatureException"
        )
