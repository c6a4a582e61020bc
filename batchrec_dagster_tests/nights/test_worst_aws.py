"""The misbehaviours of the proxy that plays AWS at its worst, each alone."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, ConnectionClosedError

from batchrec_dagster.local_personalize.api.server import make_application
from batchrec_dagster.local_personalize.api.service import LocalPersonalize
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster_tests.guard.faults.personalize import (
    HARD_QUOTA,
    ErrorLines,
    ExpiringCredentials,
    FailingResources,
    LaggingLists,
    LateDescribes,
    LostAnswers,
    Misbehaviour,
    PendingStatuses,
    ReachedQuotas,
    Request,
    SplitOutputs,
    Throttling,
    WorstAws,
    worst_aws,
)
from batchrec_dagster_tests.web.test_guard import serve

if TYPE_CHECKING:
    from types_boto3_personalize import PersonalizeClient

FOLDER = "s3://data/out/"


@contextmanager
def client_before(
    home: Path, misbehaviour: Misbehaviour
) -> Iterator[tuple[PersonalizeClient, WorstAws]]:
    """A client that repeats nothing, of a Personalize that misbehaves in one way."""
    service = LocalPersonalize(home, ObjectStore({}))
    with (
        serve(make_application(service)) as (host, port),
        worst_aws(f"http://{host}:{port}", misbehaviour) as aws,
    ):
        session = boto3.Session("any", "any", region_name="us-east-1")
        client: PersonalizeClient = session.client(
            "personalize",
            endpoint_url=aws.address,
            config=Config(retries={"total_max_attempts": 1}),
        )
        yield client, aws


def list_names(client: PersonalizeClient) -> list[str]:
    return [group["name"] for group in client.list_dataset_groups()["datasetGroups"]]


def test_lists_lag(tmp_path: Path) -> None:
    lists = LaggingLists(random.Random(0))
    with client_before(tmp_path, lists) as (client, aws):
        client.create_dataset_group(name="shop")
        listings = [list_names(client) for _ in range(lists.calls + 1)]
    assert lists.count == listings.count([]) > 0
    assert listings[lists.count :] == [["shop"]] * listings.count(["shop"])
    assert aws.creates == {("CreateDatasetGroup", "shop"): 1}


def test_an_answer_is_lost_after_the_request_was_carried_out(tmp_path: Path) -> None:
    lost = LostAnswers("CreateDatasetGroup")
    with client_before(tmp_path, lost) as (client, aws):
        with pytest.raises(ConnectionClosedError):
            client.create_dataset_group(name="shop")
        assert list_names(client) == ["shop"]
        with pytest.raises(client.exceptions.ResourceAlreadyExistsException):
            client.create_dataset_group(name="shop")
    assert lost.count == 1
    assert aws.creates_by_operation() == {"CreateDatasetGroup": 1}


def test_statuses_are_pending_before_they_are_active(tmp_path: Path) -> None:
    statuses = PendingStatuses()
    with client_before(tmp_path, statuses) as (client, _):
        arn = client.create_dataset_group(name="shop")["datasetGroupArn"]
        (group,) = client.list_dataset_groups()["datasetGroups"]
        assert group["status"] == "CREATE PENDING"
        listings = [
            client.describe_dataset_group(datasetGroupArn=arn)["datasetGroup"]["status"]
            for _ in range(3)
        ]
    assert listings == ["CREATE PENDING", "CREATE IN_PROGRESS", "ACTIVE"]
    assert statuses.count == 3


def test_what_was_just_created_is_not_found(tmp_path: Path) -> None:
    late = LateDescribes()
    with client_before(tmp_path, late) as (client, _):
        arn = client.create_dataset_group(name="shop")["datasetGroupArn"]
        with pytest.raises(client.exceptions.ResourceNotFoundException):
            client.describe_dataset_group(datasetGroupArn=arn)
        client.describe_dataset_group(datasetGroupArn=arn)
    assert late.count == 1


def test_one_resource_fails(tmp_path: Path) -> None:
    failures = FailingResources({"CreateDatasetGroup": ["out of memory"]})
    with client_before(tmp_path, failures) as (client, _):
        failed_users, ready = (
            client.create_dataset_group(name=name)["datasetGroupArn"] for name in ("one", "two")
        )
        group = client.describe_dataset_group(datasetGroupArn=failed_users)["datasetGroup"]
        assert (group["status"], group["failureReason"]) == ("CREATE FAILED", "out of memory")
        statuses = {
            summary["name"]: summary["status"]
            for summary in client.list_dataset_groups()["datasetGroups"]
        }
        assert statuses == {"one": "CREATE FAILED", "two": "ACTIVE"}
        group = client.describe_dataset_group(datasetGroupArn=ready)["datasetGroup"]
        assert group["status"] == "ACTIVE"
    assert failures.count == 1


@pytest.mark.parametrize(
    ("misbehaviour", "code"),
    [
        (Throttling(random.Random(0), share=1), "ThrottlingException"),
        (ExpiringCredentials("CreateDatasetGroup"), "ExpiredTokenException"),
        (ReachedQuotas({"CreateDatasetGroup": HARD_QUOTA}), "LimitExceededException"),
    ],
)
def test_a_request_is_refused_and_not_carried_out(
    tmp_path: Path, misbehaviour: Misbehaviour, code: str
) -> None:
    with client_before(tmp_path, misbehaviour) as (client, aws):
        with pytest.raises(ClientError) as error:
            client.create_dataset_group(name="shop")
        assert error.value.response["Error"]["Code"] == code
    assert misbehaviour.count == 1
    assert not aws.creates


def test_some_requests_are_throttled() -> None:
    throttling = Throttling(random.Random(0))
    refusals = [throttling.refuse(Request("ListSchemas", {})) for _ in range(1000)]
    assert throttling.count == 1000 - refusals.count(None)
    assert 150 < throttling.count < 250


def write_output(folder: Path) -> tuple[ObjectStore, list[bytes]]:
    """A storage with the output of a job for 100 users, and its lines."""
    (folder / "out").mkdir(parents=True)
    lines = [
        json.dumps({"input": {"userId": f"{user}"}, "output": {}, "error": None}).encode()
        for user in range(100)
    ]
    store = ObjectStore({"data": folder})
    store.put(f"{FOLDER}users.json.out", b"".join(line + b"\n" for line in lines))
    store.put(f"{FOLDER}_CHECK", b"")
    return store, lines


def test_an_output_is_split_shuffled_and_unmarked(tmp_path: Path) -> None:
    store, lines = write_output(tmp_path)
    split = SplitOutputs(store, random.Random(0))
    split.rewrite(FOLDER)
    names = [file.uri.removeprefix(FOLDER) for file in store.list(FOLDER)]
    assert sorted(names) == [f"part-{part}.json.out" for part in range(3)]
    output_lines = [line for uri in split.outputs(FOLDER) for line in store.get(uri).splitlines()]
    assert output_lines != lines
    assert sorted(output_lines) == sorted(lines)


def test_lines_of_an_output_have_errors(tmp_path: Path) -> None:
    store, lines = write_output(tmp_path)
    errors = ErrorLines(store, random.Random(0), outputs_left=1)
    errors.rewrite(FOLDER)
    errors.rewrite(FOLDER)
    output_lines = [json.loads(line) for line in store.get(f"{FOLDER}users.json.out").splitlines()]
    failed_users = [line["input"]["userId"] for line in output_lines if line["error"]]
    assert len(output_lines) == len(lines)
    assert sorted(failed_users) == sorted(errors.users[0])
    assert len(failed_users) == 2
    assert not any("output" in line for line in output_lines if line["error"])
    assert errors.count == 1
