"""What there is in an account: names, pages, tags, and what is in use."""

from __future__ import annotations

import pytest

from batchrec_dagster.local_personalize.jobs.worker import Worker
from batchrec_dagster.local_personalize.recipes import RECIPES
from batchrec_dagster.personalize.schemas import build_interactions_schema
from batchrec_dagster_tests.guard.servers.personalize import (
    RECIPE,
    Local,
    build_taste_rows,
    encode_user_lines,
)

GROUP = "arn:aws:personalize:us-east-1:000000000000:dataset-group/films"


def test_names_are_unique(local: Local) -> None:
    local.import_rows(build_taste_rows())
    dataset = f"{GROUP.replace('dataset-group', 'dataset')}/INTERACTIONS"
    solution = local.create_solution(GROUP, "aws-user-personalization")
    local.create_filter(GROUP)
    version = local.wait_until_active(local.create_version(solution, name="one"))
    local.store.put("s3://data/users.json", encode_user_lines(["u1"]))
    local.wait_until_active(local.create_batch_job(version))
    exists = local.client.exceptions.ResourceAlreadyExistsException
    requests = (
        lambda: local.create_group(),
        lambda: local.create_dataset(GROUP),
        lambda: local.client.create_dataset(
            name="other",
            schemaArn=GROUP.replace("dataset-group", "schema"),
            datasetGroupArn=GROUP,
            datasetType="interactions",
        ),
        lambda: local.start_import(dataset, "s3://data/interactions.csv"),
        lambda: local.create_solution(GROUP),
        lambda: local.create_version(solution, name="one"),
        lambda: local.create_filter(GROUP),
        lambda: local.create_batch_job(version),
    )
    for request in requests:
        with pytest.raises(exists, match="already exists"):
            request()


def test_what_does_not_exist(local: Local) -> None:
    missing_error = local.client.exceptions.ResourceNotFoundException
    arn = GROUP.replace("films", "none")
    client = local.client
    group = local.create_group()
    requests = (
        lambda: client.describe_dataset_group(datasetGroupArn=arn),
        lambda: client.describe_schema(schemaArn=group),  # it exists, as something else
        lambda: client.delete_solution(solutionArn=arn),
        lambda: client.list_tags_for_resource(resourceArn=arn),
        lambda: client.get_solution_metrics(solutionVersionArn=arn),
        lambda: client.stop_solution_version_creation(solutionVersionArn=arn),
        lambda: client.describe_recipe(recipeArn=RECIPE + "aws-magic"),
        lambda: local.create_solution(group, "aws-magic"),
        lambda: local.create_version(arn),
        lambda: local.start_import(arn, "s3://data/interactions.csv"),
        lambda: local.create_batch_job(arn),
        lambda: local.create_filter(arn),
    )
    for request in requests:
        with pytest.raises(missing_error, match="does not exist"):
            request()


def test_lists_come_in_pages(local: Local) -> None:
    client = local.client
    names = [f"schema-{number}" for number in range(7)]
    for name in names:
        client.create_schema(name=name, schema=build_interactions_schema(event_type=False))
    pages = list(client.get_paginator("list_schemas").paginate(PaginationConfig={"PageSize": 3}))
    assert [[schema["name"] for schema in page["schemas"]] for page in pages] == [
        names[:3],
        names[3:6],
        names[6:],
    ]
    first = client.list_schemas(maxResults=3)
    client.delete_schema(schemaArn=first["schemas"][2]["schemaArn"])
    second = client.list_schemas(maxResults=3, nextToken=first["nextToken"])
    assert [schema["name"] for schema in second["schemas"]] == names[3:6]  # none is left out
    recipes = [
        recipe["name"]
        for page in client.get_paginator("list_recipes").paginate(PaginationConfig={"PageSize": 1})
        for recipe in page["recipes"]
    ]
    assert recipes == [recipe.name for recipe in RECIPES.values()]


@pytest.mark.parametrize("token", ["x", "WzFd", "e30=", "bnVsbA=="])
def test_an_invalid_token(local: Local, token: str) -> None:
    with pytest.raises(local.client.exceptions.InvalidNextTokenException):
        local.client.list_schemas(nextToken=token)


def test_a_token_is_valid_only_for_its_list(local: Local) -> None:
    for name in ("one", "two"):
        local.create_group(name)
    token = local.client.list_dataset_groups(maxResults=1)["nextToken"]
    with pytest.raises(local.client.exceptions.InvalidNextTokenException):
        local.client.list_schemas(nextToken=token)


def test_lists_of_a_parent(local: Local) -> None:
    first_group, two = local.create_group("one"), local.create_group("two")
    local.create_solution(first_group, name="first")
    local.create_solution(two, name="second")
    solutions = local.client.list_solutions(datasetGroupArn=two)["solutions"]
    assert [solution["name"] for solution in solutions] == ["second"]
    assert len(local.client.list_solutions()["solutions"]) == 2
    local.create_dataset(first_group)
    local.create_filter(first_group)
    assert [entry["name"] for entry in local.client.list_filters()["Filters"]] == ["seen"]
    assert local.client.list_filters(datasetGroupArn=two)["Filters"] == []


