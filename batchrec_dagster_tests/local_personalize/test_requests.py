"""Requests: what is refused and how, lists in pages, tags, what must be deleted first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from batchrec_dagster.local_personalize.api.service import LocalPersonalize, answer
from batchrec_dagster.local_personalize.api.validation import input_shape, service_model
from batchrec_dagster.local_personalize.catalog.kinds import Quotas
from batchrec_dagster.local_personalize.jobs.worker import Worker
from batchrec_dagster.local_personalize.operations import registry
from batchrec_dagster.local_personalize.recipes import RECIPES
from batchrec_dagster.personalize.datasets import interactions_schema, items_schema
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.local_personalize.support import (
    RECIPE,
    ROLE,
    Local,
    taste_rows,
    user_lines,
)

GROUP = "arn:aws:personalize:us-east-1:000000000000:dataset-group/films"


def _raw(service: LocalPersonalize, operation: str, body: Any) -> tuple[int, dict[str, Any]]:
    """What a client without botocore's own checks gets."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    status, text, _ = answer(service.call, f"AmazonPersonalize.{operation}", data)
    return status, json.loads(text)


@pytest.fixture
def service(tmp_path: Path) -> LocalPersonalize:
    return LocalPersonalize(tmp_path / "home", ObjectStore())


@pytest.mark.parametrize(
    ("operation", "params", "message"),
    [
        pytest.param(
            "CreateDatasetGroup",
            {"name": "no spaces"},
            "1 validation error detected: Value 'no spaces' at 'name' failed to satisfy constraint:"
            " Member must satisfy regular expression pattern: ^[a-zA-Z0-9][a-zA-Z0-9\\-_]*",
            id="pattern",
        ),
        pytest.param(
            "CreateDatasetGroup",
            {"name": "n" * 64},
            f"1 validation error detected: Value '{'n' * 64}' at 'name' failed to satisfy"
            " constraint: Member must have length less than or equal to 63",
            id="longest",
        ),
        pytest.param(
            "ListSchemas",
            {"maxResults": 101},
            "1 validation error detected: Value '101' at 'maxResults' failed to satisfy constraint:"
            " Member must have value less than or equal to 100",
            id="largest",
        ),
        pytest.param(
            "ListSchemas",
            {"maxResults": 0},
            "1 validation error detected: Value '0' at 'maxResults' failed to satisfy constraint:"
            " Member must have value greater than or equal to 1",
            id="smallest",
        ),
        pytest.param(
            "CreateSolutionVersion",
            {"solutionArn": GROUP, "trainingMode": "HALF"},
            "1 validation error detected: Value 'HALF' at 'trainingMode' failed to satisfy"
            " constraint: Member must satisfy enum value set: [FULL, UPDATE, AUTOTRAIN]",
            id="enum",
        ),
        pytest.param(
            "CreateDatasetGroup",
            {},
            "1 validation error detected: Value null at 'name' failed to satisfy constraint:"
            " Member must not be null",
            id="required",
        ),
        pytest.param(
            "CreateDatasetGroup",
            {"name": 7},
            "1 validation error detected: Value '7' at 'name' failed to satisfy constraint:"
            " Member must be a string",
            id="type",
        ),
        pytest.param(
            "CreateDatasetGroup",
            {"name": "films", "tags": [{"tagKey": "k"}]},
            "1 validation error detected: Value null at 'tags.1.member.tagValue' failed to satisfy"
            " constraint: Member must not be null",
            id="within a list",
        ),
        pytest.param(
            "CreateDatasetGroup",
            {"name": "", "roleArn": "me"},
            "2 validation errors detected",
            id="all at once",
        ),
        pytest.param(
            "CreateBatchInferenceJob",
            {
                "jobName": "job",
                "solutionVersionArn": GROUP,
                "roleArn": ROLE,
                "jobInput": {"s3DataSource": {"path": "ftp://data/users.json"}},
                "jobOutput": {"s3DataDestination": {"path": "s3://data/out/"}},
            },
            "at 'jobInput.s3DataSource.path' failed to satisfy constraint: Member must satisfy"
            " regular expression pattern: (s3|http|https)://.+",
            id="a place that is not S3",
        ),
    ],
)
def test_a_request_that_breaks_the_model(
    service: LocalPersonalize, operation: str, params: dict[str, Any], message: str
) -> None:
    status, refusal = _raw(service, operation, params)
    assert status == 400
    assert refusal["__type"] == "InvalidInputException"
    assert message in refusal["message"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"name": NaN}', b"[]", b"[" * 5000])
