"""Tests of `op: {retries: …}`: which failures Dagster retries, and what a retried night costs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import dagster as dg
import pytest
from botocore.exceptions import ClientError

from batchrec_dagster.editions.editions import Editions
from batchrec_dagster.editions.files import ListFiles
from batchrec_dagster.personalize.api import SOLUTION, Description, ResourceKind
from batchrec_dagster.personalize.resources import Resources
from batchrec_dagster.pipeline.io_managers import StoredIOManager
from batchrec_dagster.preparation.sources import web as web_source
from batchrec_dagster.steps import context as work
from batchrec_dagster.storage.buckets import RETRIES
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster.storage.layout import ListKeys
from batchrec_dagster.storage.lock import Lock, hold_lock
from batchrec_dagster.storage.objects import ObjectStore
from batchrec_dagster_tests.guard.builders import (
    Project,
    count_created,
    declaration,
    refresh,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.faults.proxy import RESET, proxy, s3_error
from batchrec_dagster_tests.guard.servers.s3 import S3Server
from batchrec_dagster_tests.guard.servers.web import Page, serving

pytestmark = pytest.mark.slow

RETRIED = {"*": {"retries": {"max_retries": 3, "delay_seconds": 0.2}}}
ONE_NIGHT = {"imports": 1, "models": 1, "jobs": 1}


def declare(project: Project, source: str = "ratings.csv", **attributes: Any) -> None:
    project.declare(declaration("shop", source, **{"op": RETRIED, **attributes}))


def count_retries(result: dg.ExecuteInProcessResult) -> int:
    return sum(event.is_step_up_for_retry for event in result.all_events)


def assert_next_night_is_right(project: Project, instance: dg.DagsterInstance) -> None:
    """Run the same night once more: nothing is retried, and nothing is created."""
    result = refresh(project, "shop", instance)
    assert result.success, why(result)
    assert count_retries(result) == 0
    assert count_created(project) == ONE_NIGHT


def list_ended(project: Project) -> list[str]:
    """Return how the nights of the list ended."""
    files = ListFiles(Storage(str(project.storage)), ListKeys("shop"))
    return [night.ended for night in files.editions.record().nights]


def test_a_web_server_that_is_down_for_a_while_costs_a_retry(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_source, "PAUSE", 0.0)
    ratings = write_ratings(project.root / "ratings.csv").read_bytes()
    with serving() as web:
        statuses = [503] * web_source.ATTEMPTS
        web.pages["/ratings.csv"] = Page(ratings, statuses=statuses)
        declare(project, web.url("/ratings.csv"))
        result = refresh(project, "shop", instance)
        assert result.success, why(result)
        assert count_retries(result) == 1
        assert count_created(project) == ONE_NIGHT
        assert "failed" not in list_ended(project)
        assert_next_night_is_right(project, instance)


def test_a_web_server_that_stays_down_fails_the_night_after_the_last_retry(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_source, "PAUSE", 0.0)
    ratings = write_ratings(project.root / "ratings.csv").read_bytes()
    with serving() as web:
        page = web.pages["/ratings.csv"] = Page(ratings, statuses=[503] * 1000)
        declare(project, web.url("/ratings.csv"))
        result = refresh(project, "shop", instance)
        assert "the server says 503 Service Unavailable (4 attempts)" in why(result)
        assert count_retries(result) == 3
        assert list_ended(project) == ["failed"]
        page.statuses.clear()
        assert_next_night_is_right(project, instance)


@pytest.mark.parametrize(
    "fault", [s3_error("503 Slow Down", "SlowDown"), RESET], ids=["throttled", "cut"]
)
def test_an_s3_that_is_down_for_a_while_costs_retries(
    project: Project,
    instance: dg.DagsterInstance,
    s3: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    fault: bytes,
) -> None:
    # Without these, batchrec itself repeats a request for minutes.
    monkeypatch.setitem(RETRIES, "max_retries", 1)
    monkeypatch.setitem(RETRIES, "retry_timeout", RETRIES["retry_timeout"] * 0)
    write_ratings(project.root / "ratings.csv")
    declare(project)
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    with proxy(s3.endpoint) as to_s3:
        project.environment.update(
            BATCHREC_STORAGE=f"s3://{s3.create_bucket()}/data", AWS_ENDPOINT_URL_S3=to_s3.address
        )
        to_s3.misbehave(fault)

        def mend() -> None:
            while not to_s3.refused:
                time.sleep(0.01)
            to_s3.misbehave(None)

        mending = threading.Thread(target=mend)
        mending.start()
        result = refresh(project, "shop", instance)
        mending.join()
        assert result.success, why(result)
        assert count_retries(result)
        assert count_created(project) == ONE_NIGHT
        assert_next_night_is_right(project, instance)


@pytest.mark.parametrize("asset", ["personalize_dataset", "recommendations"])
def test_a_lock_that_another_run_holds_for_a_while_costs_a_retry(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, asset: str
) -> None:
    waits: list[str] = []

    def hold_hurriedly(
        store: ObjectStore, uri: str, owner: str, log: logging.Logger, wait_seconds: float
    ) -> AbstractContextManager[Lock]:
        """Take the lock. Another run holds it while the asset's first attempt waits in vain."""
        if not uri.endswith(f"/{asset}.lock") or waits:
            return hold_lock(store, uri, owner, log, wait_seconds)
        waits.append(uri)
        return hold_in_vain(store, uri, owner, log)

    @contextmanager
    def hold_in_vain(
        store: ObjectStore, uri: str, owner: str, log: logging.Logger
    ) -> Iterator[Lock]:
        with (
            hold_lock(store, uri, "another", log, 0),
            hold_lock(store, uri, owner, log, 0, poll_seconds=0.01) as lock,
        ):
            yield lock

    monkeypatch.setattr(work, "hold_lock", hold_hurriedly)
    write_ratings(project.root / "ratings.csv")
    declare(project)
    result = refresh(project, "shop", instance)
    assert result.success, why(result)
    assert len(waits) == count_retries(result) == 1
    assert count_created(project) == ONE_NIGHT
    assert_next_night_is_right(project, instance)


