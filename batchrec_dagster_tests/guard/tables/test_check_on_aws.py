"""Tests of `batchrec check` on a bucket and on Personalize, on AWS and elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.client
import pytest

from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.guard.builders import Project
from batchrec_dagster_tests.guard.servers.processes import free_ports
from batchrec_dagster_tests.guard.servers.s3 import OWNER, READER, STRANGER, S3Server
from batchrec_dagster_tests.guard.tables.check_support import check, dagster_home, declare, home

__all__ = ["dagster_home", "home"]
pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bare_environment")]

ORDERS = "userId,itemId,timestamp\n1,7,1700000000\n2,8,1700000100\n"
ACCOUNT = "123456789012"
# In place of an error code, this means that the request is sent.
UNREACHABLE = "unreachable"


def on_s3(s3: S3Server, bucket: str, keys: Any = OWNER) -> dict[str, str]:
    return {**s3.environment(keys), "BATCHREC_STORAGE": f"s3://{bucket}/x"}


def test_a_usable_bucket_and_its_objects_pass(home: Project, s3: S3Server) -> None:
    bucket = s3.create_bucket()
    s3.store().put(f"s3://{bucket}/orders/1.csv", ORDERS.encode() * 100)
    declare(home, ratings={"source": f"s3://{bucket}/orders/"})
    findings = check(**on_s3(s3, bucket))
    assert {status for status, _ in findings.values()} <= {"ok", "warning"}
    for name in ("bucket", "clock", "storage delete", "shop ratings"):
        assert findings[name][0] == "ok"


@pytest.mark.parametrize(
    ("seconds", "status", "part"), [(-40, "warning", "s behind"), (900, "FAILED", "s ahead")]
)
def test_a_wrong_clock_is_told(
    home: Project,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    seconds: int,
    status: str,
    part: str,
) -> None:
    call = botocore.client.BaseClient._make_api_call  # type: ignore[attr-defined]

    def answer_by_another_clock(client: Any, operation: str, arguments: Any) -> Any:
        answer = call(client, operation, arguments)
        if operation == "HeadBucket":
            date = datetime.now(UTC) - timedelta(seconds=seconds)
            answer["ResponseMetadata"]["HTTPHeaders"]["date"] = format_datetime(date)
        return answer

    monkeypatch.setattr(botocore.client.BaseClient, "_make_api_call", answer_by_another_clock)
    found = check(**on_s3(s3, s3.create_bucket()))["clock"]
    assert found[0] == status
    assert part in found[1]


@pytest.mark.parametrize(
    ("keys", "part"),
    [(READER, "s3:PutObject on arn:aws:s3:::"), (STRANGER, "does not know the credentials")],
)
def test_a_bucket_that_refuses_is_told_with_the_permission(
    home: Project, s3: S3Server, keys: Any, part: str
) -> None:
    status, text = check(**on_s3(s3, s3.create_bucket(), keys))["storage write"]
    assert status == "FAILED"
    assert part in text


def test_a_missing_or_unreachable_bucket_fails(home: Project, s3: S3Server) -> None:
    findings = check(**on_s3(s3, "no-such-bucket"))
    assert findings["bucket"][0] == "FAILED"
    assert "no-such-bucket" in findings["bucket"][1]
    nobody = replace(s3, endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")
    assert check(**on_s3(nobody, "bucket"))["bucket"][0] == "FAILED"


def test_a_personalize_at_a_url_is_asked(
    home: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = StartedPersonalize(tmp_path / "personalize")
    try:
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
        assert check(BATCHREC_PERSONALIZE=started.endpoint_url)["personalize"][0] == "ok"
    finally:
        started.close()
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    status, text = check(BATCHREC_PERSONALIZE=nobody)["personalize"]
    assert status == "FAILED"
    assert "batchrec local-personalize" in text


Check = Callable[..., dict[str, tuple[str, str]]]


@pytest.fixture
def check_aws(home: Project, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> Check:
    """Return a function that checks an AWS account with stubbed answers in boto3's form.

    The function's argument `refused` maps the names of operations that AWS refuses to error codes.
    Its other arguments are settings.
    """
    refusals: dict[str, str] = {}
    answers = {
        "GetCallerIdentity": {
            "Arn": f"arn:aws:sts::{ACCOUNT}:assumed-role/Runner/i-0123",
            "Account": ACCOUNT,
        },
        "ListDatasetGroups": {"datasetGroups": []},
    }
    send = botocore.client.BaseClient._make_request  # type: ignore[attr-defined]

    def answer(client: Any, operation: Any, *request: Any) -> Any:
        code = refusals.get(operation.name)
        if code == UNREACHABLE:
            return send(client, operation, *request)
        if code:
            return SimpleNamespace(status_code=400), {"Error": {"Code": code, "Message": ""}}
        if operation.name in answers:
            return SimpleNamespace(status_code=200), answers[operation.name]
        return send(client, operation, *request)

    monkeypatch.setattr("botocore.client.BaseClient._make_request", answer)
    bucket = s3.create_bucket()

    def check_account(
        refused: dict[str, str] | None = None, **settings: str
    ) -> dict[str, tuple[str, str]]:
        refusals.clear()
        refusals.update(refused or {})
        role = f"arn:aws:iam::{ACCOUNT}:role/Personalize"
        environment = {
            **on_s3(s3, bucket),
            "BATCHREC_PERSONALIZE": "aws",
            "BATCHREC_ROLE_ARN": role,
            "AWS_REGION": "eu-west-1",
            **settings,
        }
        return check(**environment)

    return check_account


def test_an_account_that_can_be_used_passes(check_aws: Check) -> None:
    findings = check_aws()
    for name in ("region", "identity", "personalize"):
        assert findings[name][0] == "ok"


@pytest.mark.parametrize(
    ("refused", "settings", "name", "part"),
    [
        (
            {"ListDatasetGroups": "AccessDeniedException"},
            {},
            "personalize",
            "personalize:ListDatasetGroups",
        ),
        ({"GetCallerIdentity": "ExpiredToken"}, {}, "identity", "log in again"),
        (
            {},
            {"BATCHREC_ROLE_ARN": "arn:aws:iam::999999999999:role/Personalize"},
            "identity",
            "999999999999",
        ),
        ({}, {"AWS_REGION": "mars-north-1"}, "region", "eu-west-1"),
    ],
)
def test_an_account_that_cannot_be_used_fails_with_what_to_do(
    check_aws: Check, refused: dict[str, str], settings: dict[str, str], name: str, part: str
) -> None:
    status, text = check_aws(refused, **settings)[name]
    assert status != "ok"
    assert part in text


def test_an_sts_that_cannot_be_reached_is_named(check_aws: Check) -> None:
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    findings = check_aws({"GetCallerIdentity": UNREACHABLE}, AWS_ENDPOINT_URL_STS=nobody)
    status, text = findings["identity"]
    assert status == "FAILED"
    assert "cannot reach AWS STS" in text
    assert "VPC" in text


def test_regions_of_china_are_known(check_aws: Check) -> None:
    assert "cn-north-1" in boto3.Session().get_available_regions(
        "personalize", partition_name="aws-cn"
    )
    role = f"arn:aws-cn:iam::{ACCOUNT}:role/Personalize"
    assert check_aws(AWS_REGION="cn-north-1", BATCHREC_ROLE_ARN=role)["region"][0] == "ok"
