"""Tests of how often botocore repeats a request that a limit of Personalize rejects."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from typing import Any

import pytest
from botocore.awsrequest import AWSPreparedRequest, AWSResponse
from botocore.compat import HTTPHeaders

from batchrec_dagster.pipeline.personalize_resource import PersonalizeResource
from batchrec_dagster.pipeline.storage_resource import S3ConnectionResource, StorageResource

Create = Callable[[Any], Any]
GROUP = "arn:aws:personalize:eu-west-1:123456789012:dataset-group/shop"
VERSION = "arn:aws:personalize:eu-west-1:123456789012:solution/shop/0123abcd"
ROLE = "arn:aws:iam::123456789012:role/Personalize"

# The limits that this project's requests can reach, and that no retry can pass.
CREATIONS: dict[str, tuple[str, Create]] = {
    "schema": (
        "You have reached the maximum number of schemas: 500",
        lambda client: client.create_schema(name="shop", schema="{}" * 5),
    ),
    "dataset group": (
        "You have reached the maximum number of dataset groups: 5",
        lambda client: client.create_dataset_group(name="shop"),
    ),
    "solution": (
        "You have reached the maximum number of solutions: 10",
        lambda client: client.create_solution(name="shop", datasetGroupArn=GROUP),
    ),
    "filter": (
        "You have reached the maximum number of filters: 10",
        lambda client: client.create_filter(
            name="shop", datasetGroupArn=GROUP, filterExpression="EXCLUDE"
        ),
    ),
    "import": (
        "More than 10 distinct event types",
        lambda client: client.create_dataset_import_job(
            jobName="shop", datasetArn=GROUP, dataSource={}, roleArn=ROLE
        ),
    ),
    # `Resources` itself waits for this limit.
    "training": (
        "More than 20 resources with PENDING or IN_PROGRESS status.",
        lambda client: client.create_solution_version(solutionArn=VERSION),
    ),
}


class Body(BytesIO):
    def stream(self, **_: Any) -> Any:
        yield self.read()


def make_client(code: str, message: str, targets: list[str], rejections: int = 99) -> Any:
    """Return a deployment's client whose first requests get this error.

    targets: the list to which the operation of each request is appended.
    rejections: the number of requests that get the error. Later requests get an empty list of
        schemas.
    """
    s3 = S3ConnectionResource(
        region_name="eu-west-1",
        aws_access_key_id="me",
        aws_secret_access_key="secret",
    )
    storage = StorageResource(root="s3://shop/batchrec", s3=s3)
    client: Any = PersonalizeResource(endpoint="aws", storage=storage, role_arn=ROLE).client

    def respond(request: AWSPreparedRequest, **_: Any) -> AWSResponse:
        targets.append(f"{request.headers['X-Amz-Target']}")
        is_rejected = len(targets) <= rejections
        error = {"__type": code, "message": message}
        answer: dict[str, Any] = error if is_rejected else {"schemas": []}
        body = Body(json.dumps(answer).encode())
        return AWSResponse(str(request.url), 400 if is_rejected else 200, HTTPHeaders(), body)

    client.meta.events.register("before-send.personalize", respond)
    return client


@pytest.mark.parametrize("name", CREATIONS)
def test_a_request_that_a_quota_rejects_is_sent_once(name: str) -> None:
    message, create = CREATIONS[name]
    targets: list[str] = []
    client = make_client("LimitExceededException", message, targets)
    with pytest.raises(client.exceptions.LimitExceededException, match=message):
        create(client)
    assert len(targets) == 1


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("LimitExceededException", "The limit on the number of requests per second was exceeded."),
        ("ThrottlingException", "Rate exceeded"),
    ],
)
def test_a_request_that_came_too_fast_is_sent_again(code: str, message: str) -> None:
    targets: list[str] = []
    client = make_client(code, message, targets, rejections=1)
    assert client.list_schemas()["schemas"] == []
    assert len(targets) == 2
