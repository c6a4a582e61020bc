"""How it waits for Personalize, what it logs, and what an interrupted run stops."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from botocore.exceptions import ClientError

from batchrec_dagster.personalize.api import (
    DATASET_GROUP,
    IMPORT_JOB,
    PersonalizeError,
)
from batchrec_dagster.personalize.resources import Ensure
from batchrec_dagster.personalize.waiting import StartedResource

ARN = "arn:aws:personalize:us-east-1:123456789012:dataset-import-job/shop-1"


class ScriptedPersonalize:
    """Answers like a Personalize in which each status lasts for one look."""

    def __init__(
        self, *, statuses: Sequence[str], refuse: Sequence[str] = (), jobs: Sequence[Any] = ()
    ) -> None:
        self.statuses, self.refuse = list(statuses), list(refuse)
        self.jobs = list(jobs)
        self.message = "not now"
        self.created_jobs: list[dict[str, Any]] = []
        self.stopped_arns: list[str] = []

    def _create(self, **arguments: Any) -> dict[str, Any]:
        if self.refuse:
            code = self.refuse.pop(0)
            raise ClientError({"Error": {"Code": code, "Message": self.message}}, "Create")
        self.created_jobs.append(arguments)
        return {"datasetImportJobArn": ARN, "datasetGroupArn": ARN}

    create_dataset_import_job = create_dataset_group = _create

    def _next_status(self) -> str:
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def get_paginator(self, operation: str) -> Any:
        list_member = {"list_dataset_import_jobs": "datasetImportJobs"}.get(
            operation, "datasetGroups"
        )
        return SimpleNamespace(paginate=lambda **_: [{list_member: self.jobs}])

    def describe_dataset_import_job(self, datasetImportJobArn: str) -> dict[str, Any]:  # noqa: N803
        for job in self.jobs:
            if job["datasetImportJobArn"] == datasetImportJobArn:
                return {"datasetImportJob": job}
        status = self._next_status()
        if status == "interrupt":
            raise dg.DagsterExecutionInterruptedError
        return {"datasetImportJob": {"status": status, "failureReason": "Invalid Data location."}}


def build_job(name: str, status: str, age: int) -> dict[str, Any]:
    return {
        "jobName": name,
        "datasetImportJobArn": f"arn/{name}",
        "status": status,
        "creationDateTime": datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=age),
    }


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: clock[0])

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("random.uniform", lambda low, high: 1.0)


def ensure(client: ScriptedPersonalize, *, deadline: float = 10_000) -> Ensure:
    return Ensure(
        client=client,  # type: ignore[arg-type]
        log=logging.getLogger("test"),
        tags={"batchrec:pipeline": "shop"},
        poll_seconds=10,
        busy_seconds=300,
        heartbeat_seconds=60,
        deadline_seconds=deadline,
        started=0,
    )


def start(client: ScriptedPersonalize, stem: str = "shop-abc", **options: Any) -> StartedResource:
    return ensure(client).start(IMPORT_JOB, stem, lambda name: {"x": name}, **options)


def test_each_change_of_status_and_a_heartbeat_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    client = ScriptedPersonalize(
        statuses=["CREATE PENDING", *["CREATE IN_PROGRESS"] * 14, "ACTIVE"]
    )
    with caplog.at_level(logging.DEBUG):
        outcome = ensure(client).wait_until_ready(IMPORT_JOB, StartedResource(ARN, created=True))
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
    assert outcome.seconds == 150


def test_the_time_left_is_given_by_what_the_last_job_took(caplog: pytest.LogCaptureFixture) -> None:
    last = build_job("shop-xyz-1", "ACTIVE", age=1)
    last["lastUpdatedDateTime"] = last["creationDateTime"] + timedelta(seconds=100)
    client = ScriptedPersonalize(statuses=[*["CREATE IN_PROGRESS"] * 14, "ACTIVE"], jobs=[last])
    resource = start(client)
    with caplog.at_level(logging.INFO):
        ensure(client).wait_until_ready(IMPORT_JOB, resource)
    messages = [record.message for record in caplog.records if "still" in record.message]
    assert [text.partition("; ")[2] for text in messages] == [
        "the last one took 100 s, about 40 s left",
        "the last one took 100 s",
    ]


def test_the_longer_it_takes_the_less_often_it_is_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds_slept: list[float] = []
    client = ScriptedPersonalize(statuses=["CREATE IN_PROGRESS"])
    waiting = replace(ensure(client), deadline_seconds=24 * 3600)
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


def test_those_that_started_together_do_not_ask_together(monkeypatch: pytest.MonkeyPatch) -> None:
    ranges: list[tuple[float, float]] = []

    def take_upper_bound(low: float, high: float) -> float:
        ranges.append((low, high))
        return high

    monkeypatch.setattr("random.uniform", take_upper_bound)
    client = ScriptedPersonalize(statuses=["CREATE IN_PROGRESS", "ACTIVE"])
    assert (
        ensure(client).wait_until_ready(IMPORT_JOB, StartedResource(ARN, created=True)).seconds
        == 12
    )
    assert ranges == [(0.8, 1.2)]


def test_a_limit_that_no_waiting_changes_fails_at_once() -> None:
    client = ScriptedPersonalize(statuses=["ACTIVE"], refuse=["LimitExceededException"] * 100)
    with pytest.raises(PersonalizeError, match=r"rejected .* not now \(LimitExceededException\)"):
        ensure(client).start(DATASET_GROUP, "shop", lambda _: {})
    on_aws = replace(ensure(client), on_aws=True)
    with pytest.raises(PersonalizeError, match=r"delete one that nobody needs .* Service Quotas"):
        on_aws.start(DATASET_GROUP, "shop", lambda _: {})
    assert len(client.refuse) == 98