def test_a_missing_column_is_not_retried(project: Project, instance: dg.DagsterInstance) -> None:
    (project.root / "ratings.csv").write_text("customer,product\n1,2\n")
    declare(project)
    result = refresh(project, "shop", instance)
    assert "userId" in why(result)
    assert count_retries(result) == 0
    write_ratings(project.root / "ratings.csv")
    assert_next_night_is_right(project, instance)


def test_lists_that_the_gate_refuses_are_not_retried(
    project: Project, instance: dg.DagsterInstance
) -> None:
    write_ratings(project.root / "ratings.csv")
    declare(project, gate={"min_ndcg_at_25": 0.99})
    result = refresh(project, "shop", instance)
    assert "gate.min_ndcg_at_25" in why(result)
    assert count_retries(result) == 0
    declare(project)
    assert_next_night_is_right(project, instance)


def test_a_bug_is_retried(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[str] = []

    def fail(url: str, *_: object) -> None:
        attempts.append(url)
        raise LookupError("a bug")

    monkeypatch.setattr(web_source, "open_response", fail)
    declare(project, "https://example.com/ratings.csv")
    result = refresh(project, "shop", instance)
    assert not result.success
    assert count_retries(result) == len(attempts) - 1 == 3


def interrupt(*_: object, **__: object) -> None:
    raise dg.DagsterExecutionInterruptedError


@pytest.mark.parametrize("op", [RETRIED, {}], ids=["with retries", "without"])
@pytest.mark.parametrize(
    ("owner", "name", "source"),
    [
        (web_source, "open_response", "https://example.com/ratings.csv"),
        (StoredIOManager, "load_key", "ratings.csv"),
    ],
    ids=["in a step", "while an input is loaded"],
)
def test_a_run_that_somebody_stops_is_not_retried(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    name: str,
    source: str,
    op: dict[str, Any],
) -> None:
    write_ratings(project.root / "ratings.csv")
    declare(project, source, op=op)
    with monkeypatch.context() as stopped:
        stopped.setattr(owner, name, interrupt)
        result = refresh(project, "shop", instance)
    assert not result.success
    assert count_retries(result) == 0
    assert len([event for event in result.all_events if event.is_step_failure]) == 1
    declare(project, op=op)
    assert_next_night_is_right(project, instance)


def test_a_bug_while_a_failure_is_recorded_does_not_hide_the_failure(
    project: Project, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("a bug in the record")

    (project.root / "ratings.csv").write_text("customer,product\n1,2\n")
    declare(project, op={})
    with monkeypatch.context() as broken:
        broken.setattr(Editions, "add_night", fail)
        result = refresh(project, "shop", instance)
    assert "userId" in why(result)
    logs = "".join(entry.user_message for entry in instance.all_logs(result.run_id))
    assert "LookupError('a bug in the record')" in logs
    write_ratings(project.root / "ratings.csv")
    assert_next_night_is_right(project, instance)


@pytest.mark.parametrize(
    ("code", "retries"), [("ThrottlingException", 1), ("AccessDeniedException", 0)]
)
def test_a_personalize_that_throttles_costs_a_retry_and_a_missing_permission_costs_none(
    project: Project,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    code: str,
    retries: int,
) -> None:
    refusals = [ClientError({"Error": {"Code": code, "Message": "not now"}}, "ListSolutions")]
    list_resources = Resources.list

    def refuse_once(self: Resources, kind: ResourceKind, **within: str) -> list[Description]:
        if kind is SOLUTION and refusals:
            raise refusals.pop()
        return list_resources(self, kind, **within)

    monkeypatch.setattr(Resources, "list", refuse_once)
    write_ratings(project.root / "ratings.csv")
    declare(project)
    result = refresh(project, "shop", instance)
    assert result.success is bool(retries)
    assert count_retries(result) == retries
    if not retries:
        assert "not now" in why(result)
        assert refresh(project, "shop", instance).success
    assert_next_night_is_right(project, instance)
