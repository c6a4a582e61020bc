"""`batchrec doctor`: on this machine, on a real S3 server, on an account that is moto."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from click.testing import CliRunner
from moto import mock_aws

from batchrec_dagster.cli import main
from batchrec_dagster.deployment import Deployment
from batchrec_dagster.doctor import Finding, aws, examine, machine
from batchrec_dagster.doctor import findings as clients
from batchrec_dagster.doctor.aws import lacks
from batchrec_dagster.doctor.quotas import quota_findings
from batchrec_dagster.doctor.storage import clock
from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.processes import free_ports
from batchrec_dagster_tests.s3_server import OWNER, READER, STRANGER, S3Server
from batchrec_dagster_tests.support import declaration, module_project
from batchrec_dagster_tests.template import ACCOUNT, BUCKET, REGION, stack

pytestmark = pytest.mark.slow

SERVICE = "personalize.amazonaws.com"
LACKS: set[str] = set()
ROLE = f"arn:aws:iam::{ACCOUNT}:role/Personalize"


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in os.environ:
        if name.startswith(("AWS_", "BATCHREC_", "DAGSTER_")):
            monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def personalize(tmp_path: Path) -> Iterator[StartedPersonalize]:
    started = StartedPersonalize(tmp_path / "personalize")
    yield started
    started.close()


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """A machine on which all is well."""
    dagster = tmp_path / "dagster"
    dagster.mkdir()
    (dagster / "dagster.yaml").touch()
    return {"BATCHREC_HOME": str(tmp_path / "home"), "DAGSTER_HOME": str(dagster)}


def by_check(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_all_is_well_on_this_machine(home: dict[str, str], tmp_path: Path) -> None:
    told = CliRunner().invoke(main, ["doctor"], env=home)
    assert told.exit_code == 0, told.output
    assert "FAILED" not in told.output
    assert "settings" in told.output
    as_json = CliRunner().invoke(main, ["doctor", "--json"], env=home)
    found = {each["check"]: each for each in json.loads(as_json.output)}
    assert found.keys() >= {
        *("settings", "dagster home", "dagster storage", "home", "embedded personalize", "disk"),
        *("storage write", "storage lease", "storage list", "storage read", "storage delete"),
        "pipelines",
    }
    assert found["dagster storage"]["message"] == "0 runs in SqliteRunStorage"
    assert list((tmp_path / "home/storage").iterdir()) == []


def test_a_setting_of_dot_env_counts(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BATCHREC_PERSONALIZE=moto\n")
    told = CliRunner().invoke(main, ["doctor"], env=home)
    assert told.exit_code == 1
    assert "BATCHREC_PERSONALIZE is 'moto'" in told.output


def test_what_is_declared_is_loaded(home: dict[str, str], tmp_path: Path) -> None:
    project = module_project(tmp_path)
    project.declare(declaration("shop", "ratings.csv"))
    told = CliRunner().invoke(main, ["doctor"], env=home)
    assert told.exit_code == 0, told.output
    file = project.declare(declaration("shop", "ratings.csv", solution={"recipe": "aws-x"}))
    told = CliRunner().invoke(main, ["doctor"], env=home)
    assert told.exit_code == 1
    assert f"FAILED   pipelines              {file}, line 14: solution.recipe: " in told.output


def test_a_misspelt_setting_fails(home: dict[str, str]) -> None:
    found = by_check(examine({**home, "BATCHREC_STORGE": "s3://bucket/x"}))
    assert found["settings"].message == "nothing reads BATCHREC_STORGE"
    assert "BATCHREC_STORAGE is meant" in found["settings"].fix


def test_without_dagsters_home_it_is_told(home: dict[str, str], tmp_path: Path) -> None:
    found = by_check(examine({**home, "DAGSTER_HOME": ""}))
    assert found["dagster home"].status == "failed"
    found = by_check(examine({**home, "DAGSTER_HOME": str(tmp_path / "no")}))
    assert "is not writable: No such file" in found["dagster home"].message


def test_a_dagster_storage_that_does_not_open_is_told(home: dict[str, str]) -> None:
    (Path(home["DAGSTER_HOME"]) / "dagster.yaml").write_text("storage: {tape: {}}\n")
    found = by_check(examine(home))
    assert found["dagster storage"].status == "failed"
    assert "dagster.yaml" in found["dagster storage"].fix


def test_a_home_without_locks_or_room_or_a_whole_catalogue_is_told(
    home: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home/personalize").mkdir(parents=True)
    (tmp_path / "home/personalize/catalog.sqlite").write_bytes(b"no database" * 100)
    monkeypatch.setattr(
        machine, "shutil", SimpleNamespace(disk_usage=lambda path: SimpleNamespace(free=10**8))
    )
    found = by_check(examine(home))
    assert "is damaged" in found["embedded personalize"].message
    assert found["disk"].status == "failed"
    assert "0.1 GB are free" in found["disk"].message

    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    found = by_check(examine(home))
    assert "takes no locks: Operation not supported" in found["embedded personalize"].message


def test_a_bucket_that_can_be_used_is_well(
    home: dict[str, str], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = on_s3(home, s3, OWNER, s3.new_bucket(), monkeypatch)
    assert {finding.status for finding in found.values()} <= {"ok", "warning"}
    assert found["clock"].status == "ok"
    assert found.keys() >= {"bucket", "storage write", "storage delete"}


@pytest.mark.parametrize(
    ("keys", "check", "said"),
    [
        (READER, "storage write", "allow these credentials s3:PutObject on arn:aws:s3:::"),
        (STRANGER, "storage write", "AWS does not know the credentials"),
    ],
)
def test_a_bucket_that_refuses_is_named_with_its_fix(
    home: dict[str, str],
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    keys: Any,
    check: str,
    said: str,
) -> None:
    found = on_s3(home, s3, keys, s3.new_bucket(), monkeypatch)
    assert found[check].status == "failed"
    assert said in found[check].fix
    assert "storage delete" not in found


def test_a_bucket_that_is_not_there_or_not_reached_is_told(
    home: dict[str, str], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = on_s3(home, s3, OWNER, "no-such-bucket", monkeypatch)
    assert found["bucket"].message == "there is no bucket no-such-bucket"
    assert "storage write" not in found
    nobody = replace(s3, endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")
    found = on_s3(home, nobody, OWNER, "bucket", monkeypatch)
    assert "was not reached" in found["bucket"].message


def on_s3(
    home: dict[str, str], s3: S3Server, keys: Any, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Finding]:
    environment = {**home, **s3.environment(keys), "BATCHREC_STORAGE": f"s3://{bucket}/x"}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return by_check(examine(environment))


@pytest.mark.parametrize(
    ("off", "status", "said"),
    [(0, "ok", "agrees"), (-40, "warning", "40 s behind"), (900, "failed", "900 s ahead")],
)
def test_a_clock_that_is_off_is_told(off: int, status: str, said: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = clock(format_datetime(now), now + timedelta(seconds=off))
    assert found.status == status
    assert said in found.message
    assert clock(None, now).status == "unknown"


def test_a_personalize_at_a_url_is_asked(
    home: dict[str, str], personalize: StartedPersonalize, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in personalize.environment.items():
        monkeypatch.setenv(name, value)
    url = personalize.endpoint_url
    assert by_check(examine({**home, "BATCHREC_PERSONALIZE": url}))["personalize"].status == "ok"
    nobody = f"http://127.0.0.1:{free_ports(1)[0]}"
    found = by_check(examine({**home, "BATCHREC_PERSONALIZE": nobody}))["personalize"]
    assert found.status == "failed"
    assert "batchrec local-personalize" in found.fix


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
        real = clients.client

        def examined(*, refuse: tuple[str, ...] = (), **settings: str) -> dict[str, Finding]:
            def client(deployment: Deployment, service: str) -> Any:
                if service == "personalize":
                    made: Any = personalize.client
                else:
                    made = real(deployment, service)
                # moto works out no policies.
                made.meta.events.register("before-call.iam.SimulatePrincipalPolicy", worked_out)
                for operation in ("ListServiceQuotas", *refuse):  # moto has no quotas
                    made.meta.events.register(f"before-call.*.{operation}", denied)
                return made

            monkeypatch.setattr(aws, "client", client)
            environment = {
                "BATCHREC_PERSONALIZE": "aws",
                "BATCHREC_STORAGE": f"s3://{BUCKET}/batchrec",
                "BATCHREC_ROLE_ARN": ROLE,
                "AWS_REGION": REGION,
                **settings,
            }
            return by_check(aws.aws_findings(Deployment.from_environment(environment)))

        yield examined


def worked_out(params: Any, **_: Any) -> Any:
    """What IAM says of the role: it may do all but what is in LACKS."""
    asked = [value for key, value in params["body"].items() if key.startswith("ActionNames")]
    results = [
        {"EvalActionName": each, "EvalDecision": "implicitDeny" if each in LACKS else "allowed"}
        for each in asked
    ]
    return SimpleNamespace(status_code=200), {"EvaluationResults": results}


def denied(model: Any, **_: Any) -> None:
    error = {"Code": "AccessDenied", "Message": "no"}
    raise ClientError({"Error": error}, model.name)  # type: ignore[typeddict-item]


def test_an_account_made_by_the_template_is_well(
    account: Callable[..., dict[str, Finding]],
) -> None:
    found = account()
    assert {check: each.message for check, each in found.items() if each.status != "ok"} == {}
    assert found.keys() >= {"region", "identity", "personalize", "role", "bucket policy"}
    assert found["quota of dataset groups"].message == "0 of 5 used"


def test_what_may_not_be_looked_at_is_unknown_with_the_permission(
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


def test_a_role_that_is_not_there_or_is_another_account_s_fails(
    account: Callable[..., dict[str, Finding]],
) -> None:
    found = account(BATCHREC_ROLE_ARN=f"arn:aws:iam::{ACCOUNT}:role/Nobody")
    assert found["role"].message == "there is no role Nobody"
    found = account(BATCHREC_ROLE_ARN="arn:aws:iam::999999999999:role/Personalize")
    assert "is of account 999999999999" in found["identity"].message


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
    assert found["role"].message == f"{SERVICE} may not assume {ROLE}"
    assert "s3:ListBucket, s3:GetObject, s3:PutObject" in found["bucket policy"].message


def test_a_role_that_may_not_write_fails(
    account: Callable[..., dict[str, Finding]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchrec_dagster_tests.test_doctor.LACKS", {"s3:PutObject"})
    found = account()["role in storage"]
    assert found.message == f"{ROLE} may not s3:PutObject"
    assert f"on arn:aws:s3:::{BUCKET}" in found.fix


@pytest.mark.parametrize("region", ["", "mars-north-1"])
def test_a_region_without_personalize_fails(
    account: Callable[..., dict[str, Finding]], region: str
) -> None:
    found = account(AWS_REGION=region)["region"] if region else None
    if found is None:
        here = Deployment.from_environment({})
        found = aws._region(here)
    assert found.status == "failed"
    assert "eu-west-1" in found.fix


def test_a_quota_that_is_used_up_warns() -> None:
    def listed(member: str, status: str) -> Callable[..., dict[str, Any]]:
        return lambda **_: {member: [{"status": status}] * 5}

    personalize = SimpleNamespace(
        list_dataset_groups=listed("datasetGroups", "ACTIVE"),
        list_schemas=listed("schemas", "ACTIVE"),
        list_dataset_import_jobs=listed("datasetImportJobs", "CREATE IN_PROGRESS"),
        list_batch_inference_jobs=listed("batchInferenceJobs", "ACTIVE"),
    )
    applied = [{"Quotas": [{"QuotaName": "Batch inference jobs", "Value": 7.0}]}]
    quotas = SimpleNamespace(
        get_paginator=lambda name: SimpleNamespace(paginate=lambda **_: applied)
    )
    found = by_check(quota_findings(personalize, quotas))
    assert {
        check.removeprefix("quota of "): (one.status, one.message) for check, one in found.items()
    } == {
        "dataset groups": (
            "warning",
            "5 of 5 used: no new pipeline, or schema, can be made",
        ),
        "schemas": ("ok", "5 of 500 used"),
        "imports": ("warning", "5 of 5 at work"),
        "batch inferences": ("ok", "0 of 7 at work"),
    }


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
    assert lacks({"Statement": statements}, SERVICE, ACCOUNT, [pair]) == [pair] * lacking
