"""Tests that `batchrec teardown` deletes everything that a pipeline made, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    open_personalize,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.faults.crashes import CrashError
from batchrec_dagster_tests.guard.faults.worst_aws import crash_after_first, replace_answers
from batchrec_dagster_tests.guard.first_run import DECLARATION
from batchrec_dagster_tests.guard.servers.personalize import RECIPE
from batchrec_dagster_tests.guard.servers.personalize_data import write_interactions_schema
from batchrec_dagster_tests.guard.servers.teardown import tear_down

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient
    from types_boto3_personalize.type_defs import TagTypeDef

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("first_run_of_shop")]

NOTHING_TO_DELETE = 3
STORAGE_TAG = "batchrec:storage"
# Personalize allows deletions in this order.
KINDS = ("filter", "solution", "dataset", "schema", "dataset group")


def list_arns(client: PersonalizeClient) -> set[str]:
    """Return the ARNs of all resources that can be deleted."""
    return {
        *(group["datasetGroupArn"] for group in client.list_dataset_groups()["datasetGroups"]),
        *(schema["schemaArn"] for schema in client.list_schemas()["schemas"]),
        *(dataset["datasetArn"] for dataset in client.list_datasets()["datasets"]),
        *(solution["solutionArn"] for solution in client.list_solutions()["solutions"]),
        *(entry["filterArn"] for entry in client.list_filters()["Filters"]),
    }


def find_group(client: PersonalizeClient) -> str:
    (group,) = client.list_dataset_groups()["datasetGroups"]
    return group["datasetGroupArn"]


def read_tags(client: PersonalizeClient, arn: str) -> dict[str, str]:
    tags = client.list_tags_for_resource(resourceArn=arn)["tags"]
    return {tag["tagKey"]: tag["tagValue"] for tag in tags}


def list_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def create_solution(client: PersonalizeClient, tags: Mapping[str, str]) -> str:
    """Create a solution that another person adds to the pipeline's group, and return its ARN."""
    return client.create_solution(
        name="by-hand",
        datasetGroupArn=find_group(client),
        recipeArn=f"{RECIPE}aws-sims",
        performAutoTraining=False,
        tags=[{"tagKey": key, "tagValue": value} for key, value in tags.items()],
    )["solutionArn"]


def test_everything_of_the_pipeline_goes_and_nothing_of_another(
    project: Project, instance: dg.DagsterInstance
) -> None:
    client = open_personalize(project)
    own_arns = list_arns(client)
    # The other pipeline's name begins with this pipeline's name.
    project.declare({**DECLARATION, "name": "shop_2"})
    assert refresh(project, "shop_2", instance).success
    other_arns = list_arns(client) - own_arns
    files = list_files(project.storage)

    plan = tear_down(project, "shop", instance, answer="n\n").output
    assert list_arns(client) == own_arns | other_arns
    lines = [line for line in plan.splitlines() if line.startswith("delete ")]
    assert len(lines) == len(own_arns)
    kinds = [line.removeprefix("delete ").rpartition(" ")[0] for line in lines]
    assert tuple(dict.fromkeys(kinds)) == KINDS
    assert "shop_2" not in plan

    assert tear_down(project, "shop", instance).exit_code == 0
    assert list_arns(client) == other_arns
    assert list_files(project.storage) == files
    assert tear_down(project, "shop", instance).exit_code == NOTHING_TO_DELETE

    # Everything can be created again, and records of deleted resources do not mislead.
    lists = table(project, "shop")
    next_refresh = refresh(project, "shop", instance)
    assert next_refresh.success, why(next_refresh)
    assert len(list_arns(client)) == len(own_arns | other_arns)
    assert table(project, "shop").height == lists.height
    others_files = list_files(project.storage / "shop_2")
    assert tear_down(project, "shop", instance, "--storage").exit_code == 0
    assert not (project.storage / "shop").exists()
    assert list_files(project.storage / "shop_2") == others_files
    assert list_arns(client) == other_arns


