"""Tests that the documentation says what to do about each check."""

from __future__ import annotations

import re

from batchrec_dagster_tests.guard.builders import (
    COLUMNS,
    REPOSITORY,
    Project,
    declaration,
    definitions,
)

PAGE = REPOSITORY / "docs" / "operations.md"


def test_every_check_is_on_the_page_and_no_other(project: Project) -> None:
    project.declare(
        declaration(
            "shop",
            "ratings.csv",
            items={"source": "movies.csv", "columns": {"item": "movieId", "title": "title"}},
            recommendations={"rules": {"pin": [{"item": "1"}]}},
            users={
                "source": "customers.csv",
                "columns": {"user": "id", "categories": {"COUNTRY": "country"}},
            },
            segments={"items": ["1"]},
            budget={"max_usd_per_run": 1},
            ratings={"source": "ratings.csv", "columns": {**COLUMNS, "event_type": "event"}},
            solution={"success": ["purchase"]},
            gate={"max_age_days": 7},
        )
    )
    with definitions(project) as defs:
        checks = {key.name for key in defs.resolve_asset_graph().asset_check_keys}
    section = PAGE.read_text().partition("## Failed checks")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `")]
    documented_checks = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    assert documented_checks == checks
