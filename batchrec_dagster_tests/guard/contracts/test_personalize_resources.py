"""Tests of the resources in an account of the local Personalize, and of its refusals.

The tests cover names, pages, tags, resources in use, and invalid requests.
"""

from __future__ import annotations

from typing import Any

import pytest

from batchrec_dagster_tests.guard.servers.personalize import RECIPE, Local
from batchrec_dagster_tests.guard.servers.personalize_data import (
    build_taste_rows,
    encode_user_lines,
    write_interactions_schema,
    write_schema,
)

RECIPE_TYPES = {
    "aws-user-personalization": "USER_PERSONALIZATION",
    "aws-user-personalization-v2": "USER_PERSONALIZATION",
    "aws-sims": "RELATED_ITEMS",
    "aws-similar-items": "RELATED_ITEMS",
    "aws-item-affinity": "USER_SEGMENTATION",
    "aws-item-attribute-affinity": "USER_SEGMENTATION",
}
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


def test_missing_resources_are_reported_as_not_found(local: Local) -> None:
    missing_error = local.client.exceptions.ResourceNotFoundException
    arn = GROUP.replace("films", "none")
    client = local.client
    group = local.create_group()
    requests = (
        lambda: client.describe_dataset_group(datasetGroupArn=arn),
        # The ARN exists, for a resource of another kind.
        lambda: client.describe_schema(schemaArn=group),
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
        client.create_schema(name=name, schema=write_interactions_schema(event_type=False))
    pages = list(client.get_paginator("list_schemas").paginate(PaginationConfig={"PageSize": 3}))
    assert [[schema["name"] for schema in page["schemas"]] for page in pages] == [
        names[:3],
        names[3:6],
        names[6:],
    ]
    first = client.list_schemas(maxResults=3)
    client.delete_schema(schemaArn=first["schemas"][2]["schemaArn"])
    second = client.list_schemas(maxResults=3, nextToken=first["nextToken"])
    assert [schema["name"] for schema in second["schemas"]] == names[3:6]  # no resource is left out
    recipes = [
        recipe["name"]
        for page in client.get_paginator("list_recipes").paginate(PaginationConfig={"PageSize": 1})
        for recipe in page["recipes"]
    ]
    assert set(recipes) == set(RECIPE_TYPES)
    assert len(recipes) == len(RECIPE_TYPES)


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
    first_group, second_group = local.create_group("one"), local.create_group("two")
    local.create_solution(first_group, name="first")
    local.create_solution(second_group, name="second")
    solutions = local.client.list_solutions(datasetGroupArn=second_group)["solutions"]
    assert [solution["name"] for solution in solutions] == ["second"]
    assert len(local.client.list_solutions()["solutions"]) == 2
    local.create_dataset(first_group)
    local.create_filter(first_group)
    assert [entry["name"] for entry in local.client.list_filters()["Filters"]] == ["seen"]
    assert local.client.list_filters(datasetGroupArn=second_group)["Filters"] == []


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
    # The tags were deleted with their resource.
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == []


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
    with pytest.raises(in_use_error, match="still has datasets"):
        client.delete_dataset_group(datasetGroupArn=group)
    with pytest.raises(in_use_error, match=f"still has filters.*{filter_arn}"):
        client.delete_dataset(datasetArn=dataset)
    client.delete_filter(filterArn=filter_arn)
    local.wait_until_gone(filter_arn)
    client.delete_dataset(datasetArn=dataset)
    local.wait_until_gone(dataset)
    client.delete_dataset_group(datasetGroupArn=group)
    local.wait_until_gone(group)
    client.delete_schema(schemaArn=schema)
    local.wait_until_gone(schema)


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


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"name": NaN}', b"[]", b"[" * 5000])
def test_a_body_that_is_no_json_object(local: Local, body: bytes) -> None:
    reply = local.send("CreateDatasetGroup", body)
    assert (reply.status, reply.content["__type"]) == (400, "SerializationException")


