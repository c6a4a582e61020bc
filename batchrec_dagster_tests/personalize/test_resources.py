"""Tests of how `Resources` waits for Personalize, and of its log."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from botocore.exceptions import ClientError

from batchrec_dagster.errors import Retry
from batchrec_dagster.personalize.api import (
    DATASET_GROUP,
    IMPORT_JOB,
    PersonalizeError,
)
from batchrec_dagster.personalize.resources import Resources, StartedResource

ARN = "arn:aws:personalize:us-east-1:123456789012:dataset-import-job/shop-1"


class ScriptedPersonalize:
    """A Personalize in which each status lasts for a single request."""

    def __init__(self, *, statuses: Sequence[str], refuse: Sequence[str] = ()) -> None:
        self.statuses, self.refuse = list(statuses), list(refuse)
        self.message = "not now"

    def _create(self, **arguments: Any) -> dict[str, Any]:
        if self.refuse:
            code = self.refuse.pop(0)
            raise ClientError({"Error": {"Code": code, "Message": self.message}}, "Create")
        return {"datasetImportJobArn": ARN, "datasetGroupArn": ARN}

    create_dataset_import_job = create_dataset_group = _create

    def _next_status(self) -> str:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def list_dataset_groups(self) -> dict[str, Any]:
        return {"datasetGroups": []}

    def describe_dataset_import_job(self, datasetImportJobArn: str) -> dict[str, Any]:  # noqa: N803
        status = self._next_status()
        return {"datasetImportJob": {"status": status, "failureReason": "Invalid Data location."}}


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("random.uniform", lambda low, high: 1.0)


def make_resources(client: ScriptedPersonalize, *, deadline: float = 10_000) -> Resources:
    return Resources(
        client=client,  # type: ignore[arg-type]
        log=logging.getLogger("test"),
        tags={"batchrec:pipeline": "shop"},
        poll_seconds=10,
        busy_seconds=300,
        heartbeat_seconds=60,
        deadline_seconds=deadline,
        started=0,
    )


def test_each_change_of_status_and_a_heartbeat_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    client = ScriptedPersonalize(
        statuses=["CREATE PENDING", *["CREATE IN_PROGRESS"] * 14, "ACTIVE"]
    )
    with caplog.at_level(logging.DEBUG):
        make_resources(client).wait_until_ready(IMPORT_JOB, StartedResource(ARN, created=True))
    messages = [
        record.message.removeprefix(f"dataset import job {ARN}: ") for record in caplog.records
    ]
    assert messages == [
        "CREATE PENDING",
        "CREATE IN_PROGRESS",
        "still CREATE IN_PROGRESS, 70 s",
        "still CREATE IN_PROGRESS, 130 s",
        "ACTIVE",
    ]
    assert time.monotonic() == 150


def test_the_longer_it_takes_the_less_often_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds_slept: list[float] = []
    client = ScriptedPersonalize(statuses=["CREATE IN_PROGRESS"])
    waiting = replace(make_resources(client), deadline_seconds=24 * 3600)
    with monkeypatch.context() as patch:
        real = time.sleep

        def sleep(seconds: float) -> None:
            seconds_slept.append(seconds)
            real(seconds)

        patch.setattr("time.sleep", sleep)
        with pytest.raises(PersonalizeError, match="after 24 hours"):
            waiting.wait_until_ready(IMPORT_JOB, StartedResource(ARN, created=True))
    assert seconds_slept[:20] == [10] * 20
    assert seconds_slept == sorted(seconds_slept)
    assert seconds_slept[-1] == 200
    assert len(seconds_slept) < 600


def test_waits_that_start_together_poll_at_different_times(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges: list[tuple[float, float]] = []

    def take_upper_bound(low: float, high: float) -> float:
        ranges.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", take_upper_bound)
    client = ScriptedPersonalize(statuses=["CREATE IN_PROGRESS", "ACTIVE"])
    make_resources(client).wait_until_ready(IMPORT_JOB, StartedResource(ARN, created=True))
    assert time.monotonic() == 12
    assert ranges == [(0.8, 1.2)]


def test_on_aws_a_limit_that_no_waiting_changes_says_what_to_do() -> None:
    client = ScriptedPersonalize(statuses=["ACTIVE"], refuse=["LimitExceededException"])
    on_aws = replace(make_resources(client), on_aws=True)
    with pytest.raises(PersonalizeError, match=r"delete one that nobody needs .* Service Quotas"):
        on_aws.start(DATASET_GROUP, "shop", lambda _: {})


@pytest.mark.parametrize(
    ("code", "is_temporary"),
    [
        ("ThrottlingException", True),
        ("TooManyRequestsException", True),
        ("InvalidInputException", False),
        ("LimitExceededException", False),
        ("AccessDeniedException", False),
    ],
)
def test_a_create_that_is_throttled_may_be_tried_again(code: str, is_temporary: bool) -> None:
    client = ScriptedPersonalize(statuses=["ACTIVE"], refuse=[code])
    with pytest.raises(PersonalizeError, match="rejected the dataset group shop") as error:
        make_resources(client).find_or_create(DATASET_GROUP, "shop", {})
    assert isinstance(error.value, Retry) is is_temporary
