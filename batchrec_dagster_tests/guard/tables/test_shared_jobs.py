"""Which lists of one model share a batch inference job, so that its users are paid for once."""

from __future__ import annotations

from typing import Any

import pytest

from batchrec_dagster_tests.guard.builders import COLUMNS, declaration
from batchrec_dagster_tests.guard.seams.lists import group_lists

BLUE = 'INCLUDE ItemID WHERE Items.COLOUR IN ("blue")'


@pytest.mark.parametrize(
    ("settings", "is_shared"),
    [
        ({"num_results": 5}, True),
        ({"columns": ["COLOUR"]}, True),
        ({"rules": {"max_per": {"COLOUR": 1}}}, True),
        ({"sinks": {"export": {}}}, True),
        ({"users": {"source": "users.csv", "column": "id"}}, False),
        ({"filter": BLUE}, False),
        ({"exclude_seen": False}, False),
        ({"exclude_seen": {"events": ["buy"]}}, False),
        ({"experiment": {"name": "spring", "control_share": 0.2}}, False),
    ],
    ids=lambda value: value if isinstance(value, bool) else next(iter(value)),
)
def test_lists_share_a_job_that_would_be_the_same_for_each(
    settings: dict[str, Any], *, is_shared: bool
) -> None:
    attributes = declaration(
        "shop",
        "ratings.csv",
        ratings={"source": "ratings.csv", "columns": {**COLUMNS, "event_type": "event"}},
        items={
            "source": "items.csv",
            "columns": {"item": "id", "categories": {"COLOUR": "colour"}},
        },
        lists={"home": {}, "app": settings},
    )
    assert group_lists(attributes) == ([["home", "app"]] if is_shared else [["home"], ["app"]])
