"""Teardown deletes what a pipeline made, all of it, and nothing of anybody else's."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import dagster as dg
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.local_personalize.api.client import embedded_client, make_client
from batchrec_dagster.local_personalize.catalog.kinds import JobQueue
from batchrec_dagster.local_personalize.catalog.resource import Resource
from batchrec_dagster.local_personalize.jobs.worker import Worker
from batchrec_dagster.personalize.ensure import Ensure
from batchrec_dagster.personalize.errors import PersonalizeError
from batchrec_dagster.personalize.recipes import USER_PERSONALIZATION, build_recipe_arn
from batchrec_dagster.personalize.resource_kinds import (
    DATASET,
    DATASET_GROUP,
    FILTER,
    SCHEMA,
    SOLUTION,
)
from batchrec_dagster.personalize.schemas import build_interactions_schema
from batchrec_dagster.personalize.teardown import delete, plan_teardown
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.resource import LOCAL_BUCKET
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    metadata,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.personalize import open_idle_service
from batchrec_dagster_tests.guard.servers.teardown import tear_down

pytestmark = pytest.mark.slow

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

KINDS = (DATASET_GROUP, SCHEMA, DATASET, SOLUTION, FILTER)


def open_client(project: Project) -> PersonalizeClient:
    return embedded_client(find_home(project), ObjectStore({LOCAL_BUCKET: project.storage}))


def find_home(project: Project) -> Path:
    return project.root / ".batchrec" / "personalize"


def ensure(client: PersonalizeClient, pipeline: str = "shop", *, deadline: float = 600) -> Ensure:
    return Ensure(
        client=client,
        log=logging.getLogger("test"),
        tags={"batchrec:pipeline": pipeline},
        poll_seconds=0.02,
        busy_seconds=0.02,
        heartbeat_seconds=60,
        deadline_seconds=deadline,
    )


def list_arns(client: PersonalizeClient) -> set[str]:
    """The ARNs of all that can be deleted."""
    return {summary[kind.arn] for kind in KINDS for summary in ensure(client).list(kind)}


def list_files(project: Project, name: str) -> list[Path]:
    return sorted(path for path in (project.storage / name).rglob("*") if path.is_file())


@pytest.fixture
def quick(project: Project) -> dict[str, Any]:
    """A pipeline that trains nothing but popularity."""
    return declaration(
        "shop",
        write_ratings(project.root / "ratings.csv"),
        solution={"recipe": USER_PERSONALIZATION},
    )


def test_everything_of_the_pipeline_goes_and_nothing_of_another(
    project: Project, quick: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    # The other's name begins with this one's.
    for name in ("shop", "shop_2"):
        project.declare({**quick, "name": name})
        assert refresh(project, name, instance).success
    client = open_client(project)
    other_arns = {arn for arn in list_arns(client) if "shop_2-" in arn}
    # Another schema: another dataset group. Other settings: another solution and filter.
    project.declare({**quick, "recommendations": {"exclude_seen": False}})
    assert refresh(project, "shop", instance).success
    own = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("rating")'
    better = {"recipe": "aws-user-personalization"}
    project.declare({**quick, "solution": better, "recommendations": {"filter": own}})
    assert refresh(project, "shop", instance).success
    before = list_arns(client)
    assert len(ensure(client).list(DATASET_GROUP)) == 3
    files_before = list_files(project, "shop")

    plan = tear_down(project, "shop", instance, answer="n\n").output
    assert list_arns(client) == before
    lines = [line for line in plan.splitlines() if line.startswith("delete ")]
    assert len(lines) == len(before - other_arns)
    kinds = [line.removeprefix("delete ").rpartition(" ")[0] for line in lines]
    assert list(dict.fromkeys(kinds)) == [
        *("filter", "solution", "dataset", "schema", "dataset group")
    ]
    assert "shop_2" not in plan

    assert tear_down(project, "shop", instance).exit_code == 0
    assert list_arns(client) == other_arns
    assert list_files(project, "shop") == files_before
    second_result = tear_down(project, "shop", instance)
    assert second_result.exit_code == 3
    assert "there is nothing of shop to delete" in second_result.output

    # Everything can be created again, and the records of what was deleted do not mislead.
    anew = refresh(project, "shop", instance)
    assert anew.success, why(anew)
    assert metadata(anew, "personalize_dataset")["outcome"] == "imported"
    others_files = list_files(project, "shop_2")
    assert tear_down(project, "shop", instance, "--storage").exit_code == 0
    assert not (project.storage / "shop").exists()
    assert list_files(project, "shop_2") == others_files
    assert list_arns(client) == other_arns


def test_what_earlier_settings_left_is_pruned_after_publishing(
    project: Project, quick: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    client = open_client(project)
    project.declare(quick)
    assert refresh(project, "shop", instance).success
    (current,) = client.list_dataset_groups()["datasetGroups"]
    first, group = current["name"], current["datasetGroupArn"]
    shop = ensure(client)
    shop = replace(shop, tags=shop.tags_of(group))
    expression = 'EXCLUDE ItemID WHERE Interactions.EVENT_TYPE IN ("{}")'
    for number in range(4):
        filter_params = {"datasetGroupArn": group, "filterExpression": expression.format(number)}
        shop.find_or_create(FILTER, f"{first}-{number}", filter_params)
    # These belong to a run that never published.
    schema = {"schema": build_interactions_schema(event_type=True)}
    old = shop.find_or_create(DATASET_GROUP, "shop-00000001", {}).arn
    arn = shop.find_or_create(SCHEMA, "shop-00000001-interactions", schema).arn
    dataset_params = {"datasetGroupArn": old, "datasetType": "Interactions", "schemaArn": arn}
    shop.find_or_create(DATASET, "shop-00000001-interactions", dataset_params)

    # One run deletes the group, with everything that has to be deleted before it.
    assert refresh(project, "shop", instance).success
    assert [
        group_summary["name"] for group_summary in client.list_dataset_groups()["datasetGroups"]
    ] == [first]
    assert [group_summary["name"] for group_summary in client.list_schemas()["schemas"]] == [
        f"{first}-interactions"
    ]
    filters = {group_summary["name"] for group_summary in client.list_filters()["Filters"]}
    assert filters == {f"{first}-{suffix}" for suffix in ("exclude-seen", "2", "3")}
    assert len(client.list_solutions()["solutions"]) == 1


def test_a_pipeline_whose_declaration_is_gone_is_torn_down_by_its_name(
    project: Project,
    group_made: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(project.root)
    monkeypatch.setenv("BATCHREC_HOME", str(project.root / ".batchrec"))
    client, run = open_client(project), CliRunner()
    for name in ("group", "dataset"):
        client.tag_resource(
            resourceArn=group_made[name],
            tags=[{"tagKey": "batchrec:storage", "tagValue": f"s3://{LOCAL_BUCKET}/"}],
        )
    file = project.storage / "shop" / "records" / "x.json"
    file.parent.mkdir(parents=True)
    file.write_text("{}")
    project.declare(declaration("shop", "ratings.csv", sinks={"export": {"path": "out/lists.csv"}}))
    declared_result = run.invoke(main, ["teardown", "shop", "--storage"], input="n\n")
    assert "left alone, for those who use it: " in declared_result.output
    assert "/defs/shop/defs.yaml: its next run makes all of this again" in declared_result.output
    assert list_arns(client) == set(group_made.values())
    (project.package / "defs" / "shop" / "defs.yaml").unlink()

    plan_result = run.invoke(main, ["teardown", "shop", "--storage"], input="n\n")
    assert "delete dataset group shop-0123abcd" in plan_result.output
    assert list_arns(client) == set(group_made.values())
    teardown_result = run.invoke(main, ["teardown", "shop", "--storage", "--yes"])
    assert teardown_result.exit_code == 0, teardown_result.output
    assert list_arns(client) == set()
    assert not (project.storage / "shop").exists()
    assert run.invoke(main, ["teardown", "shop", "--yes"]).exit_code == 3


def test_it_waits_for_nobody_and_names_who_is_at_work_and_what_it_leaves(
    project: Project, quick: dict[str, Any], instance: dg.DagsterInstance
) -> None:
    sinks = {
        "postgres": {"url_env": "SHOP_DATABASE_URL", "schema": "app", "table": "lists"},
        "dynamodb": {"table": "shop-lists"},
        "export": {"path": "s3://mailing/lists.csv"},
    }
    project.declare({**quick, "sinks": sinks})
    project.declare({**quick, "name": "shop_2"})

    def start_run(job: str) -> dg.DagsterRun:
        with definitions(project) as defs:
            run = instance.create_run_for_job(defs.resolve_job_def(job))
        # A run that begins logs the same.
        event = dg.DagsterEvent("PIPELINE_START", job)
        instance.report_dagster_event(event, run.run_id)
        return run

    other_run = start_run("shop_2_refresh")
    assert refresh(project, "shop", instance, assets=["raw_ratings"]).success
    result = tear_down(project, "shop", instance, "--storage", answer="n\n")
    output = " ".join(result.output.split())
    for line in (
        "left alone, for those who use it: the PostgreSQL table app.lists at SHOP_DATABASE_URL:"
        " DROP TABLE app.lists",
        "left alone, for those who use it: the DynamoDB table shop-lists:"
        " aws dynamodb delete-table --table-name shop-lists",
        "left alone, for those who use it: the export s3://mailing/lists.csv: delete the file",
    ):
        assert line in output

    rollback_run = start_run("shop_rollback")
    refused_result = tear_down(project, "shop", instance, "--storage", "--yes")
    assert refused_result.exit_code == 1
    output = " ".join(refused_result.output.split())
    under_way = f"run {rollback_run.run_id} of shop_rollback is under way"
    assert f"in the way: {under_way}" in output
    assert f"nothing was deleted: {under_way}, and would write" in output
    assert other_run.run_id not in output
    assert (project.storage / "shop").exists()
    instance.report_run_canceled(rollback_run)
    assert tear_down(project, "shop", instance, "--storage", "--yes").exit_code == 0
    assert not (project.storage / "shop").exists()


class KillSignal(BaseException):
    """Stands for a SIGKILL: no handler of errors catches it."""


@pytest.mark.usefixtures("first_run_of_shop")
def test_a_teardown_that_was_killed_anywhere_goes_on(
    project: Project,
) -> None:
    client, kills = open_client(project), []

    def kill(model: Any, **_: Any) -> None:
        # The kill comes after the first request for each deletion.
        if model.name.startswith("Delete") and model.name not in kills:
            kills.append(model.name)
            raise KillSignal

    (group,) = client.list_dataset_groups()["datasetGroups"]
    shop = ensure(client)
    shop = replace(shop, tags=shop.tags_of(group["datasetGroupArn"]))
    client.meta.events.register("after-call.personalize", kill)
    for _ in range(5):
        with pytest.raises(KillSignal):
            delete(shop, plan_teardown(shop, "shop"))
    delete(shop, plan_teardown(shop, "shop"))
    assert kills == [
        *("DeleteFilter", "DeleteSolution", "DeleteDataset", "DeleteSchema", "DeleteDatasetGroup")
    ]
    assert list_arns(client) == set()


@pytest.fixture
def group_made(project: Project) -> dict[str, str]:
    """A dataset group with data, as the pipeline shop makes it; Personalize works slowly."""
    client = open_client(project)
    shop = ensure(client)
    group = shop.find_or_create(DATASET_GROUP, "shop-0123abcd", {}).arn
    schema = shop.find_or_create(
        SCHEMA, "shop-0123abcd-interactions", {"schema": build_interactions_schema(event_type=True)}
    ).arn
    dataset = shop.find_or_create(
        DATASET,
        "shop-0123abcd-interactions",
        {"datasetGroupArn": group, "datasetType": "Interactions", "schemaArn": schema},
    ).arn
    return {"group": group, "schema": schema, "dataset": dataset}


def create_solution(client: PersonalizeClient, group: str, tags: dict[str, str]) -> str:
    return client.create_solution(
        name="by-popularity",
        datasetGroupArn=group,
        recipeArn=build_recipe_arn(USER_PERSONALIZATION),
        performAutoTraining=False,
        tags=[{"tagKey": key, "tagValue": value} for key, value in tags.items()],
    )["solutionArn"]


@pytest.mark.parametrize("tags", [{}, {"batchrec:pipeline": "shop_2"}])
def test_what_somebody_else_made_in_the_group_stops_it(
    project: Project, group_made: dict[str, str], tags: dict[str, str]
) -> None:
    client = open_client(project)
    create_solution(client, group_made["group"], tags)
    before = list_arns(client)
    with pytest.raises(
        PersonalizeError, match="nothing was deleted: solution by-popularity in shop-0123"
    ):
        delete(ensure(client), plan_teardown(ensure(client), "shop"))
    assert list_arns(client) == before


def test_what_is_being_deleted_already_is_waited_for(
    project: Project, group_made: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = open_client(project)
    arn = create_solution(client, group_made["group"], {})
    while client.describe_solution(solutionArn=arn)["solution"]["status"] != "ACTIVE":
        time.sleep(0.01)
    with monkeypatch.context() as paused_work:
        paused_work.setattr(Worker, "wake", lambda worker: None)  # nobody deletes it yet
        client.delete_solution(solutionArn=arn)
        plan = plan_teardown(ensure(client), "shop")
    assert (plan.pieces[0].arn, plan.in_the_way) == (arn, [])
    delete(ensure(client), plan)
    assert list_arns(client) == set()


class WithRealTime:
    """A Personalize that has a campaign and an event tracker too."""

    def __init__(self, client: PersonalizeClient) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def get_paginator(self, operation: Any) -> Any:
        campaign = {"name": "live", "campaignArn": "arn/live", "status": "ACTIVE"}
        list_members = {
            "list_campaigns": {"campaigns": [campaign]},
            "list_event_trackers": {
                "eventTrackers": [{"name": "clicks", "eventTrackerArn": "arn/clicks"}]
            },
        }
        if operation in list_members:
            return SimpleNamespace(paginate=lambda **_: [list_members[operation]])
        return self._client.get_paginator(operation)


def test_what_serves_in_real_time_stops_it(project: Project, group_made: dict[str, str]) -> None:
    client = open_client(project)
    create_solution(client, group_made["group"], {"batchrec:pipeline": "shop"})
    real_time_client = cast("PersonalizeClient", WithRealTime(client))
    with pytest.raises(
        PersonalizeError,
        match="campaign live belongs to solution by-popularity; event tracker clicks belongs to",
    ):
        delete(ensure(real_time_client), plan_teardown(ensure(real_time_client), "shop"))
    assert group_made["group"] in list_arns(client)


@pytest.mark.usefixtures("first_run_of_shop")
def test_another_deployments_group_is_refused_by_name_and_left_alone(
    project: Project, instance: dg.DagsterInstance
) -> None:
    client = open_client(project)
    (group,) = client.list_dataset_groups()["datasetGroups"]
    arn, tag = group["datasetGroupArn"], "batchrec:storage"
    own_tag = ensure(client).tags_of(arn)[tag]

    other = "s3://other/batchrec/"
    client.tag_resource(resourceArn=arn, tags=[{"tagKey": tag, "tagValue": other}])
    message = why(refresh(project, "shop", instance))
    assert message.startswith(
        f"the dataset group {group['name']} belongs to the deployment with the storage"
        " s3://other/batchrec/. Rename this pipeline, or set a BATCHREC_HOME of its own."
    )
    assert f"tag-resource --resource-arn {arn} --tags tagKey={tag},tagValue={own_tag}" in message
    before = list_arns(client)
    assert tear_down(project, "shop", instance).exit_code == 3
    assert list_arns(client) == before

    # Another folder has the bucket's name too.
    client.tag_resource(resourceArn=arn, tags=[{"tagKey": tag, "tagValue": own_tag}])
    project.environment["BATCHREC_STORAGE"] = str(project.root / "other")
    message = why(refresh(project, "shop", instance))
    assert f"belongs to the deployment with the storage {own_tag}." in message
    assert f"tagValue={own_tag}../../other" in message
    del project.environment["BATCHREC_STORAGE"]

    # Without a record of it, a group without the tag may be anybody's.
    client.untag_resource(resourceArn=arn, tagKeys=[tag])
    (project.storage / "shop/records/personalize_dataset.json").unlink()
    assert "belongs to somebody else: it has no tag" in why(refresh(project, "shop", instance))


def test_a_group_of_the_name_without_the_tag_is_left_alone(
    project: Project, group_made: dict[str, str]
) -> None:
    client = open_client(project)
    client.untag_resource(resourceArn=group_made["group"], tagKeys=["batchrec:pipeline"])
    plan = plan_teardown(ensure(client), "shop")
    assert plan.pieces == []
    assert plan.left_alone == [
        "dataset group shop-0123abcd belongs to somebody else: batchrec:pipeline=,"
        " batchrec:storage=",
        f"schema shop-0123abcd-interactions is used by {group_made['dataset']}",
    ]
    delete(ensure(client), plan)
    assert list_arns(client) == set(group_made.values())


def test_imports_are_waited_for_and_trainings_stopped(
    project: Project,
    group_made: dict[str, str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [f"u{n % 50},i{n % 40},{1_600_000_000 + n},watch" for n in range(1500)]
    text = "\n".join(["USER_ID,ITEM_ID,TIMESTAMP,EVENT_TYPE", *rows, ""])
    project.storage.mkdir(parents=True, exist_ok=True)
    (project.storage / "interactions.csv").write_text(text)
    is_claimable = Worker._is_claimable

    def leave_trainings(worker: Worker, resource: Resource) -> bool:
        is_training = worker._find_queue(resource) is JobQueue.TRAINING
        return not is_training and is_claimable(worker, resource)

    monkeypatch.setattr(Worker, "_is_claimable", leave_trainings)
    slow = open_client(project)
    arn = create_solution(slow, group_made["group"], {"batchrec:pipeline": "shop"})

    def start_import(name: str) -> str:
        return slow.create_dataset_import_job(
            jobName=name,
            datasetArn=group_made["dataset"],
            dataSource={"dataLocation": f"s3://{LOCAL_BUCKET}/interactions.csv"},
            roleArn="arn:aws:iam::000000000000:role/personalize",
        )["datasetImportJobArn"]

    first = start_import("first")
    while slow.describe_solution(solutionArn=arn)["solution"]["status"] != "ACTIVE":
        time.sleep(0.01)
    while (
        slow.describe_dataset_import_job(datasetImportJobArn=first)["datasetImportJob"]["status"]
        != "ACTIVE"
    ):
        time.sleep(0.01)
    with monkeypatch.context() as paused_work:
        paused_work.setattr(Worker, "wake", lambda worker: None)  # nobody imports yet
        version = slow.create_solution_version(name="by-popularity-1", solutionArn=arn)
        start_import("second")
        plan = plan_teardown(ensure(slow), "shop")
    assert {piece.kind.label for piece in plan.work} == {"solution version", "dataset import job"}
    with caplog.at_level(logging.INFO):
        delete(ensure(slow), plan)
    assert f"stopping solution version {version['solutionVersionArn'].partition('/')[2]}" in (
        caplog.text
    )
    assert list_arns(slow) == set()


def test_a_deletion_that_never_ends_meets_the_deadline(
    project: Project, group_made: dict[str, str]
) -> None:
    store = ObjectStore({LOCAL_BUCKET: project.storage})
    slow = make_client(open_idle_service(find_home(project), store))
    arn = create_solution(slow, group_made["group"], {"batchrec:pipeline": "shop"})
    assert arn
    with pytest.raises(PersonalizeError, match=r"solution by-popularity .*re-run to resume"):
        delete(ensure(slow, deadline=0.2), plan_teardown(ensure(slow), "shop"))
