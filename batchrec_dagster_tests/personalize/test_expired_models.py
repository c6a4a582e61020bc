"""Tests of the models that a pipeline gives up, with a local Personalize over HTTP."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest

from batchrec_dagster.personalize.api import PIPELINE_TAG
from batchrec_dagster.personalize.expired_models import EXPIRED, MODEL_TAG, expire_models, has_model
from batchrec_dagster.personalize.resources import Resources
from batchrec_dagster.personalize.schemas import make_interactions_schema
from batchrec_dagster.testing import StartedPersonalize
from batchrec_dagster_tests.guard.seams.personalize import held_downloads
from batchrec_dagster_tests.guard.servers.personalize import (
    RECIPE,
    ROLE,
    describe,
    poll_until_deadline,
)
from batchrec_dagster_tests.guard.servers.personalize_data import build_taste_rows, encode_csv

if TYPE_CHECKING:
    from collections.abc import Iterator

    from types_boto3_personalize.type_defs import TagTypeDef

pytestmark = pytest.mark.slow

TAGS = {PIPELINE_TAG: "shop"}


@pytest.fixture
def personalize(tmp_path: Path) -> Iterator[StartedPersonalize]:
    service = StartedPersonalize(tmp_path)
    yield service
    service.close()


@pytest.fixture
def resources(personalize: StartedPersonalize) -> Resources:
    """Return the pipeline's client side, which reaches Personalize over HTTP."""
    client = boto3.Session("any", "any").client(
        "personalize", region_name="us-east-1", endpoint_url=personalize.endpoint_url
    )
    return Resources(
        client=client,
        log=logging.getLogger("models"),
        tags=TAGS,
        poll_seconds=0.01,
        busy_seconds=0.01,
        heartbeat_seconds=60,
        deadline_seconds=300,
    )


def wait(personalize: StartedPersonalize, arn: str) -> str:
    for _ in poll_until_deadline():
        if describe(personalize.client, arn)["status"] == "ACTIVE":
            return arn
    raise AssertionError(arn)


def create_group(personalize: StartedPersonalize, name: str) -> str:
    """Create a dataset group of the pipeline with data to train on, and return its ARN."""
    client, tags = personalize.client, make_tags()
    data = personalize.put("interactions.csv", encode_csv(build_taste_rows()))
    group = wait(personalize, client.create_dataset_group(name=name, tags=tags)["datasetGroupArn"])
    schema = client.create_schema(name=name, schema=make_interactions_schema(event_type=True).avro)
    dataset = client.create_dataset(
        name=name,
        datasetGroupArn=group,
        datasetType="Interactions",
        schemaArn=schema["schemaArn"],
    )["datasetArn"]
    wait(personalize, dataset)
    job = client.create_dataset_import_job(
        jobName=name, datasetArn=dataset, roleArn=ROLE, dataSource={"dataLocation": data}
    )
    wait(personalize, job["datasetImportJobArn"])
    return group


def create_solution(personalize: StartedPersonalize, group: str, name: str) -> str:
    solution = personalize.client.create_solution(
        name=name,
        datasetGroupArn=group,
        recipeArn=f"{RECIPE}aws-user-personalization",
        performAutoTraining=False,
        tags=make_tags(),
    )["solutionArn"]
    return wait(personalize, solution)


def create_version(personalize: StartedPersonalize, solution: str, pipeline: str = "shop") -> str:
    version = personalize.client.create_solution_version(
        solutionArn=solution, tags=make_tags(pipeline)
    )["solutionVersionArn"]
    return wait(personalize, version)


def make_tags(pipeline: str = "shop") -> list[TagTypeDef]:
    return [{"tagKey": PIPELINE_TAG, "tagValue": pipeline}]


def list_models(folder: Path) -> set[str]:
    """Return the last parts of the ARNs of the solution versions that have a model."""
    return {path.name.split(".")[4] for path in (folder / "home/models").iterdir()}


def test_the_newest_of_each_solution_stay(
    personalize: StartedPersonalize, resources: Resources, tmp_path: Path
) -> None:
    group = create_group(personalize, "shop-0123abcd")
    solutions = [create_solution(personalize, group, f"shop-0123abcd-{n}") for n in range(2)]
    versions = [[create_version(personalize, solution) for _ in range(3)] for solution in solutions]
    foreign = create_version(personalize, solutions[0], "another")
    expire_models(replace(resources, on_aws=True), "shop", 1)
    expire_models(resources, "other", 1)
    assert len(list_models(tmp_path)) == 7
    for _ in range(2):
        expire_models(resources, "shop", 2)
        kept = [*versions[0][1:], *versions[1][1:], foreign]
        assert list_models(tmp_path) == {arn.rpartition("/")[2] for arn in kept}
    assert [has_model(resources, version) for version in versions[0]] == [False, True, True]
    assert has_model(replace(resources, on_aws=True), versions[0][0])
    # A model that somebody expired by hand does not count.
    resources.client.tag_resource(
        resourceArn=versions[0][2], tags=[{"tagKey": MODEL_TAG, "tagValue": EXPIRED}]
    )
    expire_models(resources, "shop", 1)
    kept = [versions[0][1], versions[1][2], foreign]
    assert list_models(tmp_path) == {arn.rpartition("/")[2] for arn in kept}


def test_a_model_in_use_stays_with_the_newer_ones(
    personalize: StartedPersonalize,
    resources: Resources,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    group = create_group(personalize, "shop-0123abcd")
    solution = create_solution(personalize, group, "shop-0123abcd-1")
    versions = [create_version(personalize, solution) for _ in range(4)]
    with held_downloads():
        personalize.client.create_batch_inference_job(
            jobName="batch",
            solutionVersionArn=versions[1],
            roleArn=ROLE,
            jobInput={"s3DataSource": {"path": personalize.put("users.json", b"{}")}},
            jobOutput={"s3DataDestination": {"path": personalize.uri("out/")}},
        )
        expire_models(resources, "shop", 1)
    assert list_models(tmp_path) == {arn.rpartition("/")[2] for arn in versions[1:]}
    assert f"the model of {versions[1]} stays until no job uses it" in caplog.text
