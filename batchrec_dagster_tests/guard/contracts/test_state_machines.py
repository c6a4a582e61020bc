"""Tests with the requests of AWS's "Maintaining Personalized Experiences with Machine Learning".

The requests follow the documented behaviour of that AWS solution, and no code of it is here. Its
state machines build a resource's ARN from STS's account, describe the resource, create it if it is
missing, compare the description with the configuration, and take the newest ACTIVE entry of a list.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from batchrec_dagster_tests.guard.servers.personalize import RECIPE, SEEN, Local, describe
from batchrec_dagster_tests.guard.servers.personalize_data import (
    build_taste_rows,
    encode_csv,
    encode_user_lines,
    write_interactions_schema,
)

pytestmark = pytest.mark.slow

ACCOUNT, REGION = "123456789012", "eu-west-1"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/personalize-s3-access"
EXPLORATION = {"explorationWeight": "0.3", "explorationItemAgeCutOff": "30"}
TAGS = [{"tagKey": "solution", "tagValue": "SO0170"}]


class Machine:
    """A state machine's steps on a client."""

    def __init__(self, local: Local) -> None:
        self.client: Any = local.open_client(account=ACCOUNT, region=REGION)
        self.created_resources: list[str] = []

    def build_arn(self, resource: str) -> str:
        return f"arn:aws:personalize:{REGION}:{ACCOUNT}:{resource}"

    def ensure(self, resource: str, operation: str, **config: Any) -> str:
        """Describe a resource, or create it and wait until it is ACTIVE, and return its ARN."""
        arn = self.build_arn(resource)
        try:
            description = describe(self.client, arn)
        except self.client.exceptions.ResourceNotFoundException:
            answer = getattr(self.client, operation)(**config)
            assert arn in answer.values()
            self.created_resources.append(resource)
            description = self.wait_until_active(arn)
        params = {name: value for name, value in config.items() if name not in ("tags", "schema")}
        if "datasetType" in params:
            params["datasetType"] = params["datasetType"].upper()
        assert {name: description[name] for name in params} == params
        return arn

    def wait_until_active(self, arn: str) -> dict[str, Any]:
        while (description := describe(self.client, arn)).get("status", "ACTIVE") != "ACTIVE":
            assert "FAILED" not in description["status"], description
            time.sleep(0.01)
        return description

    def find_newest(self, operation: str, member: str, **parent: str) -> Mapping[str, Any]:
        """Return the newest ACTIVE entry of all pages."""
        pages = self.client.get_paginator(operation).paginate(**parent)
        entries = [entry for page in pages for entry in page[member]]
        active = [entry for entry in entries if entry["status"] == "ACTIVE"]
        return max(active, key=lambda entry: entry["creationDateTime"])

    def run_night(self, date: str) -> str:
        """Import, train and recommend like a scheduled run, and return the folder of the output."""
        group = self.ensure("dataset-group/films", "create_dataset_group", name="films", tags=TAGS)
        text = write_interactions_schema()
        schema = self.ensure("schema/films_s", "create_schema", name="films_s", schema=text)
        dataset = self.ensure(
            "dataset/films/INTERACTIONS",
            "create_dataset",
            name="films_interactions",
            datasetGroupArn=group,
            datasetType="interactions",
            schemaArn=schema,
            tags=TAGS,
        )
        self.ensure(
            f"dataset-import-job/import_{date}",
            "create_dataset_import_job",
            jobName=f"import_{date}",
            datasetArn=dataset,
            dataSource={"dataLocation": "s3://data/train/films/interactions.csv"},
            roleArn=ROLE,
            importMode="FULL",
            tags=TAGS,
        )
        solution = self.ensure(
            "solution/unfiltered",
            "create_solution",
            name="unfiltered",
            datasetGroupArn=group,
            recipeArn=f"{RECIPE}aws-user-personalization",
            performHPO=False,
            performAutoTraining=False,
            solutionConfig={"algorithmHyperParameters": {"hidden_dimension": "64"}},
            tags=TAGS,
        )
        answer = self.client.create_solution_version(solutionArn=solution, trainingMode="FULL")
        self.wait_until_active(answer["solutionVersionArn"])
        version = self.find_newest(
            "list_solution_versions", "solutionVersions", solutionArn=solution
        )
        assert version["solutionVersionArn"] == answer["solutionVersionArn"]
        filter_arn = self.ensure(
            "filter/seen",
            "create_filter",
            name="seen",
            datasetGroupArn=group,
            filterExpression=SEEN,
            tags=TAGS,
        )
        self.ensure(
            f"batch-inference-job/batch_{date}",
            "create_batch_inference_job",
            jobName=f"batch_{date}",
            solutionVersionArn=version["solutionVersionArn"],
            filterArn=filter_arn,
            numResults=10,
            roleArn=ROLE,
            jobInput={"s3DataSource": {"path": "s3://data/batch/films/users.json"}},
            jobOutput={"s3DataDestination": {"path": f"s3://data/batch/films/{date}/"}},
            batchInferenceJobConfig={"itemExplorationConfig": EXPLORATION},
            tags=TAGS,
        )
        return f"s3://data/batch/films/{date}"