def test_a_body_that_is_no_json_object(service: LocalPersonalize, body: bytes) -> None:
    status, refusal = _raw(service, "CreateDatasetGroup", body)
    assert (status, refusal["__type"]) == (400, "SerializationException")


def test_unknown_members_are_ignored(service: LocalPersonalize) -> None:
    status, made = _raw(service, "CreateDatasetGroup", {"name": "films", "colour": "red"})
    assert (status, made) == (200, {"datasetGroupArn": GROUP})


@pytest.mark.parametrize(
    ("target", "code"),
    [
        ("AmazonPersonalize.Recommend", "UnknownOperationException"),
        ("Other.ListSchemas", "UnknownOperationException"),
        ("", "UnknownOperationException"),
        ("AmazonPersonalize.CreateCampaign", "InvalidInputException"),
    ],
)
def test_unknown_operations(service: LocalPersonalize, target: str, code: str) -> None:
    status, text, _ = answer(service.call, target, b"{}")
    assert status == 400
    assert json.loads(text)["__type"] == code


def test_every_operation_of_the_model_is_answered_or_refused_by_name(
    service: LocalPersonalize,
) -> None:
    for operation in service_model().operation_names:
        status, body = _raw(service, operation, {})
        if operation not in registry.OPERATIONS:
            assert status == 400
            assert body["__type"] == "InvalidInputException"
            assert f"{operation} is not supported locally" in body["message"]
        elif status == 200:
            assert operation.startswith("List")
        else:
            assert body["__type"] in ("InvalidInputException", "ResourceNotFoundException")


def test_an_unsupported_operation_is_a_clear_refusal_to_boto3(local: Local) -> None:
    with pytest.raises(local.client.exceptions.InvalidInputException, match="not supported"):
        local.client.create_campaign(name="films", solutionVersionArn=GROUP)


def test_the_lists_of_unsupported_kinds_are_empty(local: Local) -> None:
    """An inventory or a clean-up of an account asks for all of them."""
    client: Any = local.client
    group = local.group()
    for name, member in (
        ("list_campaigns", "campaigns"),
        ("list_data_deletion_jobs", "dataDeletionJobs"),
        ("list_dataset_export_jobs", "datasetExportJobs"),
        ("list_event_trackers", "eventTrackers"),
        ("list_metric_attribution_metrics", "metrics"),
        ("list_metric_attributions", "metricAttributions"),
        ("list_recommenders", "recommenders"),
    ):
        if client.can_paginate(name):
            assert list(client.get_paginator(name).paginate().search(member)) == []
        assert getattr(client, name)()[member] == []
        with pytest.raises(client.exceptions.InvalidNextTokenException):
            getattr(client, name)(nextToken="x")
    assert client.list_event_trackers(datasetGroupArn=group)["eventTrackers"] == []


def test_a_resource_of_an_unsupported_kind_is_not_found(local: Local) -> None:
    """As on AWS, for clean-ups by stored ARNs and for programs that look before they create."""
    asked = set()
    for operation, member in registry.NEVER_FOUND.items():
        if set(input_shape(operation).required_members) <= {member}:
            ask = getattr(local.client, xform_name(operation))
            with pytest.raises(local.client.exceptions.ResourceNotFoundException, match=GROUP):
                ask(**{member: GROUP})
            asked.add(operation)
    assert asked >= {"DescribeCampaign", "DeleteEventTracker", "StopRecommender"}


