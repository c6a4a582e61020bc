"""Tests of the table of outcomes, which counts what people did after each edition.

For any history of editions, the table equals the row-by-row count of oracles/outcomes.py. A period
is never counted twice or changed afterwards.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest

from batchrec_dagster_tests.guard.oracles.outcomes import DAY, Event, Period, count_outcomes
from batchrec_dagster_tests.guard.repeats import repeats
from batchrec_dagster_tests.guard.seams.outcomes import ListHistory

T0 = 1_700_000_000
LISTS = {"ann": ["a", "b"], "bob": ["b", "c"], "eve": ["c", "d"]}
BEFORE = [
    Event("ann", "x", T0),
    Event("bob", "x", T0),
    Event("bob", "a", T0 - 5),
    Event("eve", "b", T0 - 9),
]
PEOPLE = [f"u{number}" for number in range(30)]
ITEMS = [f"i{number}" for number in range(12)]


@pytest.fixture
def history(tmp_path: Path) -> ListHistory:
    return ListHistory(tmp_path / "storage")


def to_frame(events: Sequence[Event]) -> pl.DataFrame:
    """Return the interactions with the columns that every pipeline has."""
    rows = [event[:3] for event in events]
    return pl.DataFrame(rows, schema=["USER_ID", "ITEM_ID", "TIMESTAMP"], orient="row")


def to_typed_frame(events: Sequence[Event]) -> pl.DataFrame:
    """Return the interactions with types and values of events."""
    types = {"USER_ID": pl.String, "ITEM_ID": pl.String, "TIMESTAMP": pl.Int64}
    schema = {**types, "EVENT_TYPE": pl.String, "EVENT_VALUE": pl.Float64}
    return pl.DataFrame(events, schema=schema, orient="row")


def list_periods(outcomes: pl.DataFrame) -> list[tuple[int, int, int]]:
    """Return each period's edition, start and end, oldest first, in seconds after T0."""
    seconds = outcomes.select(
        "edition", *(pl.col(name).dt.epoch("s") - T0 for name in ("start", "end"))
    )
    return seconds.sort("start").rows()


@pytest.mark.parametrize("seed", range(repeats(6, 2)))
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_each_editions_numbers_equal_a_plain_count(
    history: ListHistory, seed: int, *, exclude_seen: bool
) -> None:
    chance = random.Random(seed)
    events = [
        Event(chance.choice(PEOPLE), chance.choice(ITEMS), T0 + chance.randrange(6 * DAY))
        for _ in range(400)
    ]
    # Lists may have items that nobody had, and users who never did anything.
    editions = [
        {
            user: chance.sample([*ITEMS, "new"], chance.randint(1, 5))
            for user in [*chance.sample(PEOPLE, 20), "stranger"]
        }
        for _ in range(3)
    ]
    for day, lists in enumerate(editions, 1):
        made_of = T0 + day * DAY
        history.publish(lists, at=made_of + 3600, data_until=made_of, exclude_seen=exclude_seen)
    outcomes = history.measure(to_frame(events))
    newest = max(event.time for event in events)
    for day, lists in enumerate(editions, 1):
        start = T0 + day * DAY + 3600
        period = Period(T0 + day * DAY, start, start + DAY if day < 3 else newest)
        expected = count_outcomes(events, lists, period, exclude_seen=exclude_seen)
        (row,) = outcomes.filter(edition=day).iter_rows(named=True)
        assert {name: row[name] for name in expected} == pytest.approx(expected)
        assert row["since"] == "publication"
        for rate in ("hit_rate", "recall", "list_share", "gain"):
            assert row[f"{rate}_low"] <= row[rate] <= row[f"{rate}_high"]


def test_outcomes_of_recent_editions_are_counted_together(history: ListHistory) -> None:
    """After each of four editions, all users choose the first item of the list.

    The item is not popular. The first edition was replaced long before the other editions.
    """
    popular = [Event(f"u{number}", "popular", T0) for number in range(100)]
    days = (1, 2, 200, 201)
    events = [*popular]
    for day in days:
        made_of = T0 + day * DAY
        lists = {f"u{number}": [f"own {day} {number}"] for number in range(80)}
        history.publish(lists, at=made_of, data_until=made_of)
        # The number of returning users differs.
        events += [
            Event(user, item, made_of + 3600 + day)
            for number, (user, (item,)) in enumerate(lists.items())
            if number < (80 if day == 1 else 60)
        ]
    pooled = history.pool(to_frame(events))
    assert pooled is not None
    gain, low, high, users = pooled
    assert gain == high == 1
    assert 0 < low < 1
    # Choices from the first edition are too long ago.
    assert users == 3 * 60


