"""How well known, how new and how diverse recommended items are, on tables with known answers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster.preparation.layout import CONSTANT_TIME
from batchrec_dagster.reporting.item_ages import AGES, LATEST_TIME, measure_ages
from batchrec_dagster.reporting.item_figures import describe_days
from batchrec_dagster.reporting.list_diversity import count_values_per_list
from batchrec_dagster.reporting.novelty import measure_novelty
from batchrec_dagster.reporting.people import collect_people
from batchrec_dagster.reporting.report_counts import DAY, count_tables
from batchrec_dagster.reporting.run_tables import RunTables

END = 1_700_000_000 // DAY * DAY + DAY // 2


def make_tables(
    interactions: list[tuple[str, str, int]],
    lists: dict[str, list[str]],
    items: dict[str, Any] | None = None,
    categories: tuple[str, ...] = (),
) -> RunTables:
    rows = [(user, rank, item) for user in lists for rank, item in enumerate(lists[user], 1)]
    columns = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String}
    return RunTables(
        interactions=pl.LazyFrame(
            interactions,
            {"USER_ID": pl.String, "ITEM_ID": pl.String, "TIMESTAMP": pl.Int64},
            orient="row",
        ),
        recommendations=pl.LazyFrame(rows, columns, orient="row"),
        users=pl.LazyFrame({"userId": list(lists)}),
        items=None if items is None else pl.DataFrame(items, strict=False),
        categories=categories,
    )


def make_items(interactions: list[int], lists: list[int]) -> pl.DataFrame:
    """Items of the catalogue, from the most to the least popular."""
    return pl.DataFrame(
        {"interactions": interactions, "lists": lists, "popularity": range(1, len(lists) + 1)},
        dict.fromkeys(["interactions", "lists", "popularity"], pl.Int64),
    )


def test_novelty_by_hand() -> None:
    novelty = measure_novelty(make_items([4, 2, 2, 0], [1, 0, 2, 1]))
    assert (novelty.lists.median_rank, novelty.histories.median_rank) == (3, 1)
    # The percentiles are 1, 0.5 (twice the mean of the ranks 1 and 2, of three), and 0.
    assert novelty.lists.percentile == pytest.approx((1 + 2 * 0.5 + 0) / 4)
    assert novelty.histories.percentile == pytest.approx((4 * 1 + 4 * 0.5) / 8)
    # One bit for the half of all interactions, two for the quarters; nothing for the unknown item.
    assert novelty.lists.information == pytest.approx((1 + 2 * 2) / 3)
    assert novelty.histories.information == pytest.approx((4 * 1 + 4 * 2) / 8)
    assert novelty.share_without_interactions == 0.25


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50)), max_size=30))
def test_novelty_is_a_number_whatever_there_is(counts: list[tuple[int, int]]) -> None:
    counts.sort(reverse=True)
    novelty = measure_novelty(make_items([n for n, _ in counts], [n for _, n in counts]))
    for side in (novelty.lists, novelty.histories):
        assert 0 <= side.median_rank <= len(counts)
        assert 0 <= side.percentile <= 1
        assert 0 <= side.information < math.inf
    assert 0 <= novelty.share_without_interactions <= 1
    listed = sum(lists for _, lists in counts)
    median = novelty.lists.median_rank
    # The median splits the recommendations in halves.
    assert sum(lists for _, lists in counts[:median]) * 2 >= listed
    assert sum(lists for _, lists in counts[: max(0, median - 1)]) * 2 <= listed


def ago(days: float) -> int:
    return END - round(days * DAY)


INTERACTIONS = [("u", "a", ago(400)), ("u", "b", ago(100)), ("v", "a", ago(10)), ("v", "b", END)]


def test_ages_count_from_the_declared_creation() -> None:
    items = {
        "ITEM_ID": ["a", "b", "c", "d"],
        "CREATION_TIMESTAMP": [f"{ago(500)}", f"{ago(110)}", f"{ago(20)}", None],
    }
    tables = make_tables(INTERACTIONS, {"u": ["c", "d"], "v": ["c"], "w": ["a"]}, items)
    ages = measure_ages(tables, count_tables(tables))
    assert ages is not None
    assert (ages.is_declared, ages.items_with_age) == (True, 3)
    # Two of the three places with an age have the item of 20 days.
    assert ages.lists.median == 20
    assert ages.lists.shares == pytest.approx([2 / 3, 0, 0, 1 / 3, 0, 0])
    assert ages.catalogue.median == 110
    # Chosen in the last 30 days: one item 490 days after its creation, one after 110.
    assert ages.recent is not None
    assert ages.recent.median == 110
    assert ages.recent.shares == pytest.approx([0, 0, 0.5, 0.5, 0, 0])


def test_without_a_declared_creation_ages_count_from_the_first_interaction() -> None:
    tables = make_tables(INTERACTIONS, {"u": ["a"], "v": ["b"], "w": ["b"]})
    ages = measure_ages(tables, count_tables(tables))
    assert ages is not None
    assert (ages.is_declared, ages.items_with_age) == (False, 2)
    assert (ages.lists.median, ages.catalogue.median) == (100, 100)


def test_ages_that_nobody_can_know() -> None:
    timeless = make_tables([("u", "a", CONSTANT_TIME)], {"u": ["a"]})
    assert measure_ages(timeless, count_tables(timeless)) is None
    unseen = make_tables(INTERACTIONS, {"u": ["new"]})
    assert measure_ages(unseen, count_tables(unseen)) is None
    # An item that was created after the data end is new; milliseconds are no time.
    items = {
        "ITEM_ID": ["a", "b"],
        "CREATION_TIMESTAMP": [f"{END + 9 * DAY}", f"{10 * LATEST_TIME}"],
    }
    tables = make_tables(INTERACTIONS, {"u": ["a", "b"]}, items)
    ages = measure_ages(tables, count_tables(tables))
    assert ages is not None
    assert (ages.items_with_age, ages.lists.median) == (1, 0)


Items = st.sampled_from(["a", "b", "c", "unseen"])


@given(
    st.lists(
        st.tuples(st.sampled_from("uvw"), st.sampled_from("abc"), st.integers(0, 2 * 10**9)),
        min_size=1,
    ),
    st.dictionaries(st.sampled_from("uvx"), st.lists(Items, unique=True, min_size=1), min_size=1),
    st.lists(st.none() | st.integers(-(10**12), 10**12).map(str), min_size=4, max_size=4),
    st.lists(st.none() | st.sampled_from(["A", "B|C", "", "A|A"]), min_size=4, max_size=4),
)
def test_wild_tables_are_counted(
    interactions: list[tuple[str, str, int]],
    lists: dict[str, list[str]],
    created: list[str | None],
    kinds: list[str | None],
) -> None:
    items = {
        "ITEM_ID": ["a", "b", "c", "elsewhere"],
        "CREATION_TIMESTAMP": pl.Series(created, dtype=pl.String),
        "KIND": pl.Series(kinds, dtype=pl.String),
    }
    tables = make_tables(interactions, lists, items, ("KIND",))
    counts = count_tables(tables)
    ages = measure_ages(tables, counts)
    values = count_values_per_list(tables, collect_people(tables, counts))
    if ages is not None:
        for groups in filter(None, (ages.lists, ages.catalogue, ages.recent)):
            assert len(groups.shares) == len(AGES)
            assert sum(groups.shares) == pytest.approx(1)
            assert groups.median >= 0
    if values is not None:
        assert values.lists == sum(number for _, number in values.numbers) <= len(lists)
        assert [number for number, _ in values.numbers] == [
            *range(values.numbers[0][0], values.numbers[-1][0] + 1)
        ]


def test_values_are_counted_list_by_list() -> None:
    items = {"ITEM_ID": ["a", "b", "c", "d"], "KIND": ["A|B", "A", None, "C|D|E"]}
    lists = {"u": ["a", "b"], "v": ["c"], "w": ["a", "d", "c"]}
    tables = make_tables(INTERACTIONS, lists, items, ("KIND",))
    people = collect_people(tables, count_tables(tables))
    values = count_values_per_list(tables, people)
    assert values is not None
    # The list of one item without a value is left out.
    assert (values.category, values.lists, values.is_sample) == ("KIND", 2, False)
    assert values.numbers == [(2, 1), (3, 0), (4, 0), (5, 1)]
    assert [values.find_quantile(share) for share in (0.25, 0.5, 0.75)] == [2, 2, 5]
    sample = count_values_per_list(tables, collect_people(tables, count_tables(tables), 2))
    assert sample is not None
    assert sample.is_sample
    assert count_values_per_list(replace(tables, categories=()), people) is None
    nothing = {"ITEM_ID": ["a"], "KIND": [None]}
    assert (
        count_values_per_list(make_tables(INTERACTIONS, lists, nothing, ("KIND",)), people) is None
    )


def test_ages_are_described() -> None:
    assert [describe_days(days) for days in (0.2, 1, 45.4, 366, 3653)] == [
        *("0 days", "1 day", "45 days", "1.0 years", "10.0 years")
    ]