def test_unknown_members_are_ignored(local: Local) -> None:
    reply = local.send("CreateDatasetGroup", {"name": "films", "colour": "red"})
    assert (reply.status, reply.content) == (200, {"datasetGroupArn": GROUP})


@pytest.mark.parametrize(
    ("target", "operation"), [("AmazonPersonalize.", "Recommend"), ("Other.", "ListSchemas")]
)
def test_unknown_operations(local: Local, target: str, operation: str) -> None:
    reply = local.send(operation, {}, target)
    assert (reply.status, reply.content["__type"]) == (400, "UnknownOperationException")


def test_all_recipes_with_batch_jobs_are_listed_and_described(local: Local) -> None:
    recipes = local.client.list_recipes()["recipes"]
    assert {recipe["name"] for recipe in recipes} == RECIPE_TYPES.keys()
    for summary in recipes:
        description = local.client.describe_recipe(recipeArn=summary["recipeArn"])["recipe"]
        assert description["recipeType"] == RECIPE_TYPES[summary["name"]]
        assert description["recipeArn"] == RECIPE + summary["name"]
        assert description["description"]
        assert description.items() >= summary.items()


@pytest.mark.parametrize(
    ("recipe", "error"),
    [
        ("aws-trending-now", "InvalidInputException"),
        ("aws-next-best-action", "InvalidInputException"),
        ("aws-semantic-similarity", "InvalidInputException"),
        ("aws-hrnn", "ResourceNotFoundException"),
        ("aws-magic", "ResourceNotFoundException"),
    ],
)
def test_other_recipes_are_refused_by_name(local: Local, recipe: str, error: str) -> None:
    with pytest.raises(getattr(local.client.exceptions, error), match=recipe):
        local.create_solution(local.create_group(), recipe)


@pytest.mark.parametrize(
    ("option", "config"),
    [
        ("depth", {"algorithmHyperParameters": {"depth": "3"}}),
        ("hidden_dimension", {"algorithmHyperParameters": {"hidden_dimension": "31"}}),
        ("recency_mask", {"algorithmHyperParameters": {"recency_mask": "perhaps"}}),
        ("eventValueThreshold", {"eventValueThreshold": "many"}),
        ("eventValueThreshold", {"eventValueThreshold": "nan"}),
    ],
)
def test_a_wrong_setting_of_a_solution_is_named(
    local: Local, option: str, config: dict[str, Any]
) -> None:
    with pytest.raises(local.client.exceptions.InvalidInputException, match=option):
        local.create_solution(
            local.create_group(), "aws-user-personalization", solutionConfig=config
        )


def test_a_schema_that_cannot_be_used_says_why(local: Local) -> None:
    user, item = {"name": "USER_ID"}, {"name": "ITEM_ID"}
    age = {"name": "AGE", "type": "int"}
    for text, reason in (
        ("{", "JSON"),
        ("[]", "JSON"),
        (write_schema("Interactions", user, item), "TIMESTAMP"),
        (write_schema("Interactions", user, item, {"name": "TIMESTAMP"}), "long"),
        (write_schema("Interactions", user, user), "USER_ID"),
        (write_schema("Users", user, {**age, "type": "date"}), "date"),
        (write_schema("Users", user, {**age, "name": "A B"}), "A B"),
    ):
        with pytest.raises(local.client.exceptions.InvalidInputException, match=reason):
            local.client.create_schema(name="films", schema=text)
    assert local.client.list_schemas()["schemas"] == []


def test_other_ways_of_training_are_refused_by_name(local: Local) -> None:
    group = local.create_group()
    invalid = local.client.exceptions.InvalidInputException
    for flag in ("performAutoML", "performHPO"):
        with pytest.raises(invalid, match=flag):
            local.create_solution(group, "aws-sims", **{flag: True})
    with pytest.raises(invalid, match="recipeArn"):
        local.client.create_solution(name="films", datasetGroupArn=group)
