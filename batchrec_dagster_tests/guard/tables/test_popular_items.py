"""Tests that popular items equal a plain count of the items of the last days."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.seams.lists import count_popular_items

DAY = 86_400
NOW = 1_700_000_000
GROUPS = {"u1": "AT", "u2": "AT", "u3": "AT", "ü4": "AT", "u5": "DE"}
# An item is popular in a group if at least this many people of the group had it.
FEWEST_PEOPLE = 3


class Event(NamedTuple):
    """An interaction."""

    user: str
    item: str
    days: int
    """The age of the interaction in days before NOW."""
    kind: str


events_strategy = st.lists(
    st.builds(
        Event,
        st.sampled_from([*GROUPS]),
        st.sampled_from([f"i{number}" for number in range(4)]),
        st.integers(0, 9),
        st.sampled_from(["purchase", "View", "refund"]),
    ),
    min_size=1,
    max_size=60,
)
days_strategy = st.sampled_from([1, 3, 100])
success_strategy = st.sampled_from([[], ["purchase"], ["Purchase", "view"]])


def to_frame(events: Sequence[Event]) -> pl.DataFrame:
    rows = [(event.user, event.item, NOW - event.days * DAY, event.kind) for event in events]
    types = {"USER_ID": pl.String, "ITEM_ID": pl.String, "TIMESTAMP": pl.Int64}
    return pl.DataFrame(rows, schema={**types, "EVENT_TYPE": pl.String}, orient="row")


def count_plainly(
    events: Sequence[Event], days: int, success: Sequence[str], group: str | None = None
) -> list[tuple[str, int]]:
    """Return items with their number of people, the highest number first, and ties by id."""
    newest = min(event.days for event in events)
    kinds = [kind.lower() for kind in success]
    people: dict[str, set[str]] = defaultdict(set)
    for event in events:
        is_success = not kinds or event.kind.lower() in kinds
        is_in_group = group is None or GROUPS[event.user] == group
        if is_success and is_in_group and event.days - newest < days:
            people[event.item].add(event.user)
    pairs = [(item, len(users)) for item, users in people.items()]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


@given(events_strategy, days_strategy, success_strategy)
def test_popular_items_are_the_items_most_people_had_in_the_last_days(
    events: list[Event], days: int, success: list[str]
) -> None:
    counted = count_popular_items(to_frame(events), days, success)
    assert counted.select("ITEM_ID", "popularity").rows() == count_plainly(events, days, success)


@given(events_strategy, days_strategy, success_strategy)
def test_an_item_is_popular_in_a_group_if_several_of_its_people_had_it(
    events: list[Event], days: int, success: list[str]
) -> None:
    counted = count_popular_items(to_frame(events), days, success, by=GROUPS)
    for group in ("AT", "DE"):
        plain = count_plainly(events, days, success, group)
        expected = [(item, people) for item, people in plain if people >= FEWEST_PEOPLE]
        rows = counted.filter(group=group).select("ITEM_ID", "popularity").rows()
        assert rows == expected
