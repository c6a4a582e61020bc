"""Tests of which lists of a model share a batch inference job, so that users are paid for once."""

from __future__ import annotations

from typing import Any

import pytest

from batchrec_dagster_tests.guard.builders import COLUMNS, declaration
from batchrec_dagster_tests.guard.seams.list_jobs import count_results, group_lists

BLUE = 'INCLUDE ItemID WHERE Items.COLOUR IN ("blue")'


def declare(lists: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a pipeline with these lists."""
    return declaration(
        "shop",
        "ratings.csv",
        ratings={"source": "ratings.csv", "columns": {**COLUMNS, "event_type": "event"}},
        items={
            "source": "items.csv",
            "columns": {"item": "id", "categories": {"COLOUR": "colour"}},
        },
        solution={"recipe": "aws-user-personalization"},
        lists=lists,
    )


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
        ({"exploration_weight": 0.3}, False),
        ({"newcomers": "popular"}, False),
        ({"experiment": {"name": "spring", "control_share": 0.2}}, False),
    ],
    ids=lambda value: value if isinstance(value, bool) else next(iter(value)),
)
def test_lists_share_a_job_that_would_be_the_same_for_each(
    settings: dict[str, Any], *, is_shared: bool
) -> None:
    attributes = declare({"home": {}, "app": settings})
    assert group_lists(attributes) == ([["home", "app"]] if is_shared else [["home"], ["app"]])


FEW_OF_A_COLOUR = {"rules": {"max_per": {"COLOUR": 1}}}


@pytest.mark.parametrize(
    ("lists", "history", "expected"),
    [
        # the larger number
        ([{"num_results": 5}, {"num_results": 8}], 90, 8),
        # Personalize's filter forgets 40 items of the longest history.
        ([{"num_results": 5}, {"num_results": 8}], 140, 48),
        # Rules choose from three times as many results, or from the declared number of candidates.
        ([{}, {"num_results": 5, **FEW_OF_A_COLOUR}], 90, 25),
        ([{}, {"num_results": 20, **FEW_OF_A_COLOUR}], 90, 60),
        ([{}, {"num_results": 20, **FEW_OF_A_COLOUR}], 110, 70),
        ([{"num_results": 20, "candidates": 200, **FEW_OF_A_COLOUR}], 90, 200),
        ([{"num_results": 400, **FEW_OF_A_COLOUR}], 90, 500),
        # Without rules, no further results are asked for.
        ([{"num_results": 20, "candidates": 200}], 90, 20),
        # The filter does not have a rule that lets some items come back.
        ([{"num_results": 20, "exclude_seen": {"days": 9}}], 90, 150),
    ],
)
def test_a_job_is_asked_for_what_any_of_its_lists_can_need(
    lists: list[dict[str, Any]], history: int, expected: int
) -> None:
    attributes = declare({f"list_{number}": settings for number, settings in enumerate(lists)})
    assert count_results(attributes, users=100, history=history) == expected


def test_lists_that_show_titles_choose_from_more_results_if_some_items_have_none() -> None:
    attributes = declare({"home": {"num_results": 20}})
    assert count_results(attributes, users=100, history=90) == 20
    assert count_results(attributes, users=100, history=90, some_untitled=True) == 60