def test_files_of_earlier_settings_are_deleted_after_publishing(
    project: Project, instance: dg.DagsterInstance
) -> None:
    client = open_personalize(project)
    current, tags = list_arns(client), read_tags(client, find_group(client))
    tag_list: list[TagTypeDef] = [{"tagKey": key, "tagValue": value} for key, value in tags.items()]
    name = client.list_dataset_groups()["datasetGroups"][0]["name"]
    group, stem = find_group(client), name.partition("-")[0]
    for number in range(4):
        client.create_filter(
            name=f"{name}-{number}",
            datasetGroupArn=group,
            filterExpression=f'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("{number}")',
            tags=tag_list,
        )
    # These belong to a run that never published.
    old = client.create_dataset_group(name=f"{stem}-00000001", tags=tag_list)["datasetGroupArn"]
    schema = client.create_schema(
        name=f"{stem}-00000001-interactions", schema=write_interactions_schema()
    )["schemaArn"]
    while client.describe_dataset_group(datasetGroupArn=old)["datasetGroup"]["status"] != "ACTIVE":
        pass
    dataset = client.create_dataset(
        name=f"{stem}-00000001-interactions",
        datasetGroupArn=old,
        datasetType="Interactions",
        schemaArn=schema,
        tags=tag_list,
    )["datasetArn"]
    # A single run deletes the group, after everything that has to be deleted before.
    assert refresh(project, "shop", instance).success
    left = list_arns(client)
    assert current <= left
    assert not {old, schema, dataset} & left
    # The newest filters stay, because published lists may need them.
    assert 0 < len(client.list_filters()["Filters"]) <= 3


def test_a_pipeline_whose_declaration_is_gone_is_torn_down_by_its_name(
    project: Project, instance: dg.DagsterInstance
) -> None:
    client = open_personalize(project)
    project.declare({**DECLARATION, "sinks": {"export": {"path": "out/lists.csv"}}})
    plan = tear_down(project, "shop", instance, "--storage", answer="n\n").output
    for words in ("out/lists.csv", "/defs/shop/defs.yaml"):
        assert words in "".join(plan.split("\n"))
    (project.package / "defs/shop/defs.yaml").unlink()
    assert list_arns(client)
    assert tear_down(project, "shop", instance, "--storage", "--yes").exit_code == 0
    assert list_arns(client) == set()
    assert not (project.storage / "shop").exists()
    assert tear_down(project, "shop", instance, "--yes").exit_code == NOTHING_TO_DELETE


def test_a_run_under_way_stops_it_and_is_named(
    project: Project, instance: dg.DagsterInstance
) -> None:
    def start_run(job: str) -> dg.DagsterRun:
        with definitions(project) as defs:
            run = instance.create_run_for_job(defs.resolve_job_def(job))
        # A starting run logs the same.
        instance.report_dagster_event(dg.DagsterEvent("PIPELINE_START", job), run.run_id)
        return run

    project.declare({**DECLARATION, "name": "shop_2"})
    other_run, rollback = start_run("shop_2_refresh"), start_run("shop_rollback")
    refused = tear_down(project, "shop", instance, "--storage", "--yes")
    assert refused.exit_code == 1
    assert rollback.run_id in refused.output
    assert other_run.run_id not in refused.output
    assert (project.storage / "shop").exists()
    assert list_arns(open_personalize(project))
    instance.report_run_canceled(rollback)
    assert tear_down(project, "shop", instance, "--storage", "--yes").exit_code == 0
    assert not (project.storage / "shop").exists()


def test_a_teardown_that_was_killed_anywhere_goes_on(
    project: Project, instance: dg.DagsterInstance
) -> None:
    with crash_after_first("Delete") as operations:
        for _ in KINDS:
            with pytest.raises(CrashError):
                tear_down(project, "shop", instance, "--yes")
        assert tear_down(project, "shop", instance, "--yes").exit_code in (0, NOTHING_TO_DELETE)
    assert operations == [f"Delete{kind.title().replace(' ', '')}" for kind in KINDS]
    assert list_arns(open_personalize(project)) == set()


