"""Tests of a new project's AWS stack, and of the docs' commands that create it."""

from __future__ import annotations

import io
import json
import re
import shlex
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
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

OF_THIS_ACCOUNT = {"StringEquals": {"aws:SourceAccount": ACCOUNT}}
EVERYTHING = {
    "Glue": "yes",
    "DynamoTable": "lists",
}


@pytest.fixture
def account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Mock an empty AWS account."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    with mock_aws():
        yield


def deploy(parameters: dict[str, str]) -> dict[str, str]:
    """Deploy the stack, and return its outputs by name."""
    cloudformation = boto3.client("cloudformation")
    cloudformation.create_stack(
        StackName="batchrec",
        TemplateBody=FILE.read_text(),
        Parameters=[
            {"ParameterKey": key, "ParameterValue": value} for key, value in parameters.items()
        ],
        Capabilities=["CAPABILITY_NAMED_IAM"],
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
    """Return whether the environment accepts the settings among the outputs."""
    lines = outputs["Environment"].strip().splitlines()
    settings = dict(line.split("=", 1) for line in lines)
    assert settings["BATCHREC_PERSONALIZE"] == "aws"
    assert settings["BATCHREC_STORAGE"] == outputs["Storage"]
    assert settings["BATCHREC_ROLE_ARN"] == outputs["PersonalizeRoleArn"]
    environment = {**settings, "BATCHREC_HOME": str(folder)}
    result = CliRunner().invoke(main, ["check", "--offline"], env=environment)
    return re.search("^✓ ok .* settings", result.output, re.MULTILINE) is not None


@pytest.mark.usefixtures("account")
@pytest.mark.parametrize("parameters", [{}, {"Tags": "team=data,cost-center=42"}])
def test_the_stack_s_outputs_are_the_settings(parameters: dict[str, str], tmp_path: Path) -> None:
    outputs = deploy(parameters)
    assert are_taken(outputs, tmp_path)
    assert f"AWS_REGION={REGION}" in outputs["Environment"]
    assert ("cost-center=42" in outputs["Environment"]) == bool(parameters)
    assert "GlueJobName" not in outputs


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
    # No rule expires a current object, because only pipelines know which files editions need.
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
        # Rules for deleted versions, for their delete markers, and for aborted uploads.
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
@pytest.mark.parametrize("service", ["ec2.amazonaws.com", "ecs-tasks.amazonaws.com"])
def test_the_stack_with_everything_has_an_instance_profile_for_ec2_alone(service: str) -> None:
    deploy({**EVERYTHING, "RunnerService": service})
    profiles = boto3.client("iam").list_instance_profiles()["InstanceProfiles"]
    names = [profile["InstanceProfileName"] for profile in profiles]
    assert names == (["batchrec-runner"] if service.startswith("ec2") else [])


def test_the_machine_s_role_has_what_a_shell_without_open_ports_needs() -> None:
    session_manager = "arn:aws:iam::aws:policy/AmazonSSMManagedInstanceCore"
    assert session_manager in resolve_stack()["RunnerRole"]["ManagedPolicyArns"]
    on_ecs = resolve_stack(RunnerService="ecs-tasks.amazonaws.com")
    assert on_ecs["RunnerRole"]["ManagedPolicyArns"] == ["<RunnerPolicy>"]


def test_a_glue_job_has_a_role_of_its_own() -> None:
    resources = resolve_stack(**EVERYTHING)
    assert resources["GlueJob"]["Role"] == "<GlueRole.Arn>"
    (trust,) = resources["GlueRole"]["AssumeRolePolicyDocument"]["Statement"]
    assert trust["Principal"] == {"Service": "glue.amazonaws.com"}
    assert trust["Condition"] == OF_THIS_ACCOUNT
    assert not {"GlueJob", "GlueRole"} & resolve_stack().keys()


@pytest.mark.parametrize(
    ("policy", "actions"),
    [
        (
            "RunnerTablePolicy",
            "dynamodb:BatchWriteItem dynamodb:DescribeTable dynamodb:DescribeTimeToLive"
            " dynamodb:ListTagsOfResource dynamodb:TagResource",
        ),
        (
            "RunnerGluePolicy",
            "glue:BatchStopJobRun glue:GetJob glue:GetJobRun glue:StartJobRun",
        ),
    ],
)
def test_an_optional_policy_allows_the_actions_it_is_for(policy: str, actions: str) -> None:
    (statement,) = resolve_stack(**EVERYTHING)[policy]["PolicyDocument"]["Statement"]
    assert sorted(read_actions(statement)) == actions.split()


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
        # All pipelines are below this prefix, and so are all objects that their retention deletes.
        if "s3:DeleteObject" in read_actions(statement):
            assert statement["Resource"] == f"arn:aws:s3:::{BUCKET}/batchrec/*"


def read_first_night() -> list[str]:
    """Return the page's commands, from the account to the first night's lists, by line."""
    page = (REPOSITORY / "docs" / "aws.md").read_text()
    section = page.partition("\n## The first night\n")[2].partition("\n## ")[0]
    blocks = re.findall(r"(?ms)^```bash\n(.*?)^```", section)
    return [line for block in blocks for line in block.replace("\\\n", "").splitlines()]


def test_fifteen_commands_lead_from_the_account_to_the_first_night() -> None:
    commands = read_first_night()
    assert len(commands) <= 15
    assert commands[0].startswith("export AWS_REGION=")
    assert any(command.endswith("batchrec run shop") for command in commands)


@pytest.mark.usefixtures("account")
def test_the_commands_of_the_own_machine_make_the_stack_and_bring_the_project_to_a_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Only commands without a session on the machine are run."""
    from awscli.clidriver import create_clidriver

    folder = tmp_path / "brought"
    CliRunner().invoke(main, ["init", str(folder)])
    monkeypatch.chdir(folder)
    commands = read_first_night()
    is_ours = [not command.startswith("aws ssm start-session") for command in commands]
    for command in commands[: is_ours.index(False)]:
        with_bucket = command.replace("the-bucket", read_settings(folder).get("bucket", ""))
        words, _, file = with_bucket.partition(" >> ")
        program, *arguments = shlex.split(words.replace("/tmp/", f"{tmp_path}/"))
        if program == "export":
            monkeypatch.setenv(*arguments[0].split("=", 1))
        elif program == "batchrec":
            result = CliRunner().invoke(main, [*arguments, "--offline"], env=read_settings(folder))
            assert re.search("^✓ ok .* settings", result.output, re.MULTILINE), result.output
        elif program == "tar":
            subprocess.run([program, *arguments], check=True)
        else:
            capfd.readouterr()
            assert create_clidriver().main(arguments) == 0, capfd.readouterr().err
            if "deploy" in arguments:
                # moto gives no outputs to a stack of the deploy command.
                boto3.client("cloudformation").update_stack(
                    StackName="batchrec", TemplateBody=FILE.read_text()
                )
            if file:
                with (folder / file).open("a") as env:
                    env.write(capfd.readouterr().out)
    (reservation,) = boto3.client("ec2").describe_instances()["Reservations"]
    (machine,) = reservation["Instances"]
    assert machine["IamInstanceProfile"]["Arn"].endswith("/batchrec-runner")
    archive = boto3.client("s3").get_object(
        Bucket=read_settings(folder)["bucket"], Key="batchrec/install/project.tar.gz"
    )
    with tarfile.open(fileobj=io.BytesIO(archive["Body"].read())) as brought:
        names = {name.removeprefix("./") for name in brought.getnames()}
    assert {"Dockerfile", ".dockerignore", "compose.yaml", "brought/definitions.py"} <= names
    assert {"wheels", "constraints.txt", "deploy/dagster.yaml"} <= names
    assert ".env" not in names


def read_settings(folder: Path) -> dict[str, str]:
    """Return the settings in the project's .env and, if it exists, the name of the `bucket`."""
    lines = (folder / ".env").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in lines if re.match(r"\w+=", line))
    if "BATCHREC_STORAGE" in settings:
        settings["bucket"] = settings["BATCHREC_STORAGE"].split("/")[2]
    return settings


def test_the_parameters_of_the_page_are_the_template_s() -> None:
    page = (REPOSITORY / "docs" / "aws.md").read_text()
    template = FILE.read_text()
    documented_parameters = re.findall(
        r"(?m)^  (\w+):\n    Type: (?:String|Number)\n    Default: \"?([^\"\n]*)", template
    )
    rows = re.findall(r"(?m)^\| `(\w+)` \| `?([\w.-]*)`? ?\|", page)
    assert rows == documented_parameters
