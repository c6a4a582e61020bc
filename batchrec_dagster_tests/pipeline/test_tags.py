"""BATCHREC_TAGS: the tags of one's own on what batchrec creates on AWS."""

from __future__ import annotations

import logging
from typing import Any

import boto3

from batchrec_dagster.config.environment import EXAMPLE_OF_TAGS, parse_tags
from batchrec_dagster.personalize.api import (
    DATASET_GROUP,
    PIPELINE_TAG,
    SCHEMA,
    SOLUTION,
    STORAGE_TAG,
)
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION, build_recipe_arn
from batchrec_dagster.personalize.schemas import make_interactions_schema
from batchrec_dagster.pipeline.deployment import Deployment
from batchrec_dagster_tests.guard.builders import Project

MANY = ",".join(f"key-{number}=x" for number in range(47))


def test_tags_are_pairs_of_keys_and_values() -> None:
    assert parse_tags(EXAMPLE_OF_TAGS) == {"team": "data", "cost-center": "42"}
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


def test_everything_that_is_created_has_the_tags(project: Project) -> None:
    environment = {"BATCHREC_HOME": str(project.root / "home"), "BATCHREC_TAGS": EXAMPLE_OF_TAGS}
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
    schema = make_interactions_schema(event_type=True).avro
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
