"""What doctor finds in an AWS account: role, bucket, quotas, policies."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.doctor import Finding, aws, clients
from batchrec_dagster.doctor.aws_quotas import check_quotas
from batchrec_dagster.doctor.policies import find_conditional_denies, find_missing_permissions
from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.deployment.template import ACCOUNT, BUCKET, REGION, stack
from batchrec_dagster_tests.doctor.test_doctor import by_check

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bare_environment")]

SERVICE = "personalize.amazonaws.com"
LACKS: set[str] = set()
ROLE = f"arn:aws:iam::{ACCOUNT}:role/Personalize"


@pytest.fixture
def personalize(tmp_path: Path) -> Iterator[StartedPersonalize]:
    started = StartedPersonalize(tmp_path / "personalize")
    yield started
    started.close()


@pytest.fixture
def account(
    monkeypatch: pytest.MonkeyPatch, personalize: StartedPersonalize
) -> Iterator[Callable[..., dict[str, Finding]]]:
    """An AWS account with the template's bucket and role, and a Personalize; `refuse` names
    operations that are denied."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    resources = stack()
    with mock_aws():
        s3: Any = boto3.client("s3", REGION)
        iam = boto3.client("iam", REGION)
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_bucket_policy(
            Bucket=BUCKET, Policy=json.dumps(resources["BucketPolicy"]["PolicyDocument"])
        )
        trust = resources["PersonalizeRole"]["AssumeRolePolicyDocument"]
        iam.create_role(RoleName="Personalize", AssumeRolePolicyDocument=json.dumps(trust))
        real = clients.make_client

        def examined(*, refuse: tuple[str, ...] = (), **settings: str) -> dict[str, Finding]:
            def client(deployment: Deployment, service: str) -> Any:
                if service == "personalize":
                    made: Any = personalize.client
                else:
                    made = real(deployment, service)
                # moto has no policy simulator.
                made.meta.events.register("before-call.iam.SimulatePrincipalPolicy", simulated)
                for operation in ("ListServiceQuotas", *refuse):  # moto has no quotas
                    made.meta.events.register(f"before-call.*.{operation}", denied)
                return made

            monkeypatch.setattr(aws, "make_client", client)
            environment = {
                "BATCHREC_PERSONALIZE": "aws",
                "BATCHREC_STORAGE": f"s3://{BUCKET}/batchrec",
                "BATCHREC_ROLE_ARN": ROLE,
                "AWS_REGION": REGION,
                **settings,
            }
            return by_check(aws.check_aws(Deployment.from_environment(environment)))

        yield examined


def simulated(params: Any, **_: Any) -> Any:
    """IAM's policy simulator: the role may do everything except what is in LACKS."""
    asked = [value for key, value in params["body"].items() if key.startswith("ActionNames")]
    results = [
        {"EvalActionName": each, "EvalDecision": "implicitDeny" if each in LACKS else "allowed"}
        for each in asked
    ]
    return SimpleNamespace(status_code=200), {"EvaluationResults": results}


def denied(model: Any, **_: Any) -> None:
    error = {"Code": "AccessDenied", "Message": "no"}
    raise ClientError({"Error": error}, model.name)  # type: ignore[typeddict-item]


def test_an_account_made_by_the_template_passes(
    account: Callable[..., dict[str, Finding]],
) -> None:
    found = account()
    assert {check: each.message for check, each in found.items() if each.status != "ok"} == {}
    assert found.keys() >= {"region", "identity", "personalize", "role", "bucket policy"}
    assert found["quota of dataset groups"].message == "0 of 5 used"


def test_a_check_without_permission_is_unknown_and_names_it(
    account: Callable[..., dict[str, Finding]],
) -> None:
    role = account(refuse=("SimulatePrincipalPolicy",))["role in storage"]
    assert role.status == "unknown"
    assert f"iam:SimulatePrincipalPolicy on {ROLE}" in role.fix
    found = account(refuse=("GetRole", "GetBucketPolicy", "ListSchemas"))
    for check, said in (
        ("role", f"iam:GetRole on {ROLE}"),
        ("bucket policy", f"s3:GetBucketPolicy on arn:aws:s3:::{BUCKET}"),
        ("quota of schemas", "personalize:ListSchemas on *"),
    ):
        assert found[check].status == "unknown"
        assert said in found[check].fix


def test_a_personalize_that_refuses_fails_with_the_permission(
    account: Callable[..., dict[str, Finding]],
) -> None:
    found = account(refuse=("ListDatasetGroups",))["personalize"]
    assert found.status == "failed"
    assert "personalize:ListDatasetGroups" in found.fix


def test_a_missing_role_or_one_of_another_account_fails(
    account: Callable[..., dict[str, Finding]],
) -> None:
    found = account(BATCHREC_ROLE_ARN=f"arn:aws:iam::{ACCOUNT}:role/Nobody")
    assert "Nobody" in found["role"].message
    found = account(BATCHREC_ROLE_ARN="arn:aws:iam::999999999999:role/Personalize")
    assert "999999999999" in found["identity"].message


