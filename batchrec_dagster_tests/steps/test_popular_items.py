"""Popular items are those of a plain count, and their window is the one that fits what comes."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchrec_dagster.config.popularity import Popularity
from batchrec_dagster.steps.measure_popularity import measure_popularity
from batchrec_dagster.steps.popular_items import (
    count_popular_items,
    count_popular_items_by_group,
    find_popular_items,
    make_popular_lines,
)
from batchrec_dagster.steps.popularity_window import (
    LIST_LENGTH,
    PeopleOfItems,
    choose_window,
    measure_lists,
)
from batchrec_dagster.steps.sampled_interactions import choose_users, sample_interactions

DAY = 86_400
NOW = 1_700_000_000
ITEMS = [f"i{number}" for number in range(6)]


class Row(NamedTuple):
    """An interaction."""

    user: str
    item: str
    days: int
    """How many days before NOW it was."""
    event: str


rows_strategy = st.lists(
    st.builds(
        Row,
        st.sampled_from(["u1", "u2", "u3", "ü4"]),
        st.sampled_from(ITEMS),
        st.integers(0, 9),
        st.sampled_from(["purchase", "View", "refund"]),
    ),
    min_size=1,
    max_size=40,
)


def to_frame(rows: Sequence[Row]) -> pl.LazyFrame:
    columns = {
        "USER_ID": [row.user for row in rows],
        "ITEM_ID": [row.item for row in rows],
        "TIMESTAMP": [NOW - row.days * DAY for row in rows],
        "EVENT_TYPE": [row.event for row in rows],
    }
    types = {"USER_ID": pl.String, "ITEM_ID": pl.String, "TIMESTAMP": pl.Int64}
    return pl.LazyFrame(columns, schema={**types, "EVENT_TYPE": pl.String})


def count_plainly(
    rows: Sequence[Row], days: int | None, weights: Mapping[str, float]
) -> list[tuple[str, float]]:
    """The items with their popularity, the most popular first."""
    newest = min(row.days for row in rows)
    weight_by_pair: dict[tuple[str, str], float] = defaultdict(float)
    for row in rows:
        weight = weights.get(row.event.lower(), 0.0) if weights else 1.0
        if days is None or row.days - newest < days:
            pair = (row.item, row.user)
            weight_by_pair[pair] = max(weight_by_pair[pair], weight)
    popularity: dict[str, float] = defaultdict(float)
    for (item, _), weight in weight_by_pair.items():
        popularity[item] += weight
    pairs = [(item, number) for item, number in popularity.items() if number]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


@given(
    rows_strategy,
    st.sampled_from([None, 1, 3, 100]),
    st.sampled_from([{}, {"purchase": 1.0}, {"purchase": 2.0, "view": 0.5}]),
)
@settings(max_examples=60, deadline=None)
def test_popularity_is_a_plain_count(
    rows: list[Row], days: int | None, weights: dict[str, float]
) -> None:
    counted = count_popular_items(to_frame(rows), days, weights)
    assert list(counted.iter_rows()) == count_plainly(rows, days, weights)

    declared = Popularity(days="all" if days is None else days, events=weights)
    popular = find_popular_items(to_frame(rows), declared, exclude_seen=True)
    recent = [item for item, _ in count_plainly(rows, days, weights)]
    others = [item for item, _ in count_plainly(rows, None, weights) if item not in recent]
    assert popular.ids.to_list() == recent + others

    sample = sample_interactions(to_frame(rows), weights)
    ids = sorted({row.item for row in rows})
    after = None if days is None else int(sample.rows["time"].max()) - days * DAY  # type: ignore[arg-type]
    places = PeopleOfItems(sample.rows, sample.items).place(after)
    ranked = [item for item in recent + others if item in ids]
    assert [ids[item] for item in np.argsort(places)[: len(ranked)]] == ranked


@given(
    st.permutations(range(40)),
    st.dictionaries(st.integers(0, 3), st.sets(st.integers(0, 39), min_size=1), min_size=1),
    st.dictionaries(st.integers(0, 5), st.sets(st.integers(0, 39))),
)
@settings(max_examples=60, deadline=None)
def test_the_ndcg_of_popular_lists_is_that_of_a_plain_reading(
    order: list[int], chosen: dict[int, set[int]], seen: dict[int, set[int]]
) -> None:
    places = np.empty(40, np.int64)
    places[order] = np.arange(1, 41)
    seen = {user: items - chosen.get(user, set()) for user, items in seen.items()}
    expected = []
    for user in sorted(chosen):
        shown = [item for item in order if item not in seen.get(user, set())][:LIST_LENGTH]
        gain = sum(1 / math.log2(2 + shown.index(item)) for item in chosen[user] if item in shown)
        best = sum(1 / math.log2(2 + place) for place in range(min(len(chosen[user]), 25)))
        expected.append(gain / best)
    measured = measure_lists(places[None, :], to_pairs(chosen), to_pairs(seen))
    assert measured[:, 0].tolist() == pytest.approx(expected)


@given(rows_strategy, st.sampled_from([None, 3]), st.sampled_from([{}, {"purchase": 2.0}]))
@settings(max_examples=40, deadline=None)
def test_what_is_popular_in_a_group_is_a_plain_count_of_several_people(
    rows: list[Row], days: int | None, weights: dict[str, float]
) -> None:
    groups = {"u1": "popular in AT", "u2": "popular in AT", "u3": "popular in AT", "ü4": "popular"}
    users = pl.DataFrame({"USER_ID": [*groups], "reason": [*groups.values()]})
    with patch("batchrec_dagster.steps.popular_items.FEWEST_PEOPLE", 2):
        counted = count_popular_items_by_group(to_frame(rows), users, days, weights)
    newest = min(row.days for row in rows)
    for reason in ("popular in AT", "popular"):
        of_group = [row for row in rows if groups[row.user] == reason]
        of_group = [row for row in of_group if days is None or row.days - newest < days]
        of_group = [row for row in of_group if not weights or row.event.lower() in weights]
        people = {item: {row.user for row in of_group if row.item == item} for item in ITEMS}
        expected = count_plainly(of_group, None, weights) if of_group else []
        expected = [(item, number) for item, number in expected if len(people[item]) > 1]
        own = counted.filter(reason=reason).select("ITEM_ID", "popularity")
        assert list(own.iter_rows()) == expected


def to_pairs(items_by_user: Mapping[int, set[int]]) -> pl.DataFrame:
    pairs = [(user, item) for user, items in items_by_user.items() for item in items]
    return pl.DataFrame(pairs, schema={"user": pl.UInt32, "item": pl.UInt32}, orient="row")


def make_trend(days: int, lifetime: int) -> pl.LazyFrame:
    """Interactions of days in which everybody takes what is new, which lasts for a lifetime."""
    chance = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for day in range(days):
        for _ in range(20):
            item = day // lifetime * 50 + int(300 * chance.random() ** 3)
            rows.append({"USER_ID": f"u{chance.integers(0, 300)}", "ITEM_ID": f"i{item:04}"})
            rows[-1]["TIMESTAMP"] = NOW + day * DAY
    return pl.LazyFrame(rows)


def test_the_window_follows_the_data() -> None:
    # What is bought changes every week, or never.
    moving = sample_interactions(make_trend(300, 7), {})
    choice = choose_window(moving, exclude_seen=True)
    assert choice.days in (7, 30)
    assert choice.horizon == 30
    assert choice.lists > 1_000
    assert choice.ndcg[f"{choice.days}"] == max(choice.ndcg.values()) > 1.2 * choice.ndcg["all"]
    still = choose_window(sample_interactions(make_trend(300, 10_000), {}), exclude_seen=True)
    assert still.days is None
    assert {*still.ndcg} == {"all", "90", "30", "7"}


def test_the_choice_is_the_same_until_a_month_has_passed() -> None:
    data = make_trend(300, 7).collect()
    month = 30 * DAY
    end = int(data["TIMESTAMP"].max()) // month * month  # type: ignore[arg-type]
    nights = [
        choose_window(
            sample_interactions(data.lazy().filter(pl.col("TIMESTAMP") <= end + day * DAY), {}),
            exclude_seen=True,
        )
        for day in (-1, 2, 4)
    ]
    assert nights[1] == nights[2]
    assert nights[0] != nights[1]


def test_too_little_data_choose_all_time() -> None:
    one_moment = [Row(f"u{number}", "i1", 0, "view") for number in range(50)]
    for rows in (one_moment, one_moment[:1]):
        choice = choose_window(sample_interactions(to_frame(rows), {}), exclude_seen=True)
        assert (choice.days, choice.ndcg, choice.lists) == (None, {}, 0)
        assert measure_popularity(to_frame(rows), Popularity(), exclude_seen=True) is None


def test_a_sample_has_whole_users() -> None:
    data = make_trend(100, 7)
    whole, part = (sample_interactions(data, {}, most_rows=most) for most in (10_000, 500))
    assert whole.rows.height == data.collect().height
    chosen = whole.user_ids.filter(choose_users(whole.user_ids, 4, "sample"))
    assert part.user_ids.to_list() == chosen.to_list()
    of_chosen = data.filter(pl.col("USER_ID").is_in(chosen.implode())).collect()
    assert part.rows.height == of_chosen.height


def test_popularity_is_measured_as_personalize_measures() -> None:
    data = make_trend(300, 7)
    recent = measure_popularity(data, Popularity(days=7), exclude_seen=True)
    all_time = measure_popularity(data, Popularity(days="all"), exclude_seen=True)
    assert recent is not None
    assert all_time is not None
    assert recent.users == all_time.users
    assert 15 < recent.users < 45
    assert recent.all_time_ndcg == all_time.all_time_ndcg
    assert recent.all_time_margin == all_time.all_time_margin
    assert recent.all_time_margin is not None
    assert 0 < recent.all_time_margin < 2 * recent.all_time_ndcg
    # Everybody's newest interactions are recent here.
    assert recent.ndcg > recent.all_time_ndcg
    assert recent.margin is not None
    assert measure_popularity(data, Popularity(days=7), exclude_seen=True) == recent
    assert type(recent).from_json(recent.to_json()) == recent


def test_lines_of_popular_items_have_the_reason_of_their_user() -> None:
    users = pl.DataFrame(
        {"user_id": ["a", "b", "c"], "reason": ["popular", "popular in AT", "popular"]}
    ).with_columns(length=pl.Series([1, 5, 2]))
    ids = {"popular": pl.Series(["x", "y", "z"]), "popular in AT": pl.Series(["y"])}
    (lines,) = make_popular_lines(users, ids)
    assert lines["items"].to_list() == [["x"], ["y"], ["x", "y"]]
    assert lines["reason"].to_list() == users["reason"].to_list()
    assert lines["error"].null_count() == 3
    (nothing,) = make_popular_lines(users.clear(), ids)
    assert nothing.schema == lines.schema
