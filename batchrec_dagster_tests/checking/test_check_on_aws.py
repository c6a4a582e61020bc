"""What `batchrec check` finds out about Personalize on AWS: region, identity, one call."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

from batchrec_dagster.checking.findings import Finding
from batchrec_dagster.checking.personalize import check_personalize
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.storage.resource import StorageResource
from batchrec_dagster_tests.checking.test_check import index_by_check
from batchrec_dagster_tests.guard.oracles.template import ACCOUNT, REGION

pytestmark = pytest.mark.usefixtures("bare_environment")

RUNNER = f"arn:aws:sts::{ACCOUNT}:assumed-role/Runner/i-0123"


@pytest.fixture
def check_account(monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Finding]]:
    """Checks an AWS account whose credentials are the runner's.

    Of the fixture's function, `refused` has the error code by the name of each operation that AWS
    refuses; the other arguments are settings.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    make_client = StorageResource.client
    answers = {
        "GetCallerIdentity": {"Arn": RUNNER, "Account": ACCOUNT},
        "ListDatasetGroups": {"datasetGroups": []},
    }

    def check(refused: dict[str, str] | None = None, **settings: str) -> dict[str, Finding]:
        def answer(model: Any, **_: Any) -> Any:
            code = (refused or {}).get(model.name)
            if code:
                return SimpleNamespace(status_code=400), {"Error": {"Code": code, "Message": ""}}
            return SimpleNamespace(status_code=200), answers[model.name]

        def make_answered_client(storage: StorageResource, *arguments: Any, **named: Any) -> Any:
            client = make_client(storage, *arguments, **named)
            client.meta.events.register("before-call", answer)
            return client

        monkeypatch.setattr(StorageResource, "client", make_answered_client)
        environment = {
            "BATCHREC_PERSONALIZE": "aws",
            "BATCHREC_STORAGE": "s3://the-bucket/batchrec",
            "BATCHREC_ROLE_ARN": f"arn:aws:iam::{ACCOUNT}:role/Personalize",
            "AWS_REGION": REGION,
            **settings,
        }
        return index_by_check(check_personalize(Deployment.from_environment(environment)))

    return check


def test_an_account_that_may_be_used_passes(
    check_account: Callable[..., dict[str, Finding]],
) -> None:
    assert {check: finding.message for check, finding in check_account().items()} == {
        "region": REGION,
        "identity": RUNNER,
        "personalize": "Amazon Personalize answers",
    }


def test_a_personalize_that_refuses_fails_with_the_permission(
    check_account: Callable[..., dict[str, Finding]],
) -> None:
    finding = check_account({"ListDatasetGroups": "AccessDeniedException"})["personalize"]
    assert finding.status == "failed"
    assert "allow these credentials personalize:ListDatasetGroups on *" in finding.fix


def test_credentials_that_aws_rejects_fail_with_what_to_do(
    check_account: Callable[..., dict[str, Finding]],
) -> None:
    findings = check_account({"GetCallerIdentity": "ExpiredToken"})
    assert findings["identity"].status == "failed"
    assert "log in again" in findings["identity"].fix
    assert "personalize" not in findings


def test_a_role_of_another_account_fails(
    check_account: Callable[..., dict[str, Finding]],
) -> None:
    findings = check_account(BATCHREC_ROLE_ARN="arn:aws:iam::999999999999:role/Personalize")
    assert "999999999999" in findings["identity"].message


def test_a_region_without_personalize_fails(
    check_account: Callable[..., dict[str, Finding]],
) -> None:
    finding = check_account(AWS_REGION="mars-north-1")["region"]
    assert finding.status == "failed"
    assert "eu-west-1" in finding.fix


@pytest.mark.parametrize(
    ("name", "region"), [("aws-cn", "cn-north-1"), ("aws-us-gov", "us-gov-west-1")]
)
def test_regions_of_other_partitions_are_known_by_their_partition(
    check_account: Callable[..., dict[str, Finding]], name: str, region: str
) -> None:
    # As of now, boto3 knows Personalize in China, and none in GovCloud.
    regions = boto3.Session().get_available_regions("personalize", partition_name=name)
    role = f"arn:{name}:iam::{ACCOUNT}:role/Personalize"
    findings = check_account(AWS_REGION=region, BATCHREC_ROLE_ARN=role)
    assert findings["region"].status == ("ok" if region in regions else "failed")
    assert "cn-north-1" in regions or name != "aws-cn"


def test_what_aws_s_sdk_lacks_is_named(check_account: Callable[..., dict[str, Finding]]) -> None:
    finding = check_account(AWS_REGION="")["personalize"]
    assert finding.status == "failed"
    assert "set AWS_REGION, such as eu-west-1" in finding.message