def test_few_people_say_nothing_of_lists(history: ListHistory) -> None:
    assert history.pool(to_frame(BEFORE)) is None
    history.publish(LISTS, at=T0 + 10, data_until=T0 + 10)
    events = [*BEFORE, Event("ann", "a", T0 + 20)]
    assert history.pool(to_frame(events)) is None


@pytest.mark.parametrize("seed", range(repeats(6, 2)))
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_purchases_and_payments_equal_a_plain_count(
    tmp_path: Path, seed: int, *, exclude_seen: bool
) -> None:
    history = ListHistory(tmp_path / "storage", success=["PURCHASE"])
    chance = random.Random(seed)
    events = [
        Event(
            chance.choice(PEOPLE),
            chance.choice(ITEMS),
            T0 + chance.randrange(6 * DAY),
            chance.choice(["click", "click", "Purchase", "purchase"]),
            chance.choice([None, 0.0, -2.5, 19.9, 1000.0]),
        )
        for _ in range(500)
    ]
    lists = {user: chance.sample(ITEMS, chance.randint(1, 5)) for user in PEOPLE[:20]}
    history.publish(lists, at=T0 + 2 * DAY, data_until=T0 + DAY, exclude_seen=exclude_seen)
    newest = max(event.time for event in events)
    expected = count_outcomes(
        events,
        lists,
        Period(T0 + DAY, T0 + 2 * DAY, newest),
        exclude_seen=exclude_seen,
        success=["purchase"],
    )
    (row,) = history.measure(to_typed_frame(events)).iter_rows(named=True)
    assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert row["success"] == "purchase"
    assert row["event_value_low"] < row["event_value"] < row["event_value_high"]


def test_only_interactions_after_the_publication_count(history: ListHistory) -> None:
    history.publish(LISTS, at=T0 + 60, data_until=T0)
    later = [Event("ann", "a", T0 + 61), Event("ann", "z", T0 + 70), Event("bob", "z", T0 + 80)]
    (first,) = history.measure(to_frame([*BEFORE, *later])).iter_rows(named=True)
    assert (first["users"], first["active_users"]) == (3, 2)
    assert (first["hit_rate"], first["recall"]) == (0.5, 0.25)
    # Two users prove nothing, even if they agree.
    assert first["gain_low"] < 0 < first["gain_high"]
    # Items chosen before the publication, known before, or chosen by a user without a list.
    other_events = [
        Event("eve", "c", T0 + 60),
        Event("ann", "x", T0 + 65),
        Event("zoe", "a", T0 + 75),
    ]
    (second,) = history.measure(to_frame([*BEFORE, *later, *other_events])).iter_rows(named=True)
    assert (second["active_users"], second["hit_rate"], second["recall"]) == (2, 0.5, 0.25)


def test_interactions_at_the_moment_of_publication_do_not_count(
    history: ListHistory,
) -> None:
    history.publish(LISTS, at=T0 + 60, data_until=T0, exclude_seen=False)
    events = [*BEFORE, Event("eve", "c", T0 + 60), Event("ann", "a", T0 + 61)]
    (row,) = history.measure(to_frame(events)).iter_rows(named=True)
    assert row["active_users"] == 1


def test_without_later_interactions_there_is_no_number(history: ListHistory) -> None:
    history.publish(LISTS, at=T0 + 60, data_until=T0)
    assert history.measure(to_frame(BEFORE)).is_empty()
    # No user with a list did anything.
    outcomes = history.measure(to_frame([*BEFORE, Event("zoe", "a", T0 + 90)]))
    (row,) = outcomes.iter_rows(named=True)
    assert (row["active_users"], row["hit_rate"], row["gain"]) == (0, None, None)


