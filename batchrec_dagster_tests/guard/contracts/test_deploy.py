"""What lies under deploy/: the AWS template, the image, the services that compose.yaml starts."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from click.testing import CliRunner
from moto import mock_aws

from batchrec_dagster.cli import main
from batchrec_dagster_tests.guard.builders import REPOSITORY
from batchrec_dagster_tests.guard.oracles.template import (
    ACCOUNT,
    BUCKET,
    FILE,
    REGION,
    list_runner_statements,
    read_actions,
    resolve_stack,
)

pytestmark = pytest.mark.slow

DEPLOY = REPOSITORY / "deploy"
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
OF_THIS_ACCOUNT = {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
OURS = ("code_location", "webserver", "daemon")
EVERYTHING = {
    "Glue": "yes",
    "DynamoTable": "lists",
    "RunnerService": "ec2.amazonaws.com",
}


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An empty AWS account."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        yield


def deploy(parameters: dict[str, str]) -> dict[str, str]:
    """The outputs of the stack, by their names."""
    cloudformation = boto3.client("cloudformation")
    cloudformation.create_stack(
        StackName="batchrec",
        TemplateBody=FILE.read_text(),
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    (stack,) = cloudformation.describe_stacks(StackName="batchrec")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    return {output["OutputKey"]: output["OutputValue"] for output in stack["Outputs"]}


def test_cloudformation_s_linter_finds_nothing() -> None:
    result = subprocess.run(
        [str(Path(sys.executable).with_name("cfn-lint")), str(FILE)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.stdout + result.stderr == ""


def are_taken(outputs: dict[str, str], folder: Path) -> bool:
    """Whether the settings among the outputs are ones of an environment."""
    lines = outputs["Environment"].strip().splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    assert settings["BATCHREC_PERSONALIZE"] == "aws"
    assert settings["BATCHREC_STORAGE"] == outputs["Storage"]
    assert settings["BATCHREC_ROLE_ARN"] == outputs["PersonalizeRoleArn"]
    environment = {**settings, "BATCHREC_HOME": str(folder)}
    result = CliRunner().invoke(main, ["check", "--offline"], env=environment)
    return re.search("^ok +settings", result.output, re.MULTILINE) is not None


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("parameters", [{}, {"Tags": "team=data,cost-center=42"}])
def test_the_stack_s_outputs_are_the_settings(parameters: dict[str, str], tmp_path: Path) -> None:
    outputs = deploy(parameters)
    assert are_taken(outputs, tmp_path)
    assert f"AWS_REGION={REGION}" in outputs["Environment"]
    assert ("cost-center=42" in outputs["Environment"]) == bool(parameters)
    assert not {"GlueJobName", "RunnerProfileName"} & outputs.keys()


@pytest.mark.parametrize(
    ("tags", "is_allowed"),
    [
        ("", True),
        ("team=data,cost-center=42", True),
        ("Cost Center=r 2,url=https://x?a=b,empty=", True),
        ("team", False),
        ("=data", False),
        ("team=data,", False),
        ("team=data\nBATCHREC_PERSONALIZE=embedded", False),
    ],
)
def test_the_template_takes_pairs_as_tags(tags: str, is_allowed: bool) -> None:
    (pattern,) = re.findall(r"(?ms)^  Tags:.*?^    AllowedPattern: (\S+)$", FILE.read_text())
    assert bool(re.fullmatch(pattern, tags)) == is_allowed


def test_the_bucket_is_private_encrypted_and_versioned_and_keeps_what_is_current() -> None:
    bucket = resolve_stack()["Bucket"]
    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    (rule,) = bucket["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert rule["ServerSideEncryptionByDefault"] == {"SSEAlgorithm": "AES256"}
    rules = bucket["LifecycleConfiguration"]["Rules"]
    assert {key for rule in rules for key in rule} == {
        *("Id", "Status", "Prefix", "NoncurrentVersionExpiration"),
        *("ExpiredObjectDeleteMarker", "AbortIncompleteMultipartUpload"),
    }


def test_the_lifecycle_ends_what_retention_deletes_and_nothing_else() -> None:
    rules = resolve_stack()["Bucket"]["LifecycleConfiguration"]["Rules"]
    assert {rule["Status"] for rule in rules} == {"Enabled"}
    # No rule expires or moves a current object: only the pipelines know what an edition needs.
    assert not any({"ExpirationInDays", "ExpirationDate"} & rule.keys() for rule in rules)
    deleted_prefixes = [
        *("shop/raw/", "shop/transformed/", "shop/records/", "shop/curated/batch_inference/"),
        *("shop/curated/history/recommendations/", "shop/lists/newsletter/curated/history/"),
    ]
    for prefix in deleted_prefixes:
        kinds = {
            kind
            for rule in rules
            for kind in rule
            if f"batchrec/{prefix}".startswith(rule.get("Prefix", ""))
        }
        # Versions that were deleted, then the marks of their deletion; and uploads that broke off.
        assert kinds >= {
            *("NoncurrentVersionExpiration", "ExpiredObjectDeleteMarker"),
            "AbortIncompleteMultipartUpload",
        }


def test_the_bucket_is_for_this_account_s_personalize_alone() -> None:
    resources = resolve_stack()
    deny, *allow_statements = resources["BucketPolicy"]["PolicyDocument"]["Statement"]
    assert deny["Effect"] == "Deny"
    assert deny["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert [(statement["Principal"], statement["Condition"]) for statement in allow_statements] == [
        ({"Service": "personalize.amazonaws.com"}, OF_THIS_ACCOUNT)
    ] * 2
    (trust,) = resources["PersonalizeRole"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Condition"] == {
        **OF_THIS_ACCOUNT,
        "ArnLike": {"aws:SourceArn": f"arn:aws:personalize:{REGION}:{ACCOUNT}:*"},
    }


def test_without_conditions_the_policies_are_the_documented_ones() -> None:
    resources = resolve_stack(SourceConditions="no")
    _, *statements = resources["BucketPolicy"]["PolicyDocument"]["Statement"]
    assert len(statements) == 2
    assert not any("Condition" in statement for statement in statements)


@pytest.mark.usefixtures("account")
def test_with_everything_the_stack_has_an_instance_profile() -> None:
    assert "RunnerProfileName" in deploy(EVERYTHING)


def test_a_glue_job_has_a_role_of_its_own() -> None:
    resources = resolve_stack(**EVERYTHING)
    assert resources["GlueJob"]["Role"] == "<GlueRole.Arn>"
    (trust,) = resources["GlueRole"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "glue.amazonaws.com"}
    assert trust["Condition"] == OF_THIS_ACCOUNT
    assert not {"GlueJob", "GlueRole"} & resolve_stack().keys()


def test_the_runner_s_policy_is_within_iam_s_limit() -> None:
    document = resolve_stack(**EVERYTHING)["RunnerPolicy"]["PolicyDocument"]
    assert len(json.dumps(document, separators=(",", ":"))) <= 6144


def test_nobody_may_do_everything_or_reach_beyond_the_storage() -> None:
    resources = resolve_stack(**EVERYTHING)
    policies = [
        policy["PolicyDocument"]
        for name in ("PersonalizeRole", "GlueRole")
        for policy in resources[name]["Policies"]
    ]
    statements = [
        policy_statement for policy in policies for policy_statement in policy["Statement"]
    ]
    for statement in statements + list_runner_statements(**EVERYTHING):
        assert not [action for action in read_actions(statement) if "*" in action]
        if any(action.startswith("s3:") for action in read_actions(statement)):
            assert statement["Resource"].startswith(f"arn:aws:s3:::{BUCKET}")


def test_each_service_is_pinned_unprivileged_watched_and_only_heard_here() -> None:
    for name, service in COMPOSE["services"].items():
        assert service["healthcheck"]["test"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["read_only"], name
        assert service["restart"] == "unless-stopped", name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
    assert COMPOSE["services"]["postgres"]["user"] == "postgres"
    image = COMPOSE["services"]["postgres"]["image"]
    assert re.fullmatch(r"\$\{POSTGRES_IMAGE:-postgres:\d+\.\d+-\w+\}", image)


def test_only_the_code_location_reaches_beyond_the_machine() -> None:
    networks = COMPOSE["networks"]
    assert networks["inside"] == {"internal": True}
    bridge_option = "com.docker.network.bridge.enable_ip_masquerade"
    assert networks["page"]["driver_opts"] == {bridge_option: "false"}
    networks_by_service = {
        name: service["networks"] for name, service in COMPOSE["services"].items()
    }
    assert networks_by_service == {
        "postgres": ["inside"],
        "daemon": ["inside"],
        "webserver": ["inside", "page"],
        "code_location": ["inside", "outside"],
    }


def test_no_secret_stands_in_the_files() -> None:
    for path in DEPLOY.iterdir():
        for match in re.finditer(
            r"(?im)^[^:=\n]*(password|secret|token)\w*\s*[:=][ \t]*(\S.*)$", path.read_text()
        ):
            reference_starts = ("${", "{env:", "#", "[{name: ")
            assert match[2].startswith(reference_starts), f"{path.name}: {match[0]}"


def test_the_image_is_pinned_locked_and_not_root() -> None:
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    base = re.search(r"(?m)^ARG PYTHON=(python:3\.11\.\d+-slim-bookworm)$", dockerfile)
    assert base
    for name in OURS:  # by digest, if .env says so
        arguments = COMPOSE["services"][name]["build"]["args"]
        assert arguments == {"PYTHON": f"${{PYTHON_IMAGE:-{base[1]}}}"}
    assert "--require-hashes -r /opt/batchrec/requirements.lock" in dockerfile
    assert re.search(r"(?m)^USER 10001:10001$", dockerfile)
    assert "HEALTHCHECK" in dockerfile
    ignored_files = (DEPLOY / "Dockerfile.dockerignore").read_text()
    for line in re.findall(r"(?m)^COPY (?!--)(.+) \S+$", dockerfile):
        for source in line.split():
            assert (REPOSITORY / source).exists()
            assert f"\n!{source}\n" in ignored_files, f"{source} is kept out of the build"


@pytest.mark.parametrize("name", OURS)
def test_what_the_files_read_from_the_environment_is_given(name: str) -> None:
    service = COMPOSE["services"][name]
    command, environment = service["command"], service["environment"]
    assert Path(sys.executable).with_name(command[0]).exists()
    read = set(re.findall(r"env: (\w+)", (DEPLOY / "dagster.yaml").read_text()))
    if "workspace.yaml" in command:
        read |= set(re.findall(r"env: (\w+)", (DEPLOY / "workspace.yaml").read_text()))
    health = " ".join(service["healthcheck"]["test"])
    read |= set(re.findall(r"\$\$(\w+)", health))
    assert read <= environment.keys()


def test_only_the_code_location_has_settings_and_credentials() -> None:
    having = [name for name in COMPOSE["services"] if "env_file" in COMPOSE["services"][name]]
    assert having == ["code_location"]
    options: dict[str, Any] = COMPOSE["services"]["webserver"]["environment"]
    assert [key for key in options if key.startswith(("AWS_", "BATCHREC_"))] == [
        "BATCHREC_ALLOWED_HOSTS"
    ]


def test_the_webserver_stands_behind_the_guard() -> None:
    command = COMPOSE["services"]["webserver"]["command"]
    assert command[:3] == ["batchrec", "ui", "--no-daemon"]
    main([*command[1:3], "--help"], standalone_mode=False)


def test_the_parameters_of_the_page_are_the_template_s() -> None:
    page = (REPOSITORY / "docs" / "aws.md").read_text()
    template = FILE.read_text()
    documented_parameters = re.findall(
        r"(?m)^  (\w+):\n    Type: (?:String|Number)\n    Default: \"?([^\"\n]*)", template
    )
    rows = re.findall(r"(?m)^\| `(\w+)` \| `?([\w.-]*)`? ?\|", page)
    assert rows == documented_parameters
