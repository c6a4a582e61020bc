"""What popular items reach of newcomers, on interactions with known answers."""

from __future__ import annotations

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.config.popularity import Popularity
from batchrec_dagster.outcomes.measured_popularity import MeasuredPopularity
from batchrec_dagster.reporting.audience import describe_newcomers, draw_newcomers
from batchrec_dagster.steps.measure_newcomers import FIRST_CHOICES, find_newcomer_hits
from batchrec_dagster.steps.measure_popularity import measure_popularity
from batchrec_dagster.steps.popularity_window import LIST_LENGTH, SECONDS_A_DAY
from batchrec_dagster.steps.sampled_interactions import sample_interactions

Row = tuple[str, str, int, str]
DAY = SECONDS_A_DAY


def make_frame(rows: list[Row]) -> pl.LazyFrame:
    columns = {"USER_ID": pl.String, "ITEM_ID": pl.String, "TIMESTAMP": pl.Int64}
    return pl.LazyFrame(rows, {**columns, "EVENT_TYPE": pl.String}, orient="row")


def find_hits(
    rows: list[Row], days: int | None = None, targets: tuple[str, ...] = ()
) -> list[bool] | None:
    sample = sample_interactions(make_frame(rows), {}, targets=targets)
    hits = find_newcomer_hits(sample, days)
    return None if hits is None else hits.to_list()


# 27 people, of whom the first had 30 items, and each next one had one less. So three more people
# are a tenth of all.
OLD: list[Row] = [
    (f"u{user:02}", f"i{item:02}", DAY * (1 + user) + item, "view")
    for user in range(27)
    for item in range(30 - user)
]


def test_three_newcomers_by_hand() -> None:
    # Of the 25 most popular items one chose the last, and the others chose what comes after.
    new: list[Row] = [
        ("x", "i24", 100 * DAY, "view"),
        ("y", "i25", 101 * DAY, "view"),
        ("z", "i25", 102 * DAY, "view"),
    ]
    assert find_hits([*OLD, *new, *new[:1]]) == [True, False, False]
    # Of four people who came late, the first is no newcomer.
    assert find_hits([*OLD, *new, ("w", "i00", 99 * DAY, "view")]) == [True, False, False]


def test_only_the_first_choices_count() -> None:
    rows: list[Row] = [
        ("x", f"n{number}", 100 * DAY + number, "view") for number in range(FIRST_CHOICES)
    ]
    hit: Row = ("x", "i00", 200 * DAY, "view")
    others: list[Row] = [("y", "i00", 101 * DAY, "view"), ("z", "i00", 102 * DAY, "view")]
    assert find_hits([*OLD, *rows, hit, *others]) == [False, True, True]
    assert find_hits([*OLD, *rows[1:], hit, *others]) == [True, True, True]


def test_popularity_is_that_of_the_days_before_they_came() -> None:
    recent: list[Row] = [
        (f"u{user:02}", f"r{item:02}", 90 * DAY, "view")
        for user in range(5)
        for item in range(LIST_LENGTH)
    ]
    last: Row = ("last", "r00", 95 * DAY, "view")
    new: list[Row] = [(name, "i00", 100 * DAY, "view") for name in ("x", "y", "z")]
    # The items of all time, and those of five of 28 people in the last 30 days.
    assert find_hits([*OLD, *recent, last, *new]) == [True, True, True]
    assert find_hits([*OLD, *recent, last, *new], days=30) == [False, False, False]


def test_target_events_alone_are_choices() -> None:
    new: list[Row] = [("x", "i00", 100 * DAY, "view"), ("y", "i00", 101 * DAY, "buy")]
    assert find_hits([*OLD, *new], targets=("buy",)) == [True]
    assert find_hits(OLD, targets=("buy",)) is None


def test_nobody_is_a_newcomer_without_times() -> None:
    assert find_hits([(user, item, 1, kind) for user, item, _, kind in OLD]) is None
    assert find_hits(OLD[:30]) is None


@given(
    st.lists(
        st.tuples(
            st.integers(0, 40).map(str),
            st.integers(0, 40).map(str),
            st.integers(0, 9),
            st.just("v"),
        ),
        min_size=1,
    )
)
def test_at_most_a_tenth_are_newcomers(rows: list[Row]) -> None:
    hits = find_hits(rows)
    users = len({user for user, *_ in rows})
    assert hits is None or 1 <= len(hits) <= users // 10


def test_it_is_measured_with_popularity_and_stands_in_the_report() -> None:
    new: list[Row] = [("x", "i24", 100 * DAY, "view"), ("y", "i25", 101 * DAY, "view")]
    measured = measure_popularity(
        make_frame([*OLD, *new]), Popularity(days="all"), exclude_seen=True
    )
    assert measured is not None
    assert (measured.newcomers, measured.newcomer_hit_rate) == (2, 0.5)
    assert measured.newcomer_margin == pytest.approx(0.98)
    again = MeasuredPopularity.from_json(measured.to_json())
    assert again == measured
    figure = draw_newcomers(again)
    assert figure is not None
    assert figure.fold == "popular items reach 50.0% of the 2 newest users, a small sample"
    # Shares end at 0 and 1.
    assert ">0.0%<" in figure.rows[0][2]
    assert ">100.0%<" in figure.rows[0][2]
    gets = {"get": "popular"}
    assert describe_newcomers(gets, again) == "They get popular items."
    old = MeasuredPopularity(30, 400, 0.1, 0.01, 0.1)
    assert draw_newcomers(old) is draw_newcomers(None) is None
    assert str(describe_newcomers(gets, old)).endswith("Nobody has measured these lists yet.")