@pytest.mark.parametrize("tags", [{}, {"batchrec:pipeline": "shop_2"}])
def test_a_solution_of_another_owner_stops_a_teardown(
    project: Project, instance: dg.DagsterInstance, tags: dict[str, str]
) -> None:
    client = open_personalize(project)
    create_solution(client, tags)
    before = list_arns(client)
    refused = tear_down(project, "shop", instance, "--yes")
    assert refused.exit_code == 1
    assert "by-hand" in refused.output
    assert list_arns(client) == before


def test_a_campaign_or_event_tracker_stops_a_teardown(
    project: Project, instance: dg.DagsterInstance
) -> None:
    client = open_personalize(project)
    before = list_arns(client)
    campaign = {"name": "live", "campaignArn": "arn/live", "status": "ACTIVE"}
    tracker = {"name": "clicks", "eventTrackerArn": "arn/clicks"}
    answers: dict[str, Any] = {
        "ListCampaigns": {"campaigns": [campaign]},
        "ListEventTrackers": {"eventTrackers": [tracker]},
    }
    with replace_answers(answers):
        refused = tear_down(project, "shop", instance, "--yes")
    assert refused.exit_code == 1
    for words in ("campaign live", "event tracker clicks"):
        assert words in " ".join(refused.output.split())
    assert list_arns(client) == before


def test_another_deployments_group_is_refused_by_name_and_left_alone(
    project: Project, instance: dg.DagsterInstance
) -> None:
    client = open_personalize(project)
    arn = find_group(client)
    own_storage = read_tags(client, arn)[STORAGE_TAG]

    def tag(storage: str) -> None:
        client.tag_resource(resourceArn=arn, tags=[{"tagKey": STORAGE_TAG, "tagValue": storage}])

    tag("s3://other/batchrec/")
    message = why(refresh(project, "shop", instance))
    for words in (arn.rpartition("/")[2], "s3://other/batchrec/", own_storage):
        assert words in message
    before = list_arns(client)
    assert tear_down(project, "shop", instance).exit_code == NOTHING_TO_DELETE
    assert list_arns(client) == before

    # Another folder has the name of the bucket too.
    tag(own_storage)
    project.environment["BATCHREC_STORAGE"] = str(project.root / "other")
    assert own_storage in why(refresh(project, "shop", instance))
    del project.environment["BATCHREC_STORAGE"]

    # A group with the name but without tags may belong to anybody.
    client.untag_resource(resourceArn=arn, tagKeys=[STORAGE_TAG, "batchrec:pipeline"])
    refused = tear_down(project, "shop", instance, answer="n\n")
    assert "delete dataset group" not in refused.output
    assert tear_down(project, "shop", instance, "--yes").exit_code in (1, NOTHING_TO_DELETE)
    assert arn in list_arns(client)


def test_a_pipeline_that_never_ran_has_nothing_to_delete(
    project: Project, instance: dg.DagsterInstance
) -> None:
    ratings = write_ratings(project.root / "other.csv")
    project.declare(declaration("films", ratings))
    before = list_arns(open_personalize(project))
    assert tear_down(project, "films", instance, "--yes").exit_code == NOTHING_TO_DELETE
    assert list_arns(open_personalize(project)) == before


@pytest.mark.parametrize("name", ["", ".", "..", "shop/curated", "/shop", "shop/../films"])
def test_an_invalid_pipeline_name_deletes_nothing(
    name: str, project: Project, instance: dg.DagsterInstance
) -> None:
    before = list_files(project.storage)
    assert before
    result = tear_down(project, name, instance, "--storage", "--yes")
    assert result.exit_code == 2
    assert "is no name of a pipeline" in result.output
    assert list_files(project.storage) == before