def test_tags(local: Local) -> None:
    client = local.client
    arn = client.create_dataset_group(name="films", tags=[{"tagKey": "a", "tagValue": "1"}])[
        "datasetGroupArn"
    ]
    client.tag_resource(
        resourceArn=arn,
        tags=[{"tagKey": "a", "tagValue": "2"}, {"tagKey": "b", "tagValue": ""}],
    )
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == [
        {"tagKey": "a", "tagValue": "2"},
        {"tagKey": "b", "tagValue": ""},
    ]
    client.untag_resource(resourceArn=arn, tagKeys=["a", "never"])
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == [
        {"tagKey": "b", "tagValue": ""}
    ]
    with pytest.raises(client.exceptions.TooManyTagsException):
        client.tag_resource(
            resourceArn=arn,
            tags=[{"tagKey": f"k{n}", "tagValue": "v"} for n in range(50)],
        )
    with pytest.raises(client.exceptions.InvalidInputException, match="more than once"):
        client.tag_resource(resourceArn=arn, tags=[{"tagKey": "a", "tagValue": "1"}] * 2)
    with pytest.raises(client.exceptions.InvalidInputException, match="aws:"):
        client.tag_resource(resourceArn=arn, tags=[{"tagKey": "aws:x", "tagValue": "1"}])
    local.wait_until_active(arn)
    client.delete_dataset_group(datasetGroupArn=arn)
    local.wait_until_gone(arn)
    local.create_group()
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == []  # they went with it


def test_a_resource_in_use_cannot_be_deleted(local: Local) -> None:
    client = local.client
    in_use_error = client.exceptions.ResourceInUseException
    group, dataset = local.import_rows(build_taste_rows())
    solution = local.create_solution(group, "aws-user-personalization")
    version = local.wait_until_active(local.create_version(solution))
    filter_arn = local.create_filter(group)
    schema = client.describe_dataset(datasetArn=dataset)["dataset"]["schemaArn"]
    with pytest.raises(in_use_error, match="still has solutions"):
        client.delete_dataset_group(datasetGroupArn=group)
    with pytest.raises(in_use_error, match="is the schema of"):
        client.delete_schema(schemaArn=schema)
    client.delete_solution(solutionArn=solution)
    local.wait_until_gone(solution)
    local.wait_until_gone(version)
    assert not list((local.root / "home" / "models").iterdir())
    with pytest.raises(in_use_error, match="still has datasets"):
        client.delete_dataset_group(datasetGroupArn=group)
    with pytest.raises(in_use_error, match=f"still has filters.*{filter_arn}"):
        client.delete_dataset(datasetArn=dataset)
    client.delete_filter(filterArn=filter_arn)
    local.wait_until_gone(filter_arn)
    client.delete_dataset(datasetArn=dataset)
    local.wait_until_gone(dataset)
    assert not list((local.root / "home" / "datasets").iterdir())
    client.delete_dataset_group(datasetGroupArn=group)
    local.wait_until_gone(group)
    client.delete_schema(schemaArn=schema)
    local.wait_until_gone(schema)


def test_a_resource_that_is_not_active_cannot_be_used(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_use_error = local.client.exceptions.ResourceInUseException
    schema = local.client.create_schema(
        name="films", schema=build_interactions_schema(event_type=False)
    )["schemaArn"]
    with monkeypatch.context() as paused_work:
        paused_work.setattr(Worker, "wake", lambda worker: None)  # nobody does the work
        group = local.client.create_dataset_group(name="films")["datasetGroupArn"]
        assert local.describe(group)["status"] == "CREATE PENDING"
        with pytest.raises(in_use_error, match="CREATE PENDING"):
            local.client.create_dataset(
                name="films", schemaArn=schema, datasetGroupArn=group, datasetType="Interactions"
            )
        with pytest.raises(in_use_error, match="CREATE PENDING"):
            local.create_solution(group)
        with pytest.raises(in_use_error, match="CREATE PENDING"):
            local.client.delete_dataset_group(datasetGroupArn=group)
    local.wait_until_active(group)
    local.create_solution(group)


def test_the_region_and_its_resources_are_the_clients(local: Local) -> None:
    local.create_group()
    other_client = local.open_client(region="eu-west-1")
    assert other_client.list_dataset_groups()["datasetGroups"] == []
    other_group = other_client.create_dataset_group(name="films")["datasetGroupArn"]
    assert other_group == "arn:aws:personalize:eu-west-1:000000000000:dataset-group/films"


def test_an_account_has_its_own_resources(local: Local) -> None:
    local.create_group()
    other = local.open_client(account="123456789012")
    assert other.list_dataset_groups()["datasetGroups"] == []
    other_group = other.create_dataset_group(name="films")["datasetGroupArn"]
    assert other_group == "arn:aws:personalize:us-east-1:123456789012:dataset-group/films"
    (summary,) = other.list_dataset_groups()["datasetGroups"]
    assert summary["datasetGroupArn"] == other_group


def test_times_are_times(local: Local) -> None:
    description = local.client.describe_dataset_group(datasetGroupArn=local.create_group())[
        "datasetGroup"
    ]
    assert description["creationDateTime"] <= description["lastUpdatedDateTime"]
    assert description["creationDateTime"].tzinfo is not None