def test_a_role_or_a_bucket_that_does_not_trust_personalize_fails(
    account: Callable[..., dict[str, Finding]],
) -> None:
    trust = {"Statement": {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}}}
    boto3.client("iam", REGION).update_assume_role_policy(
        RoleName="Personalize",
        PolicyDocument=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": {**trust["Statement"], "Action": "sts:AssumeRole"},
            }
        ),
    )
    boto3.client("s3", REGION).delete_bucket_policy(Bucket=BUCKET)
    found = account()
    assert found["role"].status == "failed"
    assert ROLE in found["role"].message
    assert "sts:AssumeRole" in found["role"].fix
    assert "s3:ListBucket, s3:GetObject, s3:PutObject" in found["bucket policy"].message


def test_a_role_that_may_not_write_fails(
    account: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec_dagster_tests.doctor.test_doctor_aws.LACKS", {"s3:PutObject"})
    found = account()["role in storage"]
    assert ROLE in found.message
    assert "s3:PutObject" in found.message
    assert f"on arn:aws:s3:::{BUCKET}" in found.fix


@pytest.mark.parametrize("region", ["", "mars-north-1"])
def test_a_region_without_personalize_fails(
    account: Callable[..., dict[str, Finding]], region: str
) -> None:
    found = account(AWS_REGION=region)["region"] if region else None
    if found is None:
        here = Deployment.from_environment({})
        found = aws._check_region(here)
    assert found.status == "failed"
    assert "eu-west-1" in found.fix


def test_a_quota_that_is_used_up_warns() -> None:
    personalize = boto3.client(
        "personalize", REGION, aws_access_key_id="testing", aws_secret_access_key="testing"
    )
    five = {
        "ListDatasetGroups": ("datasetGroups", "ACTIVE"),
        "ListSchemas": ("schemas", "ACTIVE"),
        "ListDatasetImportJobs": ("datasetImportJobs", "CREATE IN_PROGRESS"),
        "ListBatchInferenceJobs": ("batchInferenceJobs", "ACTIVE"),
    }

    def answer(model: Any, params: dict[str, Any], **_: Any) -> Any:
        """Five of each, on two pages."""
        member, status = five[model.name]
        second = b"nextToken" in params["body"]
        page = {member: [{"status": status}] * (2 if second else 3)}
        return SimpleNamespace(status_code=200), page if second else {**page, "nextToken": "2"}

    personalize.meta.events.register("before-call.personalize", answer)
    applied = [{"Quotas": [{"QuotaName": "Batch inference jobs", "Value": 7.0}]}]
    quotas = SimpleNamespace(
        get_paginator=lambda name: SimpleNamespace(paginate=lambda **_: applied)
    )
    found = by_check(check_quotas(personalize, quotas))
    assert {
        check.removeprefix("quota of "): (one.status, one.message.partition(":")[0])
        for check, one in found.items()
    } == {
        "dataset groups": ("warning", "5 of 5 used"),
        "schemas": ("ok", "5 of 500 used"),
        "imports": ("warning", "5 of 5 in progress"),
        "batch inferences": ("ok", "0 of 7 in progress"),
    }


def test_a_deny_under_a_condition_that_may_hold_is_named() -> None:
    deny = {"Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": "*"}
    vpce = {"StringNotEquals": {"aws:SourceVpce": "vpce-1"}}
    tls = {"Bool": {"aws:SecureTransport": "false"}}
    spared = {**vpce, "BoolIfExists": {"aws:PrincipalIsAWSService": "false"}}
    wanted = [("s3:GetObject", "arn:aws:s3:::b/x")]

    def found(**statement: Any) -> list[str]:
        policy = {"Statement": [{**deny, **statement}]}
        return find_conditional_denies(policy, SERVICE, wanted)

    assert found(Sid="OnlyOurVpc", Condition=vpce) == ["OnlyOurVpc (aws:SourceVpce)"]
    assert found(Condition=tls) == found(Condition=spared) == []
    assert found(Condition=vpce, Action="s3:DeleteObject") == []


ALLOW = {"Effect": "Allow", "Principal": {"Service": SERVICE}, "Action": "s3:*", "Resource": "*"}


@pytest.mark.parametrize(
    ("statements", "lacking"),
    [
        ([ALLOW], False),
        ([{**ALLOW, "Principal": "*"}], False),
        ([{**ALLOW, "Action": ["s3:Put*", "S3:GETobject"], "Resource": "arn:aws:s3:::b/*"}], False),
        ([{**ALLOW, "Condition": {"StringEquals": {"aws:SourceAccount": ACCOUNT}}}], False),
        ([{**ALLOW, "Condition": {"ArnLike": {"AWS:SourceArn": f"arn:*:*:*:{ACCOUNT}:*"}}}], False),
        ([], True),
        ([{**ALLOW, "Principal": {"Service": "ec2.amazonaws.com"}}], True),
        ([{**ALLOW, "Action": "s3:PutObject"}], True),
        ([{**ALLOW, "Resource": "arn:aws:s3:::other/*"}], True),
        ([{**ALLOW, "Condition": {"StringEquals": {"aws:SourceAccount": "999999999999"}}}], True),
        ([{**ALLOW, "Condition": {"StringEquals": {"aws:SourceVpc": "vpc-1"}}}], True),
        ([ALLOW, {**ALLOW, "Effect": "Deny"}], True),
    ],
)
def test_what_a_policy_allows_personalize(statements: list[Any], lacking: bool) -> None:
    pair = ("s3:GetObject", "arn:aws:s3:::b/key")
    assert (
        find_missing_permissions({"Statement": statements}, SERVICE, ACCOUNT, [pair])
        == [pair] * lacking
    )