def test_a_rerun_changes_nothing_and_outcomes_of_deleted_editions_stay(
    history: ListHistory,
) -> None:
    events = [*BEFORE]
    for night in range(1, 4):
        history.publish(LISTS, at=T0 + night * DAY, data_until=T0 + (night - 1) * DAY)
        events.append(Event("ann", f"{night}", T0 + night * DAY + 5))
        first = history.measure(to_frame(events))
    assert first["edition"].to_list() == [1, 2, 3]
    assert history.measure(to_frame(events)).equals(first)
    # Measured outcomes stay, also for editions that were changed.
    for file in history.folder.rglob("history/*.parquet"):
        content = file.read_bytes()
        file.write_bytes(content[:4] + bytes(36) + content[40:])
    assert history.measure(to_frame(events)).equals(first)
    history.drop_kept_editions()
    assert history.measure(to_frame(events)).equals(first)
    # Damaged sums are measured again, for the editions that still exist.
    (sums,) = history.folder.rglob("sums.parquet")
    sums.write_bytes(b"PAR1")
    assert history.measure(to_frame(events))["edition"].to_list() == [3]


def test_a_period_runs_to_the_next_publication_and_after_a_rollback_the_older_lists_have_another(
    history: ListHistory,
) -> None:
    events = [*BEFORE]

    def measure_after(day: int) -> pl.DataFrame:
        events.append(Event("ann", f"day {day}", T0 + day * DAY - 5))
        return history.measure(to_frame(events))

    history.publish(LISTS, at=T0 + DAY, data_until=T0)
    measure_after(2)
    history.publish(LISTS, at=T0 + 2 * DAY, data_until=T0)
    measure_after(3)
    history.roll_back(at=T0 + 3 * DAY)
    measure_after(4)
    history.publish(LISTS, at=T0 + 4 * DAY, data_until=T0)
    before = measure_after(5)
    days = [(edition, start // DAY, end // DAY) for edition, start, end in list_periods(before)]
    assert days == [(1, 1, 2), (2, 2, 3), (1, 3, 4), (3, 4, 4)]
    # An edition's measured outcomes do not change after the edition is deleted.
    history.drop_kept_editions()
    assert history.measure(to_frame(events)).equals(before)
    assert measure_after(6).head(3).equals(before.head(3))


def test_an_editions_data_are_not_newer_than_the_edition(history: ListHistory) -> None:
    history.publish(LISTS, at=T0 + 100, data_until=T0 + 90)
    history.publish(LISTS, at=T0 + 200, data_until=T0 + 250)
    outcomes = history.measure(to_frame([*BEFORE, Event("ann", "a", T0 + 300)]))
    assert list_periods(outcomes) == [(1, 100, 250), (2, 250, 300)]


def test_data_that_end_before_any_publication_count_from_where_each_edition_ended(
    history: ListHistory,
) -> None:
    for at, data_until in ((9_000, 100), (9_100, 200), (9_200, 200)):
        history.publish(LISTS, at=T0 + at, data_until=T0 + data_until)
    outcomes = history.measure(to_frame([*BEFORE, Event("ann", "a", T0 + 300)]))
    assert list_periods(outcomes) == [(1, 100, 200), (3, 200, 300)]
    assert {*outcomes["since"]} == {"data"}


def test_other_events_of_success_start_new_numbers_and_change_no_old_ones(
    history: ListHistory,
) -> None:
    events = [Event(user, "x", T0) for user in PEOPLE]

    def publish_and_act(day: int) -> None:
        at = T0 + day * DAY
        history.publish({user: ["a"] for user in PEOPLE}, at=at, data_until=at - DAY)
        events.extend(Event(user, "a", at + 60, "click") for user in PEOPLE)
        events.extend(Event(user, f"b{day}", at + 61, "purchase", 5.0) for user in PEOPLE[::2])

    publish_and_act(1)
    (before,) = history.measure(to_typed_frame(events)).iter_rows(named=True)
    assert (before["success"], before["hit_rate"], before["event_value"]) == ("", 1, None)
    # The first edition is deleted before purchases start to count.
    publish_and_act(2)
    history.drop_kept_editions()
    history.success = ["purchase"]
    old, new = history.measure(to_typed_frame(events)).sort("edition").iter_rows(named=True)
    numbers = ("users", "active_users", "hit_rate", "recall", "popular_hit_rate", "success")
    assert [old[name] for name in numbers] == [before[name] for name in numbers]
    assert (new["success"], new["active_users"], new["hit_rate"]) == ("purchase", 15, 0)
