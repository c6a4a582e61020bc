"""Tests of what the client and the log see of an internal error of the service."""

from __future__ import annotations

from pathlib import Path
from queue import Queue
from typing import Any

import pytest
from botocore.exceptions import ClientError

from batchrec_dagster.local_personalize.catalogue import Catalogue, Resource, Status
from batchrec_dagster.local_personalize.home import Home
from batchrec_dagster.local_personalize.jobs import Job, JobLock, Jobs
from batchrec_dagster.local_personalize.operations import registry
from batchrec_dagster.local_personalize.resources import JobResult, Kind, NewResource
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.servers.personalize import Local


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
    assert "secret detail" in caplog.text  # the log shows the error
    assert local.client.list_recipes()["recipes"]


def test_the_last_job_may_close_the_jobs(tmp_path: Path) -> None:
    """The last job may hold the only reference to the jobs, which then end in its thread."""
    home = Home(tmp_path)
    jobs = Jobs(Catalogue(home.catalogue, has_data=home.has_data), home, ObjectStore())
    closed: Queue[RuntimeError | None] = Queue()

    def close(job: Job) -> JobResult:
        try:
            jobs.close()
            closed.put(None)
        except RuntimeError as error:
            closed.put(error)
        job.checkpoint()  # ends it
        return JobResult()

    kind = Kind("Test", lambda request: NewResource({}), perform=close)
    resource = Resource("arn:test", "", kind.name, None, Status.CREATE_PENDING, {})
    jobs.start(kind, resource, JobLock(home.locks))
    assert closed.get(timeout=60) is None