def test_two_nights_and_a_clean_up(tmp_path: Path) -> None:
    local = Local(tmp_path)
    local.store.put("s3://data/train/films/interactions.csv", encode_csv(build_taste_rows()))
    local.store.put("s3://data/train/films/_SUCCESS", b"")
    local.store.put("s3://data/batch/films/users.json", encode_user_lines(["u1", "u2"]))
    machine = Machine(local)
    for date, creations in (("20261125", 7), ("20261126", 2)):
        machine.created_resources.clear()
        folder = machine.run_night(date)
        assert len(machine.created_resources) == creations
        assert len(local.read_lines(f"{folder}/users.json.out")) == 2
        assert local.store.head(f"{folder}/_CHECK")
    for arn in (
        machine.build_arn("solution/unfiltered"),
        machine.build_arn(f"batch-inference-job/batch_{date}"),
    ):
        assert machine.client.list_tags_for_resource(resourceArn=arn)["tags"] == TAGS
    _require_real_time_refused(machine)
    _clean_up(machine)


def _require_real_time_refused(machine: Machine) -> None:
    client = machine.client
    group = machine.build_arn("dataset-group/films")
    invalid_input = client.exceptions.InvalidInputException
    with pytest.raises(invalid_input, match="CreateEventTracker"):
        client.create_event_tracker(name="films", datasetGroupArn=group)
    with pytest.raises(invalid_input, match="CreateCampaign"):
        client.create_campaign(name="films", solutionVersionArn=machine.build_arn("solution/x/y"))
    with pytest.raises(client.exceptions.ResourceAlreadyExistsException):
        client.create_dataset_group(name="films")


def _clean_up(machine: Machine) -> None:
    """Delete all listed resources, dependent resources first."""
    client = machine.client
    steps: list[tuple[str, str, str, Callable[..., Any]]] = [
        ("list_campaigns", "campaigns", "campaignArn", client.delete_campaign),
        ("list_event_trackers", "eventTrackers", "eventTrackerArn", client.delete_event_tracker),
        ("list_filters", "Filters", "filterArn", client.delete_filter),
        ("list_solutions", "solutions", "solutionArn", client.delete_solution),
        ("list_datasets", "datasets", "datasetArn", client.delete_dataset),
        ("list_schemas", "schemas", "schemaArn", client.delete_schema),
        ("list_dataset_groups", "datasetGroups", "datasetGroupArn", client.delete_dataset_group),
    ]
    for operation, member, arn_member, delete in steps:
        for entry in getattr(client, operation)()[member]:
            delete(**{arn_member: entry[arn_member]})
        while getattr(client, operation)()[member]:
            time.sleep(0.01)
