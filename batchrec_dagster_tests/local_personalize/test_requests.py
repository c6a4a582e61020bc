"""Requests: what is refused and how, lists in pages, tags, what must be deleted first."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from botocore import xform_name
from botocore.exceptions import ClientError

from batchrec_dagster.local_personalize.api.service import LocalPersonalize, answer
from batchrec_dagster.local_personalize.api.validation import find_input_shape, load_service_model
from batchrec_dagster.local_personalize.operations import registry
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.servers.personalize import (
    ROLE,
    Local,
)

GROUP = "arn:aws:personalize:us-east-1:000000000000:dataset-group/films"


def _send_request(
    service: LocalPersonalize, operation: str, body: Any
) -> tuple[int, dict[str, Any]]:
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
    status, refusal = _send_request(service, operation, params)
    assert status == 400
    assert refusal["__type"] == "InvalidInputException"
    assert message in refusal["message"]


@pytest.mark.parametrize("body", [b"{", b"\xff\xfe", b'{"name": NaN}', b"[]", b"[" * 5000])
def test_a_body_that_is_no_json_object(service: LocalPersonalize, body: bytes) -> None:
    status, refusal = _send_request(service, "CreateDatasetGroup", body)
    assert (status, refusal["__type"]) == (400, "SerializationException")


def test_unknown_members_are_ignored(service: LocalPersonalize) -> None:
    status, group_answer = _send_request(
        service, "CreateDatasetGroup", {"name": "films", "colour": "red"}
    )
    assert (status, group_answer) == (200, {"datasetGroupArn": GROUP})


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
    for operation in load_service_model().operation_names:
        status, body = _send_request(service, operation, {})
        if status == 200:
            assert operation.startswith("List")
        else:
            assert body["__type"] in ("InvalidInputException", "ResourceNotFoundException")


def test_an_unsupported_operation_is_a_clear_refusal_to_boto3(local: Local) -> None:
    with pytest.raises(local.client.exceptions.InvalidInputException, match="not supported"):
        local.client.create_campaign(name="films", solutionVersionArn=GROUP)


def test_the_lists_of_unsupported_kinds_are_empty(local: Local) -> None:
    """An inventory or a clean-up of an account asks for all of them."""
    client: Any = local.client
    group = local.create_group()
    for name, member in (
        ("list_campaigns", "campaigns"),
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
    """AWS answers so, and clean-ups by stored ARNs and programs that look first rely on it."""
    others = set(load_service_model().operation_names) - registry.OPERATIONS.keys()
    operations = {name for name in others if name.startswith(("Describe", "Delete"))}
    assert operations >= {"DescribeCampaign", "DeleteEventTracker", "DescribeAlgorithm"}
    for operation in operations:
        [member] = find_input_shape(operation).members
        ask = getattr(local.client, xform_name(operation))
        with pytest.raises(local.client.exceptions.ResourceNotFoundException, match=GROUP):
            ask(**{member: GROUP})


def test_an_internal_error_is_not_exposed(
    local: Local, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def raise_secret(call: object) -> dict[str, Any]:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setitem(registry.OPERATIONS, "ListSchemas", raise_secret)
    with pytest.raises(ClientError) as error:
        local.client.list_schemas()
    response = error.value.response
    assert response["ResponseMetadata"]["HTTPStatusCode"] == 500
    assert response["Error"]["Code"] == "InternalFailure"
    assert "Traceback" not in str(response)
    assert "secret" not in str(response)
    assert "secret detail" in caplog.text  # the log has it
    assert local.client.list_recipes()["recipes"]


def test_hyperparameters_are_checked_on_create_solution(local: Local) -> None:
    group = local.create_group()
    invalid = local.client.exceptions.InvalidInputException
    for parameters, reason in (
        ({"depth": "3"}, "has no hyperparameter depth"),
        ({"hidden_dimension": "31"}, "a whole number from 32 to 256"),
        ({"recency_mask": "perhaps"}, "true or false"),
    ):
        with pytest.raises(invalid, match=reason):
            local.create_solution(
                group,
                "aws-user-personalization",
                solutionConfig={"algorithmHyperParameters": parameters},
            )
    for threshold in ("many", "nan", "inf"):
        with pytest.raises(invalid, match="eventValueThreshold must be a number"):
            local.create_solution(group, solutionConfig={"eventValueThreshold": threshold})
