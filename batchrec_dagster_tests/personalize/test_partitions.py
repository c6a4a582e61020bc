"""Tests of ARNs in China (partition aws-cn) and in AWS GovCloud (partition aws-us-gov)."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import boto3
import dagster as dg
import pytest

from batchrec_dagster.errors import UserError
from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.local_personalize.operations import solutions
from batchrec_dagster.local_personalize.trained_recipes import Recipe, get_recipe
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION, build_recipe_arn
from batchrec_dagster.pipeline import personalize_resource
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster.storage.permissions import find_partition
from batchrec_dagster_tests.guard.builders import (
    REPOSITORY,
    Project,
    declaration,
    metadata,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.oracles.template import FILE, resolve_stack
from batchrec_dagster_tests.guard.servers.s3 import READER, S3Server

OTHERS = {"aws-cn": "cn-north-1", "aws-us-gov": "us-gov-west-1"}
EVERYTHING = {
    "Glue": "yes",
    "DynamoTable": "lists",
    "RunnerService": "ec2.amazonaws.com",
}
in_other_partitions = pytest.mark.parametrize(("name", "region"), OTHERS.items())


@pytest.mark.parametrize("name", ["aws", *OTHERS])
def test_the_partition_of_a_region_is_what_aws_says(name: str) -> None:
    session = boto3.Session()
    regions = session.get_available_regions("s3", partition_name=name)
    assert regions
    assert {find_partition(region) for region in regions} == {name}
    assert find_partition(None) == "aws"


@pytest.mark.parametrize("name", OTHERS)
def test_each_arn_of_the_template_is_of_the_stack_s_partition(name: str) -> None:
    text = json.dumps(resolve_stack(name, **EVERYTHING))
    partitions = re.findall(r"arn:([\w-]+):", text)
    assert len(partitions) > 10
    assert set(partitions) == {name}
    assert "arn:aws:" not in FILE.read_text()


def test_ec2_in_china_has_a_name_of_its_own() -> None:
    names = {
        name: resolve_stack(name, RunnerService="ec2.amazonaws.com")["RunnerRole"][
            "AssumeRolePolicyDocument"
        ]["Statement"][0]["Principal"]["Service"]
        for name in OTHERS
    }
    assert names == {"aws-cn": "ec2.amazonaws.com.cn", "aws-us-gov": "ec2.amazonaws.com"}


def list_arn_templates(path: Path) -> Iterator[str]:
    """Yield a module's f-strings that write an ARN with the fixed partition `aws`."""
    code = path.read_text()
    for node in ast.walk(ast.parse(code if "arn:aws:" in code else "")):
        if isinstance(node, ast.JoinedStr):
            for part, after in zip(node.values, node.values[1:], strict=False):
                text = str(part.value) if isinstance(part, ast.Constant) else ""
                if isinstance(after, ast.FormattedValue) and re.search(r"arn:aws:\S*$", text):
                    yield f"{path.name}:{node.lineno}: {text}"


def test_no_code_makes_an_arn_of_the_partition_aws_alone(tmp_path: Path) -> None:
    example = tmp_path / "example.py"
    example.write_text('place = f"on arn:aws:s3:::{bucket}"\n')
    assert list(list_arn_templates(example))
    modules = sorted((REPOSITORY / "batchrec_dagster").rglob("*.py"))
    assert [arn for path in modules for arn in list_arn_templates(path)] == []


@pytest.mark.slow
@in_other_partitions
def test_a_refusal_of_s3_names_the_bucket_by_its_partition(
    name: str, region: str, s3: S3Server
) -> None:
    bucket = s3.create_bucket()
    session = partial(boto3.Session, READER.access, READER.secret, region_name=region)
    store = ObjectStore(session=session, endpoint_url=s3.endpoint)
    with pytest.raises(UserError) as error:
        store.put(f"s3://{bucket}/ratings.csv", b"")
    assert f"s3:PutObject on arn:{name}:s3:::{bucket}/ratings.csv" in str(error.value)


@pytest.mark.slow
@in_other_partitions
def test_a_pipeline_asks_for_the_recipes_of_its_partition(
    name: str,
    region: str,
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    requests = []

    def note(arn: str) -> Recipe:
        requests.append(arn)
        return get_recipe(arn)

    monkeypatch.setattr(solutions, "get_recipe", note)
    open_client = partial(embedded_client, region=region)
    monkeypatch.setattr(personalize_resource, "embedded_client", open_client)
    solution = {"recipe": USER_PERSONALIZATION}
    ratings = write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", ratings, solution=solution))
    result = refresh(project, "shop", instance)
    assert result.success
    assert set(requests) == {build_recipe_arn(USER_PERSONALIZATION, name)}
    assert all(arn.startswith(f"arn:{name}:") for arn in requests)
    group = metadata(result, "personalize_dataset")["dataset_group_arn"]
    assert group.startswith(f"arn:{name}:personalize:{region}:")
