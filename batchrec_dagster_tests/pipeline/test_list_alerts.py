"""One alert when the schedule brings no new lists in time, and one for new lists if asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest.mock import Mock

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
)
from batchrec_dagster_tests.guard.servers.inbox import (
    ALERTS,
    ON_LISTS,
    STORAGE,
    Inbox,
    inbox,
)

__all__ = ["inbox"]
pytestmark = pytest.mark.slow


def hours(number: float) -> timedelta:
    return timedelta(hours=number)


# 3:00 in Berlin.


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
    return json.dumps({"shop": {"on_since": (due - hours(0.5)).isoformat(), "editions": {}}})


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
