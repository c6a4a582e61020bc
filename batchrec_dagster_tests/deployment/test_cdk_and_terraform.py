"""The template in a CDK app and in Terraform, as docs/aws-cdk-terraform.md shows it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import hcl2
import pytest

from batchrec_dagster_tests.deployment.template import FILE, read_template
from batchrec_dagster_tests.repository.typed_pages import list_code_blocks
from batchrec_dagster_tests.support import REPOSITORY

PAGE = REPOSITORY / "docs" / "aws-cdk-terraform.md"
# Its node_modules have the CDK.
CDK = Path(__file__).parent / "cdk"
# The arguments of aws_cloudformation_stack, in the documentation of Terraform's provider for AWS.
ARGUMENTS = {
    *("name", "template_body", "template_url", "parameters", "capabilities", "tags"),
    *("disable_rollback", "iam_role_arn", "notification_arns", "on_failure"),
    *("policy_body", "policy_url", "timeout_in_minutes"),
}
# What CloudFormation takes as the text of a template, in bytes.
MAX_TEMPLATE_BYTES = 51_200


def read_block(language: str) -> str:
    """The page's one block of code in this language."""
    (text,) = (text for name, text in list_code_blocks(PAGE) if name == language)
    return text


def write_long_form(value: Any, parameters: Mapping[str, str]) -> Any:
    """The template's value with each function's long name, and with the values of parameters."""
    match value:
        case {"!Ref": name}:
            return parameters.get(name, {"Ref": name})
        case {"!GetAtt": name}:
            return {"Fn::GetAtt": name.split(".")}
        case {"Fn::GetAtt": str() as name}:
            return {"Fn::GetAtt": name.split(".")}
        case dict():
            return {
                re.sub("^!", "Fn::", key): write_long_form(element, parameters)
                for key, element in value.items()
            }
        case list():
            return [write_long_form(element, parameters) for element in value]
    return value


@pytest.fixture(scope="module")
def cdk_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the CDK makes of the page's app."""
    if shutil.which("npx") is None or not (CDK / "node_modules").is_dir():
        pytest.skip(f"install Node.js 20 or newer, and run: npm ci --prefix {CDK}")
    root = tmp_path_factory.mktemp("cdk")
    (root / "node_modules").symlink_to(CDK / "node_modules")
    (root / "deploy").symlink_to(FILE.parent)
    (root / "batchrec.mjs").write_text(read_block("javascript"))
    # It asks nobody: no account, no notices, no newer version.
    (root / ".cdk.json").write_text(json.dumps({"notices": False, "cli-telemetry": False}))
    (command,) = re.findall(r"(?m)^npx cdk synth .*$", PAGE.read_text())
    nobody = {name: value for name, value in os.environ.items() if "AWS" not in name}
    result = subprocess.run(
        [*shlex.split(command), "--quiet"],
        cwd=root,
        env={
            **nobody,
            "HOME": str(root),
            "AWS_EC2_METADATA_DISABLED": "true",
            "npm_config_offline": "true",
        },
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return root / "cdk.out" / "batchrec.template.json"


@pytest.mark.slow
def test_the_cdk_s_resources_are_the_template_s(cdk_template: Path) -> None:
    template, synthesized = read_template(), json.loads(cdk_template.read_text())
    parameters = dict(re.findall(r'(?m)^    (\w+): "(.*)",$', read_block("javascript")))
    assert parameters.keys() == {"RunnerService", "AlertEmail", "Tags"}
    assert parameters.keys() == template["Parameters"].keys() - synthesized["Parameters"].keys()
    for name, resource in template["Resources"].items():
        resource_by_cdk = write_long_form(synthesized["Resources"].pop(name), {})
        assert resource_by_cdk == write_long_form(resource, parameters), name
    assert synthesized["Outputs"].keys() == template["Outputs"].keys()
    # What is left are the app's own: the runner's reading of a source, and what the CDK counts.
    policy, _ = synthesized["Resources"].values()
    assert "CDKMetadata" in synthesized["Resources"]
    assert "shop-exports/orders/*" in json.dumps(policy)
    assert "RunnerRole" in json.dumps(policy["Properties"]["Roles"])


@pytest.mark.slow
def test_cloudformation_s_linter_finds_no_error_in_what_the_cdk_makes(cdk_template: Path) -> None:
    """It warns of conditions whose parameter has a value, as the page says."""
    linter = str(Path(sys.executable).with_name("cfn-lint"))
    command = [linter, "--non-zero-exit-code", "error", str(cdk_template)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def read_terraform() -> dict[str, dict[str, Any]]:
    """The page's resources, by their types, and its outputs as `output`."""
    options = hcl2.SerializationOptions(
        strip_string_quotes=True, with_comments=False, explicit_blocks=False
    )
    content = hcl2.loads(read_block("terraform"), serialization_options=options)
    resources = {
        resource_type: resource
        for block in content["resource"]
        for resource_type, named in block.items()
        for resource in named.values()
    }
    return {**resources, "output": content["output"][0]}


def test_terraform_s_stack_is_of_the_template_and_its_parameters() -> None:
    stack = read_terraform()["aws_cloudformation_stack"]
    assert stack.keys() <= ARGUMENTS
    (path,) = re.findall(r"\$\{path\.module\}/([\w./]+)", stack["template_body"])
    assert REPOSITORY / path == FILE
    assert FILE.stat().st_size < MAX_TEMPLATE_BYTES
    assert stack["capabilities"] == ["CAPABILITY_IAM"]
    parameters = read_template()["Parameters"]
    for name, value in stack["parameters"].items():
        parameter = parameters[name]
        assert value in parameter.get("AllowedValues", [value])
        assert re.fullmatch(parameter.get("AllowedPattern", ".*"), value)
    assert stack["parameters"]["Tags"] == ",".join(
        f"{key}={value}" for key, value in stack["tags"].items()
    )


def test_terraform_reads_outputs_that_the_stack_has() -> None:
    text = read_block("terraform")
    outputs = re.findall(r'\.outputs\["(\w+)"\]', text)
    assert outputs == ["RunnerRoleArn", "Environment"]
    assert set(outputs) <= read_template()["Outputs"].keys()
    assert read_terraform()["output"].keys() == {"environment"}
    assert "terraform output -raw environment" in PAGE.read_text()


def test_terraform_s_policy_is_json_that_names_actions_of_s3() -> None:
    policy = read_terraform()["aws_iam_role_policy"]["policy"]
    actions = re.findall(r'Action\s*= "(\S+)"', policy)
    assert actions == ["s3:GetObject", "s3:ListBucket"]
