"""One alert when the schedule brings no new lists in time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest

from batchrec_dagster.pipeline.automation.late_alerts import check_lateness
from batchrec_dagster_tests.pipeline.alerts_support import (
    ALERTS,
    WHEN_LATE,
    Hook,
    make_pipeline,
    slack,
    tick,
)
from batchrec_dagster_tests.support import Project, declaration, definitions

__all__ = ["slack"]
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
    assert "due at 2026-01-11 03:00 CET" in message.text
    assert " were made: 2026-01-10 04:00." in message.text


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin"])
def test_a_schedule_switched_on_today_is_not_late_for_this_morning(zone: str) -> None:
    pipeline = make_pipeline(schedule={**DAILY, "timezone": zone})
    time = datetime(2026, 1, 10, 14, tzinfo=UTC)
    cursor, message, _ = check_lateness(pipeline, {}, time, None, is_on=True)
    assert message is None
    cursor, message, _ = check_lateness(pipeline, cursor, time + hours(24), None, is_on=True)
    assert message is not None
    assert "were made: never" in message.text
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


def test_the_sensor_of_late_schedules_looks_at_the_last_lists(
    project: Project, instance_with_schedules: dg.DagsterInstance, slack: Hook
) -> None:
    due = datetime.now(UTC) - hours(0.5)
    project.declare(
        declaration(
            "shop",
            "ratings.csv",
            alerts={**ALERTS, "late_after_hours": 0.0001},
            schedule={"cron": f"{due:%M %H} * * *", "enabled": True},
        )
    )
    state = {"shop": {"since": (due - hours(0.5)).isoformat()}}
    since = json.dumps({"state": state, "waiting": []})
    slack.answers = [500, 500]
    with definitions(project) as defs:
        result = tick(defs, WHEN_LATE, instance_with_schedules, since)
        assert "HTTP Error 500" in result.skip_message
        # What nobody took is told at the next look.
        result = tick(defs, WHEN_LATE, instance_with_schedules, result.cursor)
        (text,) = slack.posted
        assert text.startswith("batchrec: shop is late\n")
        key = dg.AssetKey(["shop", "recommendations"])
        instance_with_schedules.report_runless_asset_event(dg.AssetMaterialization(key))
        result = tick(defs, WHEN_LATE, instance_with_schedules, result.cursor)
        assert "are there" in result.skip_message
        # Lists that are published once more are as old as they were.
        old = {"made_at": (datetime.now(UTC) - hours(2)).isoformat(timespec="seconds")}
        instance_with_schedules.report_runless_asset_event(
            dg.AssetMaterialization(key, metadata=old)
        )
        result = tick(defs, WHEN_LATE, instance_with_schedules, since)
        assert "is late: alert sent" in result.skip_message
    assert f"were made: {old['made_at'][:16].replace('T', ' ')}." in slack.posted[-1]
    assert len(slack.posted) == 2


def test_the_alert_names_the_list_that_was_not_made(
    project: Project, instance_with_schedules: dg.DagsterInstance, slack: Hook
) -> None:
    due = datetime.now(UTC) - hours(0.5)
    project.declare(
        declaration(
            "shop",
            "ratings.csv",
            lists={"home": {}, "app": {}},
            alerts={**ALERTS, "late_after_hours": 0.0001},
            schedule={"cron": f"{due:%M %H} * * *", "enabled": True},
        )
    )
    state = {"shop": {"since": (due - hours(0.5)).isoformat()}}
    since = json.dumps({"state": state, "waiting": []})
    home, app = (dg.AssetKey(["shop", name, "recommendations"]) for name in ("home", "app"))
    with definitions(project) as defs:
        instance_with_schedules.report_runless_asset_event(dg.AssetMaterialization(home))
        result = tick(defs, WHEN_LATE, instance_with_schedules, since)
        (text,) = slack.posted
        assert text.startswith("batchrec: shop/app is late\n")
        instance_with_schedules.report_runless_asset_event(dg.AssetMaterialization(app))
        result = tick(defs, WHEN_LATE, instance_with_schedules, result.cursor)
        assert "are there" in result.skip_message
