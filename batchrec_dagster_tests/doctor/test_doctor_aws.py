"""What doctor finds in an AWS account: role, bucket, quotas, policies."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from moto import mock_aws

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.doctor import Finding, aws, clients
from batchrec_dagster.doctor import caller as caller_check
from batchrec_dagster.doctor.aws_quotas import check_quotas
from batchrec_dagster.doctor.policies import find_conditional_denies, find_missing_permissions
from batchrec_dagster.personalize.ensure import OWN_TAGS
from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.deployment.template import (
    ACCOUNT,
    BUCKET,
    REGION,
    Statement,
    list_runner_statements,
    read_actions,
    read_resources,
    resolve_stack,
)
from batchrec_dagster_tests.doctor.test_doctor import index_by_check

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("bare_environment")]

SERVICE = "personalize.amazonaws.com"
LACKS: set[str] = set()
# What else the simulator says of an action.
DETAILS: dict[str, dict[str, Any]] = {}
ROLE = f"arn:aws:iam::{ACCOUNT}:role/Personalize"
RUNNER = f"arn:aws:iam::{ACCOUNT}:role/team/Runner"
USER = f"arn:aws:iam::{ACCOUNT}:user/me"
SESSION = f"arn:aws:sts::{ACCOUNT}:assumed-role/Runner/i-0123"


@pytest.fixture
def personalize(tmp_path: Path) -> Iterator[StartedPersonalize]:
    personalize_service = StartedPersonalize(tmp_path / "personalize")
    yield personalize_service
    personalize_service.close()


@pytest.fixture
def account(
    monkeypatch: pytest.MonkeyPatch, personalize: StartedPersonalize
) -> Iterator[Callable[..., dict[str, Finding]]]:
    """Examines an AWS account with the template's bucket and role, and a Personalize.

    The arguments of the fixture's function: `refuse` names operations that are denied, `caller` is
    the ARN that the credentials stand for, and `statements` are what the runner may do.
    """
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    resources = resolve_stack()
    with mock_aws():
        s3: Any = boto3.client("s3", REGION)
        iam = boto3.client("iam", REGION)
        s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
        s3.put_bucket_policy(
            Bucket=BUCKET, Policy=json.dumps(resources["BucketPolicy"]["PolicyDocument"])
        )
        trust = resources["PersonalizeRole"]["AssumeRolePolicyDocument"]
        for name, path in (("Personalize", "/"), ("Runner", "/team/")):
            iam.create_role(RoleName=name, Path=path, AssumeRolePolicyDocument=json.dumps(trust))
        real = clients.make_client

        def examine(
            *,
            refuse: tuple[str, ...] = (),
            caller: str = SESSION,
            statements: list[Statement] | None = None,
            **settings: str,
        ) -> dict[str, Finding]:
            runner = statements if statements is not None else list_statements_for_role()

            def identify(**_: Any) -> Any:
                return SimpleNamespace(status_code=200), {"Arn": caller, "Account": ACCOUNT}

            def simulate(params: Any, **_: Any) -> Any:
                return simulate_policy(params["body"], runner)

            def open_client(deployment: Deployment, service: str) -> Any:
                if service == "personalize":
                    personalize_client: Any = personalize.client
                else:
                    personalize_client = real(deployment, service)
                # moto has no policy simulator.
                personalize_client.meta.events.register(
                    "before-call.iam.SimulatePrincipalPolicy", simulate
                )
                personalize_client.meta.events.register("before-call.sts", identify)
                for operation in ("ListServiceQuotas", *refuse):  # moto has no quotas
                    personalize_client.meta.events.register(f"before-call.*.{operation}", deny)
                return personalize_client

            for module in (aws, caller_check):
                monkeypatch.setattr(module, "make_client", open_client)
            environment = {
                "BATCHREC_PERSONALIZE": "aws",
                "BATCHREC_STORAGE": f"s3://{BUCKET}/batchrec",
                "BATCHREC_ROLE_ARN": ROLE,
                "AWS_REGION": REGION,
                **settings,
            }
            return index_by_check(aws.check_aws(Deployment.from_environment(environment)))

        yield examine


def list_statements_for_role() -> list[Statement]:
    """What the template's runner may do, with the role of these tests as Personalize's."""
    text = json.dumps(list_runner_statements()).replace("<PersonalizeRole.Arn>", ROLE)
    statements: list[Statement] = json.loads(text)
    return statements


def read_context(body: dict[str, str]) -> dict[str, list[str]]:
    """The condition keys that the simulator is told, with their values."""
    names = {
        key.removesuffix("ContextKeyName"): value
        for key, value in body.items()
        if key.endswith("ContextKeyName")
    }
    return {
        name: [value for key, value in body.items() if key.startswith(f"{entry}ContextKeyValues")]
        for entry, name in names.items()
    }


def simulate_policy(body: dict[str, str], runner: list[Statement]) -> Any:
    """IAM's policy simulator: the runner may do what the statements allow.

    Personalize's role may do everything except what is in LACKS.
    """
    actions = [value for key, value in body.items() if key.startswith("ActionNames")]
    resource = body["ResourceArns.member.1"]
    assert body["PolicySourceArn"] in (ROLE, RUNNER, USER)

    def is_allowed(action: str) -> bool:
        if body["PolicySourceArn"] == ROLE:
            return action not in LACKS
        context = read_context(body)
        is_passed_on = context["iam:PassedToService"] == [SERVICE]
        return any(
            action in read_actions(statement)
            and fnmatchcase(resource, pattern)
            and ("Condition" not in statement or is_passed_on)
            for statement in runner
            for pattern in read_resources(statement)
        )

    results = [
        {
            "EvalActionName": action,
            "EvalDecision": "allowed" if is_allowed(action) else "implicitDeny",
            **DETAILS.get(action, {}),
        }
        for action in actions
    ]
    return SimpleNamespace(status_code=200), {"EvaluationResults": results}


def deny(model: Any, **_: Any) -> None:
    error = {"Code": "AccessDenied", "Message": "no"}
    raise ClientError({"Error": error}, model.name)  # type: ignore[typeddict-item]


def test_an_account_made_by_the_template_passes(
    account: Callable[..., dict[str, Finding]],
) -> None:
    findings = account()
    assert {
        check: finding.message for check, finding in findings.items() if finding.status != "ok"
    } == {}
    assert findings.keys() >= {"region", "identity", "personalize", "role", "bucket policy"}
    assert findings["quota of dataset groups"].message == "0 of 5 used"


def test_a_check_without_permission_is_unknown_and_names_it(
    account: Callable[..., dict[str, Finding]],
) -> None:
    role = account(refuse=("SimulatePrincipalPolicy",))["role in storage"]
    assert role.status == "unknown"
    assert f"iam:SimulatePrincipalPolicy on {ROLE}" in role.fix
    findings = account(refuse=("GetRole", "GetBucketPolicy", "ListSchemas"))
    for check, sentence in (
        ("role", f"iam:GetRole on {ROLE}"),
        ("bucket policy", f"s3:GetBucketPolicy on arn:aws:s3:::{BUCKET}"),
        ("quota of schemas", "personalize:ListSchemas on *"),
    ):
        assert findings[check].status == "unknown"
        assert sentence in findings[check].fix


def test_a_runner_of_an_earlier_stack_lacks_the_recipes(
    account: Callable[..., dict[str, Finding]],
) -> None:
    statements = list_statements_for_role()
    earlier = [statement for statement in statements if statement["Sid"] != "PersonalizeRecipes"]
    assert len(earlier) == len(statements) - 1
    finding = account(statements=earlier)["permissions"]
    assert finding.status == "failed"
    recipe = "arn:aws:personalize:::recipe/aws-user-personalization-v2"
    assert f"{RUNNER} may not" in finding.message
    assert f"personalize:CreateSolution on {recipe}" in finding.message
    assert "solution/" not in finding.message
    assert "deploy/batchrec.yaml" in finding.fix


def test_a_runner_that_may_nothing_is_named_with_the_first_permissions(
    account: Callable[..., dict[str, Finding]],
) -> None:
    finding = account(statements=[], caller=USER)["permissions"]
    assert finding.status == "failed"
    assert f"{USER} may not" in finding.message
    assert re.search(r"personalize:ListDatasetGroups on \*, .* \d+ more$", finding.message)


@pytest.mark.parametrize(
    ("details", "status", "sentence"),
    [
        (
            {"PermissionsBoundaryDecisionDetail": {"AllowedByPermissionsBoundary": False}},
            "failed",
            "",
        ),
        (
            {"OrganizationsDecisionDetail": {"AllowedByOrganizations": False}},
            "unknown",
            ": a policy of the organization denies it, perhaps under a condition",
        ),
        (
            {
                "EvalDecision": "implicitDeny",
                "ResourceSpecificResults": [
                    {"MissingContextValues": ["aws:SourceVpce", "aws:username"]}
                ],
            },
            "unknown",
            ": it depends on aws:SourceVpce",
        ),
        ({"EvalDecision": "explicitDeny", "MissingContextValues": ["aws:username"]}, "failed", ""),
    ],
)
def test_a_denial_that_may_not_hold_is_unknown(
    account: Callable[..., dict[str, Finding]],
    monkeypatch: pytest.MonkeyPatch,
    details: dict[str, Any],
    status: str,
    sentence: str,
) -> None:
    """The simulator does not know the conditions of the organization's policies."""
    monkeypatch.setitem(DETAILS, "personalize:CreateDatasetImportJob", details)
    monkeypatch.setitem(DETAILS, "s3:PutObject", details)
    findings = account()
    finding, storage = findings["permissions"], findings["role in storage"]
    assert (finding.status, storage.status) == (status, status)
    assert "personalize:CreateDatasetImportJob on arn:aws:personalize:eu-west-1:" in finding.message
    assert finding.message.endswith(f"batchrec-doctor{sentence}")
    assert "s3:PutObject" in storage.message


