"""Tests of the checks of Personalize's minimums, times and event types, around each limit."""

from datetime import UTC, datetime, timedelta

import pytest

from batchrec_dagster.config.rules import ExcludeSeen
from batchrec_dagster.editions.edition import Finding
from batchrec_dagster.steps.data import checks
from batchrec_dagster.steps.lists.rule_checks import check_no_seen_items

BOUGHT = ExcludeSeen(events=["purchase"], days=60)
NOW = datetime(2026, 11, 25, tzinfo=UTC)


def check_times(seconds: int, unit: str) -> Finding:
    return checks.check_timestamps_plausible(seconds, seconds, unit, NOW)


@pytest.mark.parametrize(
    ("finding", "passes", "part"),
    [
        (checks.check_enough_interactions(1_000, 25, 25), True, "1,000 interactions of 25 users"),
        (checks.check_enough_interactions(999, 25, 25), False, "Provide more data"),
        (checks.check_enough_interactions(1_200, 24, 24), False, "24 of them with two or more;"),
        # Less than 1 % of the users.
        (checks.check_enough_interactions(3_750, 2_525, 25), False, "and 1 % of them"),
        (
            checks.check_enough_interactions(975, 25, 25, low_ratings=1_200),
            False,
            "or lower interactions.min_rating: 1,200 ratings are below it",
        ),
        (checks.check_timestamps_plausible(None, None, "s", NOW), False, "no interactions"),
        (check_times(1_500_000_000, "s"), True, "to 2017-07-14, with times in s"),
        (check_times(1_500_000_000_000, "s"), False, "ratings.timestamp_unit: ms"),
        (check_times(1_500_000, "ms"), False, "ratings.timestamp_unit: s"),
        (check_times(int((NOW + timedelta(7)).timestamp()), "s"), False, "between 1980 and now"),
        (check_times(9_000_000_000_000_000_000, "s"), False, "the year 285,"),
        (checks.check_few_event_types(9), True, "9 event types"),
        (checks.check_few_event_types(10), False, "Personalize takes at most 9"),
        (checks.check_few_event_types(8, has_event_values=True), True, "8 event types"),
        (checks.check_few_event_types(9, has_event_values=True), False, "at most 8"),
        (check_no_seen_items(0, BOUGHT), True, "0 rows"),
        (
            check_no_seen_items(1, BOUGHT),
            False,
            "had by purchase in the last 60 days",
        ),
    ],
)
def test_findings_beyond_a_limit_block_a_run(finding: Finding, passes: bool, part: str) -> None:
    assert finding.blocks is not passes
    assert part in finding.text
