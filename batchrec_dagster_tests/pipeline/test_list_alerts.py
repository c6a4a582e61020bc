"""One alert when the schedule brings no new lists in time, and one for new lists if asked for."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import dagster as dg
import pyarrow as pa
import pytest

from batchrec_dagster.pipeline.automation.list_alerts import check_lateness, look_at_lists
from batchrec_dagster.reporting.history import EditionHistory
from batchrec_dagster.steps.publishing import remember_facts
from batchrec_dagster.storage.durable import temporary_folder
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.publications import Publications
from batchrec_dagster.storage.published_table import TableWriter
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.editions import complete_about
from batchrec_dagster_tests.guard.first_run import FirstRun
from batchrec_dagster_tests.guard.servers.inbox import (
    ALERTS,
    ON_LISTS,
    STORAGE,
    Inbox,
    inbox,
    tick,
)
from batchrec_dagster_tests.pipeline.alerts_support import make_pipeline

__all__ = ["inbox"]
pytestmark = pytest.mark.slow


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


DAILY = {"cron": "0 3 * * *", "timezone": "Europe/Berlin", "enabled": True}
# 3:00 in Berlin.
DUE = datetime(2026, 1, 10, 2, tzinfo=UTC)


def test_a_schedule_that_brings_nothing_is_late_once_a_time() -> None:
    pipeline = make_pipeline(schedule=DAILY)
    cursor: dict[str, str] = {}
    texts = []
    # Every hour of three days, with new lists after the first time and the third only.
    for hour in range(-5, 72):
        time = DUE + hours(hour)
        creation = max(
            (t for t in (DUE + hours(1), DUE + hours(49)) if t <= time), default=DUE - hours(20)
        )
        cursor, message, _ = check_lateness(pipeline, cursor, time, creation, is_on=True)
        if message:
            texts.append((hour, message))
    ((hour, message),) = texts
    assert hour == 24 + 6
    assert message.title == "batchrec: shop is late"
    assert "due at 2026-01-11 03:00 CET" in "\n".join(message.lines)
    assert " were made: 2026-01-10 04:00." in "\n".join(message.lines)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_schedule_switched_on_today_is_not_late_for_this_morning(zone: str) -> None:
    pipeline = make_pipeline(schedule={**DAILY, "timezone": zone})
    time = datetime(2026, 1, 10, 14, tzinfo=UTC)
    cursor, message, _ = check_lateness(pipeline, {}, time, None, is_on=True)
    assert message is None
    cursor, message, _ = check_lateness(pipeline, cursor, time + hours(24), None, is_on=True)
    assert message is not None
    assert "were made: never" in "\n".join(message.lines)
    assert check_lateness(pipeline, cursor, time + hours(25), None, is_on=False) == (
        {},
        None,
        "the schedule is off",
    )


@pytest.fixture
def instance_with_schedules() -> Iterator[dg.DagsterInstance]:
    """The one in memory cannot keep schedules."""
    with dg.instance_for_test() as instance:
        yield instance


def declare_late(project: Project, **attributes: Any) -> str:
    """A pipeline whose lists were due ten hours ago, and the cursor of a sensor that knows it."""
    due = datetime.now(UTC) - hours(10)
    project.declare(
        declaration(
            "shop",
            "ratings.csv",
            alerts={**ALERTS, "late_after_hours": 0.0001},
            schedule={"cron": f"{due:%M %H} * * *", "enabled": True},
            **attributes,
        )
    )
    lateness = {"since": (due - hours(0.5)).isoformat()}
    return json.dumps({"shop": {"lateness": lateness, "editions": {}}})


def publish(storage: StorageResource, address: str, made_at: datetime) -> PipelineFiles:
    """Publish the next edition of the list, as a run of that time does."""
    files = PipelineFiles(storage, StorageKeys(address))
    number = files.table.next_number()
    with temporary_folder() as folder, TableWriter(folder / "lists.parquet") as writer:
        writer.write(pa.table({"user_id": ["1"], "rank": [1], "item_id": [f"i{number}"]}))
        writer.finish(
            complete_about(
                {"edition": number, "version": f"v{number}", "made_at": made_at.isoformat()}
            )
        )
        publications = Publications(files)
        files.table.publish(folder / "lists.parquet", 7)
        publications.write(remember_facts(publications.read(), files))
    return files


def test_lists_are_late_until_they_are_published(
    project: Project, instance_with_schedules: dg.DagsterInstance, inbox: Inbox
) -> None:
    since = declare_late(project)
    inbox.answers = [500]
    with definitions(project) as defs:
        storage: StorageResource = (defs.resources or {})[STORAGE]
        result = tick(defs, ON_LISTS, instance_with_schedules, since)
        assert "not delivered to JSON (URL 1 of SHOP_ALERTS)" in result.skip_message
        assert "planted" not in result.skip_message
        # Nobody is told again.
        result = tick(defs, ON_LISTS, instance_with_schedules, result.cursor)
        assert "already alerted" in result.skip_message
        result = tick(defs, ON_LISTS, instance_with_schedules, since)
        assert "is late: alert sent" in result.skip_message
        assert inbox.texts[-1].startswith("batchrec: shop is late\n")
        publish(storage, "shop", datetime.now(UTC))
        result = tick(defs, ON_LISTS, instance_with_schedules, result.cursor)
        assert "are there" in result.skip_message
        # A run that finds its data unchanged publishes nothing, whatever Dagster records of it.
        shutil.rmtree(project.storage)
        old = datetime.now(UTC) - hours(20)
        publish(storage, "shop", old)
        key = dg.AssetKey(["shop", "recommendations"])
        instance_with_schedules.report_runless_asset_event(dg.AssetMaterialization(key))
        result = tick(defs, ON_LISTS, instance_with_schedules, since)
        assert "is late: alert sent" in result.skip_message
    assert f"were made: {old:%Y-%m-%d %H:%M}." in inbox.texts[-1]
    assert len(inbox.texts) == 2


def test_the_alert_names_the_list_that_was_not_made(
    project: Project, instance_with_schedules: dg.DagsterInstance, inbox: Inbox
) -> None:
    since = declare_late(project, lists={"home": {}, "app": {}})
    with definitions(project) as defs:
        storage: StorageResource = (defs.resources or {})[STORAGE]
        publish(storage, "shop/home", datetime.now(UTC))
        result = tick(defs, ON_LISTS, instance_with_schedules, since)
        (text,) = inbox.texts
        assert text.startswith("batchrec: shop/app is late\n")
        publish(storage, "shop/app", datetime.now(UTC))
        result = tick(defs, ON_LISTS, instance_with_schedules, result.cursor)
        assert "are there" in result.skip_message


def test_a_schedule_of_another_code_location_says_nothing_of_this_one(
    project: Project, instance_with_schedules: dg.DagsterInstance, inbox: Inbox
) -> None:
    since = declare_late(project)
    state = Mock(instigator_name="shop_schedule")
    state.status.value = "STOPPED"
    instance_with_schedules.all_instigator_state = Mock(  # type: ignore[method-assign]
        return_value=[state]
    )
    location = state.origin.repository_origin.code_location_origin
    reasons = {}
    with definitions(project) as defs:
        sensor = defs.resolve_sensor_def(ON_LISTS)
        repository = defs.get_repository_def()
        for name in ("here", "elsewhere"):
            location.location_name = name
            context = dg.build_sensor_context(
                instance=instance_with_schedules,
                cursor=since,
                repository_def=repository,
                sensor_name=ON_LISTS,
                resources={STORAGE: (defs.resources or {})[STORAGE]},
            )
            context._code_location_origin = Mock(location_name="here")
            with context:
                reasons[name] = sensor.evaluate_tick(context).skip_message
    assert reasons["here"] == "shop: the schedule is off"
    assert "is late" in str(reasons["elsewhere"])


def test_new_lists_are_announced_with_verdict_and_changes_once(
    first_run: FirstRun,
    first_run_of_shop: None,
    project: Project,
    instance: dg.DagsterInstance,
) -> None:
    pipeline = make_pipeline(alerts={**ALERTS, "published": True})
    quiet_pipeline = make_pipeline()
    storage = StorageResource(root=str(project.storage), s3=S3Connection())
    first_look = look_at_lists(pipeline, storage, {}, is_on=False)
    # What was there before is not announced.
    assert first_look.messages == []
    nothing_yet = {"lateness": {}, "editions": {"shop": ""}}
    announced = look_at_lists(pipeline, storage, nothing_yet, is_on=False)
    (message,) = announced.messages
    assert message.title == "batchrec: edition 1 of shop is published"
    verdict, link = message.lines
    history = EditionHistory(PipelineFiles(storage, StorageKeys("shop")))
    edition = history.files.table.current()
    assert edition is not None
    assert verdict == history.read_record(edition)["verdict"]["text"]
    assert link == "Lists: https://dagster.example.com/assets/shop/recommendations"
    assert announced.state == first_look.state
    assert look_at_lists(pipeline, storage, announced.state, is_on=False).messages == []
    assert look_at_lists(quiet_pipeline, storage, nothing_yet, is_on=False).messages == []
    # The next night has other ratings, and readers had lists before.
    write_ratings(project.root / "ratings.csv", users=61)
    assert refresh(project, "shop", instance, report=True).success
    (message,) = look_at_lists(pipeline, storage, announced.state, is_on=False).messages
    assert message.title == "batchrec: edition 2 of shop is published"
    assert "items were in their list before; 1 new people, 0 without a list" in message.lines[1]


def test_new_lists_wait_for_the_report_for_an_hour(tmp_path: Path) -> None:
    pipeline = make_pipeline(alerts={**ALERTS, "published": True})
    storage = StorageResource(root=str(tmp_path), s3=S3Connection())
    publish(storage, "shop", datetime.now(UTC))
    nothing_yet = {"lateness": {}, "editions": {"shop": ""}}
    waiting = look_at_lists(pipeline, storage, nothing_yet, is_on=False)
    assert waiting.messages == []
    assert waiting.state == nothing_yet
    publish(storage, "shop", datetime.now(UTC) - hours(2))
    (message,) = look_at_lists(pipeline, storage, waiting.state, is_on=False).messages
    assert message.title == "batchrec: edition 2 of shop is published"
    assert len(message.lines) == 1