def test_the_simulator_is_told_the_region_and_the_tags_of_requests(
    account: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts = []

    def note(body: dict[str, str], runner: list[Statement]) -> Any:
        contexts.append(read_context(body))
        return simulate_runner(body, runner)

    simulate_runner = simulate_policy
    monkeypatch.setattr(f"{__name__}.simulate_policy", note)
    assert account(BATCHREC_TAGS="team=data")["permissions"].status == "ok"
    context = contexts[0]
    assert context["aws:RequestedRegion"] == [REGION]
    assert context["aws:RequestTag/team"] == ["data"]
    assert context["aws:TagKeys"] == [*OWN_TAGS, "team"]


@pytest.mark.parametrize(
    ("refuse", "fix"),
    [
        (
            "SimulatePrincipalPolicy",
            f"allow these credentials iam:SimulatePrincipalPolicy on {RUNNER}",
        ),
        ("GetRole", f"allow these credentials iam:GetRole on arn:aws:iam::{ACCOUNT}:role/Runner"),
    ],
)
def test_a_runner_that_may_not_ask_about_itself_is_unknown(
    account: Callable[..., dict[str, Finding]], refuse: str, fix: str
) -> None:
    finding = account(refuse=(refuse,))["permissions"]
    assert (finding.status, finding.fix) == ("unknown", fix)


def test_root_needs_no_policy_and_a_federated_user_has_none_that_can_be_asked_about(
    account: Callable[..., dict[str, Finding]],
) -> None:
    root = account(caller=f"arn:aws:iam::{ACCOUNT}:root", statements=[])["permissions"]
    assert root.status == "ok"
    federated = account(caller=f"arn:aws:sts::{ACCOUNT}:federated-user/me")["permissions"]
    assert federated.status == "unknown"


def test_a_personalize_that_refuses_fails_with_the_permission(
    account: Callable[..., dict[str, Finding]],
) -> None:
    finding = account(refuse=("ListDatasetGroups",))["personalize"]
    assert finding.status == "failed"
    assert "personalize:ListDatasetGroups" in finding.fix


def test_a_missing_role_or_one_of_another_account_fails(
    account: Callable[..., dict[str, Finding]],
) -> None:
    findings = account(BATCHREC_ROLE_ARN=f"arn:aws:iam::{ACCOUNT}:role/Nobody")
    assert "Nobody" in findings["role"].message
    findings = account(BATCHREC_ROLE_ARN="arn:aws:iam::999999999999:role/Personalize")
    assert "999999999999" in findings["identity"].message


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
    findings = account()
    assert findings["role"].status == "failed"
    assert ROLE in findings["role"].message
    assert "sts:AssumeRole" in findings["role"].fix
    assert "s3:ListBucket, s3:GetObject, s3:PutObject" in findings["bucket policy"].message


def test_a_role_that_may_not_write_fails(
    account: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec_dagster_tests.doctor.test_doctor_aws.LACKS", {"s3:PutObject"})
    finding = account()["role in storage"]
    assert ROLE in finding.message
    assert "s3:PutObject" in finding.message
    assert f"on arn:aws:s3:::{BUCKET}" in finding.fix


@pytest.mark.parametrize("region", ["", "mars-north-1"])
def test_a_region_without_personalize_fails(
    account: Callable[..., dict[str, Finding]], region: str
) -> None:
    finding = account(AWS_REGION=region)["region"] if region else None
    if finding is None:
        deployment_here = Deployment.from_environment({})
        finding = aws._check_region(deployment_here)
    assert finding.status == "failed"
    assert "eu-west-1" in finding.fix


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
    quota_pages = [{"Quotas": [{"QuotaName": "Batch inference jobs", "Value": 7.0}]}]
    quotas = SimpleNamespace(
        get_paginator=lambda name: SimpleNamespace(paginate=lambda **_: quota_pages)
    )
    findings = index_by_check(check_quotas(personalize, quotas))
    assert {
        check.removeprefix("quota of "): (finding.status, finding.message.partition(":")[0])
        for check, finding in findings.items()
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
    statement_with_exception = {**vpce, "BoolIfExists": {"aws:PrincipalIsAWSService": "false"}}
    needs = [("s3:GetObject", "arn:aws:s3:::b/x")]

    def find_denials(**statement: Any) -> list[str]:
        policy = {"Statement": [{**deny, **statement}]}
        return find_conditional_denies(policy, SERVICE, needs)

    assert find_denials(Sid="OnlyOurVpc", Condition=vpce) == ["OnlyOurVpc (aws:SourceVpce)"]
    assert find_denials(Condition=tls) == find_denials(Condition=statement_with_exception) == []
    assert find_denials(Condition=vpce, Action="s3:DeleteObject") == []


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