def test_an_internal_error_is_not_exposed(
    local: Local, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(call: object) -> dict[str, Any]:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setitem(registry.OPERATIONS, "ListSchemas", broken)
    with pytest.raises(ClientError) as raised:
        local.client.list_schemas()
    response = raised.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert response["Error"]["Code"] == "InternalFailure"
    assert "Traceback" not in str(response)
    assert "secret" not in str(response)
    assert "secret detail" in caplog.text  # the log has it
    assert local.client.list_recipes()["recipes"]


def test_names_are_unique(local: Local) -> None:
    local.imported(taste_rows())
    dataset = f"{GROUP.replace('dataset-group', 'dataset')}/INTERACTIONS"
    solution = local.solution(GROUP)
    local.filter(GROUP)
    version = local.active(local.version(solution, name="one"))
    local.store.put("s3://data/users.json", user_lines(["u1"]))
    local.active(local.batch_job(version))
    exists = local.client.exceptions.ResourceAlreadyExistsException
    again = (
        lambda: local.group(),
        lambda: local.dataset(GROUP),
        lambda: local.client.create_dataset(
            name="other",
            schemaArn=GROUP.replace("dataset-group", "schema"),
            datasetGroupArn=GROUP,
            datasetType="interactions",
        ),
        lambda: local.import_job(dataset, "s3://data/interactions.csv"),
        lambda: local.solution(GROUP),
        lambda: local.version(solution, name="one"),
        lambda: local.filter(GROUP),
        lambda: local.batch_job(version),
    )
    for request in again:
        with pytest.raises(exists, match="already exists"):
            request()


def test_what_does_not_exist(local: Local) -> None:
    nothing = local.client.exceptions.ResourceNotFoundException
    arn = GROUP.replace("films", "none")
    client = local.client
    group = local.group()
    requests = (
        lambda: client.describe_dataset_group(datasetGroupArn=arn),
        lambda: client.describe_schema(schemaArn=group),  # it exists, as something else
        lambda: client.delete_solution(solutionArn=arn),
        lambda: client.list_tags_for_resource(resourceArn=arn),
        lambda: client.get_solution_metrics(solutionVersionArn=arn),
        lambda: client.stop_solution_version_creation(solutionVersionArn=arn),
        lambda: client.describe_recipe(recipeArn=RECIPE + "aws-magic"),
        lambda: local.solution(group, "aws-magic"),
        lambda: local.version(arn),
        lambda: local.import_job(arn, "s3://data/interactions.csv"),
        lambda: local.batch_job(arn),
        lambda: local.filter(arn),
    )
    for request in requests:
        with pytest.raises(nothing, match="does not exist"):
            request()


def test_quotas(tmp_path: Path) -> None:
    quotas = Quotas(
        schemas=1,
        dataset_groups=2,
        solutions_per_group=1,
        filters_per_group=1,
        running_dataset_import_jobs=0,
        running_solution_versions=0,
    )
    local = Local(tmp_path, quotas)
    limit = local.client.exceptions.LimitExceededException
    group, other = local.group("films"), local.group("books")
    dataset = local.dataset(group)
    solution = local.solution(group)
    local.filter(group)
    with pytest.raises(limit, match="already 2 datasetGroups in this region") as refused:
        local.group("songs")
    message = refused.value.response["Error"]["Message"]
    assert "Delete one that you no longer need" in message
    assert message.endswith("BATCHREC_LOCAL_PERSONALIZE_QUOTAS=dataset_groups=4")
    with pytest.raises(limit, match="already 1 schemas"):
        local.client.create_schema(name="more", schema=interactions_schema(event_type=False))
    with pytest.raises(limit, match=f"already 1 solutions in {group}"):
        local.solution(group, name="second")
    with pytest.raises(limit, match="already 1 Filters"):
        local.filter(group, name="second")
    running = "More than 0 resources with PENDING or IN_PROGRESS status. Wait until one ends"
    with pytest.raises(limit, match=running):
        local.import_job(dataset, "s3://data/interactions.csv")
    with pytest.raises(limit, match=running):
        local.version(solution)
    local.solution(other, name="second")  # the quota is the group's


def test_lists_come_in_pages(local: Local) -> None:
    client = local.client
    names = [f"schema-{number}" for number in range(7)]
    for name in names:
        client.create_schema(name=name, schema=interactions_schema(event_type=False))
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
        local.group(name)
    token = local.client.list_dataset_groups(maxResults=1)["nextToken"]
    with pytest.raises(local.client.exceptions.InvalidNextTokenException):
        local.client.list_schemas(nextToken=token)


def test_lists_of_a_parent(local: Local) -> None:
    one, two = local.group("one"), local.group("two")
    local.solution(one, name="first")
    local.solution(two, name="second")
    listed = local.client.list_solutions(datasetGroupArn=two)["solutions"]
    assert [solution["name"] for solution in listed] == ["second"]
    assert len(local.client.list_solutions()["solutions"]) == 2
    local.dataset(one)
    local.filter(one)
    assert [found["name"] for found in local.client.list_filters()["Filters"]] == ["seen"]
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
    local.active(arn)
    client.delete_dataset_group(datasetGroupArn=arn)
    local.gone(arn)
    local.group()
    assert client.list_tags_for_resource(resourceArn=arn)["tags"] == []  # they went with it


def test_a_resource_in_use_cannot_be_deleted(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    client = local.client
    in_use = client.exceptions.ResourceInUseException
    group, dataset = local.imported(taste_rows())
    solution = local.solution(group)
    version = local.active(local.version(solution))
    kept = local.filter(group)
    schema = client.describe_dataset(datasetArn=dataset)["dataset"]["schemaArn"]
    with pytest.raises(in_use, match="still has solutions"):
        client.delete_dataset_group(datasetGroupArn=group)
    with pytest.raises(in_use, match="is the schema of"):
        client.delete_schema(schemaArn=schema)
    client.delete_solution(solutionArn=solution)
    local.gone(solution)
    local.gone(version)
    assert not list((local.root / "home" / "models").iterdir())
    other = local.solution(group, name="other")
    with monkeypatch.context() as held:
        held.setattr(Worker, "wake", lambda worker: None)
        client.update_solution(solutionArn=other, performAutoTraining=True)
        with pytest.raises(in_use, match="it is being updated"):
            client.delete_solution(solutionArn=other)
    while local.describe(other)["latestSolutionUpdate"]["status"] != "ACTIVE":
        pass
    client.delete_solution(solutionArn=other)
    local.gone(other)
    with pytest.raises(in_use, match="still has datasets"):
        client.delete_dataset_group(datasetGroupArn=group)
    with pytest.raises(in_use, match=f"still has filters.*{kept}"):
        client.delete_dataset(datasetArn=dataset)
    client.delete_filter(filterArn=kept)
    local.gone(kept)
    client.delete_dataset(datasetArn=dataset)
    local.gone(dataset)
    assert not list((local.root / "home" / "datasets").iterdir())
    client.delete_dataset_group(datasetGroupArn=group)
    local.gone(group)
    client.delete_schema(schemaArn=schema)
    local.gone(schema)


def test_a_resource_that_is_not_active_cannot_be_used(
    local: Local, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_use = local.client.exceptions.ResourceInUseException
    schema = local.client.create_schema(name="films", schema=interactions_schema(event_type=False))[
        "schemaArn"
    ]
    with monkeypatch.context() as held:
        held.setattr(Worker, "wake", lambda worker: None)  # nobody does the work
        group = local.client.create_dataset_group(name="films")["datasetGroupArn"]
        assert local.describe(group)["status"] == "CREATE PENDING"
        with pytest.raises(in_use, match="CREATE PENDING"):
            local.client.create_dataset(
                name="films", schemaArn=schema, datasetGroupArn=group, datasetType="Interactions"
            )
        with pytest.raises(in_use, match="CREATE PENDING"):
            local.solution(group)
        with pytest.raises(in_use, match="CREATE PENDING"):
            local.client.delete_dataset_group(datasetGroupArn=group)
    local.active(group)
    local.solution(group)


def test_hyperparameters_are_checked_on_create_solution(local: Local) -> None:
    group = local.group()
    invalid = local.client.exceptions.InvalidInputException
    for parameters, reason in (
        ({"depth": "3"}, "has no hyperparameter depth"),
        ({"hidden_dimension": "31"}, "a whole number from 32 to 256"),
        ({"recency_mask": "perhaps"}, "true or false"),
    ):
        with pytest.raises(invalid, match=reason):
            local.solution(
                group,
                "aws-user-personalization",
                solutionConfig={"algorithmHyperParameters": parameters},
            )
    for threshold in ("many", "nan", "inf"):
        with pytest.raises(invalid, match="eventValueThreshold must be a number"):
            local.solution(group, solutionConfig={"eventValueThreshold": threshold})


@pytest.mark.parametrize("days", ["rate(0 days)", "rate(31 days)", "rate(400 days)"])
def test_automatic_training_is_every_1_to_30_days(local: Local, days: str) -> None:
    config: Any = {"autoTrainingConfig": {"schedulingExpression": days}}
    group = local.group()
    invalid = local.client.exceptions.InvalidInputException
    with pytest.raises(invalid, match="N from 1 to 30"):
        local.solution(group, solutionConfig=config)
    solution = local.solution(group)
    with pytest.raises(invalid, match="N from 1 to 30"):
        local.client.update_solution(solutionArn=solution, solutionUpdateConfig=config)


def test_an_objective_needs_a_number_of_the_items(local: Local) -> None:
    group, invalid = local.group(), local.client.exceptions.InvalidInputException

    def solution(column: str, recipe: str = "aws-user-personalization", name: str = "s") -> str:
        objective: Any = {"itemAttribute": column, "objectiveSensitivity": "LOW"}
        config: Any = {"optimizationObjective": objective}
        return local.solution(group, recipe, name=name, solutionConfig=config)

    with pytest.raises(invalid, match="no Items dataset with a column PRICE"):
        solution("PRICE")
    record = json.loads(items_schema(created=True, categories=["GENRE"], numbers=["YEAR"]))
    record["fields"].append({"name": "PRICE", "type": "float"})
    schema = local.client.create_schema(name="i", schema=json.dumps(record))["schemaArn"]
    made = local.client.create_dataset(
        name="i", schemaArn=schema, datasetGroupArn=group, datasetType="Items"
    )
    local.active(made["datasetArn"])
    for column, reason in (
        ("LENGTH", "no Items dataset with a column LENGTH"),
        ("GENRE", "GENRE must be a number that is never null"),
        ("YEAR", "YEAR must be a number that is never null"),
    ):
        with pytest.raises(invalid, match=reason):
            solution(column)
    with pytest.raises(invalid, match="aws-sims has no optimizationObjective"):
        solution("PRICE", "aws-sims")
    solution("PRICE")


def test_the_region_and_its_resources_are_the_clients(local: Local) -> None:
    local.group()
    elsewhere = local.another_client(region="eu-west-1")
    assert elsewhere.list_dataset_groups()["datasetGroups"] == []
    made = elsewhere.create_dataset_group(name="films")["datasetGroupArn"]
    assert made == "arn:aws:personalize:eu-west-1:000000000000:dataset-group/films"


def test_an_account_has_its_own_resources_and_quotas(tmp_path: Path) -> None:
    local = Local(tmp_path, Quotas(dataset_groups=1))
    local.group()
    other = local.another_client(account="123456789012")
    assert other.list_dataset_groups()["datasetGroups"] == []
    made = other.create_dataset_group(name="films")["datasetGroupArn"]
    assert made == "arn:aws:personalize:us-east-1:123456789012:dataset-group/films"
    (listed,) = other.list_dataset_groups()["datasetGroups"]
    assert listed["datasetGroupArn"] == made
    with pytest.raises(other.exceptions.LimitExceededException):
        other.create_dataset_group(name="books")


def test_quotas_from_texts() -> None:
    assert Quotas.parse([]) == Quotas(dataset_groups=50, schemas=500)
    assert Quotas.parse(["dataset_groups=5", "schemas=9"]) == Quotas(dataset_groups=5, schemas=9)
    for text in ("groups=5", "schemas", "schemas=-1", "schemas=many"):
        with pytest.raises(ValueError, match=f"'{text}' is not NAME=NUMBER.*dataset_groups"):
            Quotas.parse([text])


def test_times_are_times(local: Local) -> None:
    described = local.client.describe_dataset_group(datasetGroupArn=local.group())["datasetGroup"]
    assert described["creationDateTime"] <= described["lastUpdatedDateTime"]
    assert described["creationDateTime"].tzinfo is not None
