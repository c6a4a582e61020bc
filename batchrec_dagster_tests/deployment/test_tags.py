"""BATCHREC_TAGS: the tags of one's own on what batchrec creates on AWS."""

from __future__ import annotations

import logging
import re
from typing import Any

import boto3
import dagster as dg
import pytest

from batchrec_dagster.deployment import Deployment
from batchrec_dagster.deployment.tags import EXAMPLE, parse_tags
from batchrec_dagster.local_personalize.api.client import embedded_client
from batchrec_dagster.personalize.ensure import PIPELINE_TAG, STORAGE_TAG
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION, build_recipe_arn
from batchrec_dagster.personalize.resource_kinds import DATASET_GROUP, SCHEMA, SOLUTION
from batchrec_dagster.personalize.schemas import build_interactions_schema
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.builders import Project, outcomes, refresh, write_ratings

MANY = ",".join(f"key-{number}=x" for number in range(47))


def test_tags_are_pairs_of_keys_and_values() -> None:
    assert parse_tags(EXAMPLE) == {"team": "data", "cost-center": "42"}
    assert parse_tags("") == {}
    assert parse_tags(" a b = c d , url=https://x.example:80/_@+-,equals=a=b,empty=,Größe=½") == {
        "a b": "c d",
        "url": "https://x.example:80/_@+-",
        "equals": "a=b",
        "empty": "",
        "Größe": "½",
    }
    longest = f"{'k' * 128}={'v' * 256}"
    assert parse_tags(longest) == dict([longest.split("=")])
    assert len(parse_tags(MANY.removesuffix(",key-46=x"))) == 46


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("team=data,cost-center", "'cost-center' is not KEY=VALUE; write team=data,cost-center=42"),
        ("team=data,", "'' is not KEY=VALUE"),
        ("=data", "'=data': a key has 1 to 128 characters"),
        (f"{'k' * 129}=x", "a key has 1 to 128 characters"),
        (f"team={'v' * 257}", "a value has at most 256 characters"),
        ("team=r&d", "'team=r&d': '&' is not allowed: keys and values have letters, numbers,"),
        ("team\t=x,a=\x00", "'\\x00' is not allowed"),
        ("AWS:team=x", "'AWS:team=x': AWS keeps the keys that begin with aws: for itself"),
        (f"{PIPELINE_TAG}=x", "batchrec sets the keys that begin with batchrec: itself"),
        ("team=a,team=b", "'team=b': the key team is there twice"),
        (MANY, "there are 47 tags: set at most 46, because a resource has at most 50"),
    ],
)
def test_a_pair_that_aws_would_reject_is_named(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        parse_tags(text)


def test_everything_that_is_created_has_the_tags(project: Project) -> None:
    environment = {"BATCHREC_HOME": str(project.root / "home"), "BATCHREC_TAGS": EXAMPLE}
    personalize = Deployment.from_environment(environment).personalize_resource
    ensure = personalize.ensure(logging.getLogger("test"), {PIPELINE_TAG: "shop"})
    group = ensure.find_or_create(DATASET_GROUP, "shop", {}).arn
    expected = {
        "team": "data",
        "cost-center": "42",
        PIPELINE_TAG: "shop",
        STORAGE_TAG: personalize.storage_tag,
    }
    assert ensure.tags_of(group) == expected
    recipe = build_recipe_arn(USER_PERSONALIZATION, "aws")
    request = {"datasetGroupArn": group, "recipeArn": recipe, "performAutoTraining": False}
    parent = {"datasetGroupArn": group}
    solution = ensure.for_data("v1").find_or_create(SOLUTION, "shop", request, **parent).arn
    assert ensure.tags_of(solution) == {**expected, "batchrec:data-version": "v1"}
    # A schema takes none.
    schema = build_interactions_schema(event_type=True)
    assert ensure.find_or_create(SCHEMA, "shop", {"schema": schema}).created


def test_all_that_ensure_creates_but_schemas_takes_tags() -> None:
    model: Any = boto3.client("personalize", "eu-west-1").meta.service_model
    kinds = ("DatasetGroup", "Schema", "Dataset", "DatasetImportJob", "Solution", "SolutionVersion")
    jobs = ("Filter", "BatchInferenceJob", "BatchSegmentJob")
    without_tags = [
        kind
        for kind in (*kinds, *jobs)
        if "tags" not in model.operation_model(f"Create{kind}").input_shape.members
    ]
    assert without_tags == ["Schema"]


@pytest.mark.slow
@pytest.mark.usefixtures("first_run_of_shop")
def test_other_tags_create_nothing_again(project: Project, instance: dg.DagsterInstance) -> None:
    project.environment["BATCHREC_TAGS"] = "team=data"
    result = refresh(project, "shop", instance)
    assert all(str(outcome).startswith("unchanged: ") for outcome in outcomes(result))

    write_ratings(project.root / "ratings.csv", seed=1)
    assert refresh(project, "shop", instance).success
    client = embedded_client(project.root / ".batchrec/personalize", ObjectStore())
    groups = client.list_dataset_groups()["datasetGroups"]
    versions = client.list_solution_versions()["solutionVersions"]
    assert len(groups) == 1
    arns = [version["solutionVersionArn"] for version in versions]
    tags = [client.list_tags_for_resource(resourceArn=arn)["tags"] for arn in arns]
    team = {"tagKey": "team", "tagValue": "data"}
    # Each night trains the model.
    assert [team in tags_of_version for tags_of_version in tags] == [False, True]
