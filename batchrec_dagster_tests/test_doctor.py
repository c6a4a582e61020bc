"""`batchrec doctor` on this machine, a real S3 server, and an AWS account faked by moto."""

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
from batchrec_dagster.doctor.aws import conditional_denies, lacks, quota_findings
from batchrec_dagster.doctor.storage import clock
from batchrec_dagster.local_personalize.api.client import QUOTAS_VARIABLE, embedded_client
from batchrec_dagster.storage.object_store import ObjectStore
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
def _clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
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
    """The settings of a healthy machine."""
    dagster = tmp_path / "dagster"
    dagster.mkdir()
    (dagster / "dagster.yaml").touch()
    return {"BATCHREC_HOME": str(tmp_path / "home"), "DAGSTER_HOME": str(dagster)}


def by_check(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {finding.check: finding for finding in findings}


def test_a_healthy_machine_passes(home: dict[str, str], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["doctor"], env=home)
    assert result.exit_code == 0, result.output
    assert "FAILED" not in result.output
    assert "settings" in result.output
    as_json = CliRunner().invoke(main, ["doctor", "--json"], env=home)
    found = {each["check"]: each for each in json.loads(as_json.output)}
    assert found.keys() >= {
        *("settings", "dagster home", "dagster storage", "home", "embedded personalize", "disk"),
        *("storage write", "storage lease", "storage list", "storage read", "storage delete"),
        "pipelines",
    }
    assert found["dagster storage"]["message"] == "0 runs in SqliteRunStorage"
    assert list((tmp_path / "home/storage").iterdir()) == []


def test_the_quotas_of_the_embedded_personalize_are_counted(
    home: dict[str, str], tmp_path: Path
) -> None:
    client = embedded_client(tmp_path / "home/personalize", ObjectStore())
    client.create_dataset_group(name="films")
    found = by_check(examine(home))
    assert found["quota of dataset groups"].message == "1 of 50 used"
    assert found["quota of schemas"] == Finding("quota of schemas", "ok", "0 of 500 used")
    assert found["quota of solutions in a dataset group"].message == "0 of 10 used"
    found = by_check(examine({**home, QUOTAS_VARIABLE: "dataset_groups=1"}))
    assert found["quota of dataset groups"].status == "warning"
    assert f"{QUOTAS_VARIABLE}=dataset_groups=2" in found["quota of dataset groups"].fix


def test_settings_are_read_from_dot_env(home: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("BATCHREC_PERSONALIZE=moto\n")
    result = CliRunner().invoke(main, ["doctor"], env=home)
    assert result.exit_code == 1
    assert "BATCHREC_PERSONALIZE is 'moto'" in result.output


def test_invalid_declarations_fail(home: dict[str, str], tmp_path: Path) -> None:
    project = module_project(tmp_path)
    project.declare(declaration("shop", "ratings.csv"))
    result = CliRunner().invoke(main, ["doctor"], env=home)
    assert result.exit_code == 0, result.output
    file = project.declare(declaration("shop", "ratings.csv", solution={"recipe": "aws-x"}))
    result = CliRunner().invoke(main, ["doctor"], env=home)
    assert result.exit_code == 1
    assert f"FAILED   pipelines              {file}, line 14: solution.recipe: " in result.output


def test_a_misspelt_setting_fails(home: dict[str, str]) -> None:
    found = by_check(examine({**home, "BATCHREC_STORGE": "s3://bucket/x"}))
    assert "BATCHREC_STORGE" in found["settings"].message
    assert "BATCHREC_STORAGE" in found["settings"].fix


def test_a_missing_dagster_home_fails(home: dict[str, str], tmp_path: Path) -> None:
    found = by_check(examine({**home, "DAGSTER_HOME": ""}))
    assert found["dagster home"].status == "warning"
    assert f"{tmp_path / 'home' / 'dagster'}" in found["dagster home"].fix
    found = by_check(examine({**home, "DAGSTER_HOME": str(tmp_path / "no")}))
    assert "is not writable: No such file" in found["dagster home"].message


def test_a_home_that_everybody_can_read_is_a_warning(home: dict[str, str]) -> None:
    dagster = Path(home["DAGSTER_HOME"])
    for mode, status in ((0o755, "warning"), (0o770, "ok"), (0o700, "ok")):
        dagster.chmod(mode)
        found = by_check(examine(home))
        assert (found["dagster home"].status, found["home"].status) == (status, "ok")
        assert found["dagster home"].fix.startswith(f"chmod 700 {dagster}" if mode & 7 else "")
    assert Path(home["BATCHREC_HOME"]).stat().st_mode & 0o777 == 0o700


def test_a_dagster_storage_that_does_not_open_fails(home: dict[str, str]) -> None:
    (Path(home["DAGSTER_HOME"]) / "dagster.yaml").write_text("storage: {tape: {}}\n")
    found = by_check(examine(home))
    assert found["dagster storage"].status == "failed"
    assert "dagster.yaml" in found["dagster storage"].fix


def test_missing_locks_a_full_disk_and_a_damaged_catalogue_fail(
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
    assert "0.1 GB free" in found["disk"].message

    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    found = by_check(examine(home))
    assert "file locks: Operation not supported" in found["embedded personalize"].message


def test_a_usable_bucket_passes(
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


def test_a_missing_or_unreachable_bucket_fails(
    home: dict[str, str], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = on_s3(home, s3, OWNER, "no-such-bucket", monkeypatch)
    assert "no-such-bucket" in found["bucket"].message
    assert "storage write" not in found
    nobody = replace(s3, endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")
    found = on_s3(home, nobody, OWNER, "bucket", monkeypatch)
    assert "cannot reach s3://bucket" in found["bucket"].message


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
def test_a_wrong_clock_is_reported(off: int, status: str, said: str) -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    found = clock(format_datetime(now), now + timedelta(seconds=off))
    assert found.status == status
    assert said in found.message
    assert clock(None, now).status == "unknown"


def test_a_personalize_at_a_url_is_checked(
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
                # moto has no policy simulator.
                made.meta.events.register("before-call.iam.SimulatePrincipalPolicy", simulated)
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
    monkeypatch.setattr("batchrec_dagster_tests.test_doctor.LACKS", {"s3:PutObject"})
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
        found = aws._region(here)
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
    found = by_check(quota_findings(personalize, quotas))
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
        return conditional_denies(policy, SERVICE, wanted)

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
    assert lacks({"Statement": statements}, SERVICE, ACCOUNT, [pair]) == [pair] * lacking
