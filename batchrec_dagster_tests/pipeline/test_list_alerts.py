"""Whether lists are late depends on this code location's schedules alone."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from batchrec_dagster_tests.guard.builders import Project, declaration
from batchrec_dagster_tests.guard.servers.inbox import ALERTS, ON_LISTS, Inbox, inbox

__all__ = ["inbox"]
pytestmark = pytest.mark.slow

LOCATION = """\
from pathlib import Path
from batchrec_dagster.definitions import load

defs = load(Path({package!r}))
"""


def look(project: Project, location: str, cursor: str) -> str:
    """What `dagster sensor preview` says of late lists in a code location."""
    process = project.run(
        "dagster", "sensor", "preview", ON_LISTS, "-f", location, "--cursor", cursor
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_a_schedule_that_was_stopped_in_another_code_location_says_nothing_of_this_one(
    project: Project, inbox: Inbox
) -> None:
    due = datetime.now(UTC) - timedelta(hours=10)
    attributes = declaration(
        "shop",
        "ratings.csv",
        alerts={**ALERTS, "late_after_hours": 0.0001},
        schedule={"cron": f"{due:%M %H} * * *", "enabled": True},
    )
    project.declare(attributes)
    for location in ("here.py", "elsewhere.py"):
        (project.root / location).write_text(LOCATION.format(package=str(project.package)))
    on_since = (due - timedelta(minutes=30)).isoformat()
    cursor = json.dumps({"shop": {"on_since": on_since, "editions": {}}})
    stopped = project.run("dagster", "schedule", "stop", "shop_schedule", "-f", "here.py")
    assert stopped.returncode == 0, stopped.stderr
    assert "shop: the schedule is off" in look(project, "here.py", cursor)
    assert "is late" in look(project, "elsewhere.py", cursor)
