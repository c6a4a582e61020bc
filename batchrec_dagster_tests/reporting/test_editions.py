"""What changed between two editions, and between the data of two runs, counted another way."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import polars as pl
import pytest

from batchrec_dagster.personalize.measurements import NDCG, read_ndcg
from batchrec_dagster.reporting.changes import build_changes_section
from batchrec_dagster.reporting.drift import DataFacts, RunInputs
from batchrec_dagster.reporting.editions import (
    compare_editions,
    explain_incomparability,
)
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster_tests.guard.seams.editions import make_edition

Lists = dict[str, list[str]]


def build_edition(number: int, **about: Any) -> Edition:
    return make_edition({"number": number, "version": str(number), **about})


def build_table(lists: Lists) -> pl.LazyFrame:
    rows = [
        (u, rank, i, f"T{i}")
        for u, user_items in lists.items()
        for rank, i in enumerate(user_items, 1)
    ]
    names = {"user_id": pl.String, "rank": pl.Int32, "item_id": pl.String, "title": pl.String}
    return pl.LazyFrame(rows, names, orient="row")


def draw_lists(seed: int, users: range) -> Lists:
    chance = random.Random(seed)
    items = [f"i{n}" for n in range(40)]
    return {f"u{user}": chance.sample(items, chance.randint(1, 8)) for user in users}


def test_lists_are_compared_user_by_user_and_item_by_item() -> None:
    old, new = draw_lists(1, range(60)), draw_lists(2, range(5, 70))
    new["u5"] = list(reversed(old["u5"]))
    diff = compare_editions(
        (build_edition(1), build_table(old), None), (build_edition(2), build_table(new), None)
    )
    common_users = {*old} & {*new}
    overlaps = [len({*old[u]} & {*new[u]}) / max(len(old[u]), len(new[u])) for u in common_users]
    assert diff.overlap == pytest.approx(sum(overlaps) / len(common_users))
    assert (diff.compared, diff.gained, diff.lost) == (len(common_users), 10, 5)
    assert diff.same_lists == sum({*old[u]} == {*new[u]} for u in common_users) >= 1
    before, after = (Counter(i for u in common_users for i in lists[u]) for lists in (old, new))
    order = sorted({*before, *after}, key=lambda item: (before[item] - after[item], item))
    rose = [item for item in order if after[item] > before[item]][:10]
    fell = [item for item in reversed(order) if after[item] < before[item]][:10]
    for shifts, items in ((diff.risers, rose), (diff.fallers, fell)):
        assert [(s.item, s.title, s.before, s.after) for s in shifts] == [
            (item, f"T{item}", before[item], after[item]) for item in items
        ]


def test_many_users_are_sampled_and_none_in_common_is_said() -> None:
    lists = draw_lists(1, range(60))
    diff = compare_editions(
        (build_edition(1), build_table(lists), None),
        (build_edition(2), build_table(lists), None),
        most_users=20,
    )
    assert (diff.compared, diff.overlap, diff.same_lists) == (20, 1.0, 20)
    assert (diff.risers, diff.fallers) == ([], [])
    other_table = build_table({"other": ["i1"]})
    disjoint_diff = compare_editions(
        (build_edition(1), build_table(lists), None), (build_edition(2), other_table, None)
    )
    assert (
        disjoint_diff.overlap,
        disjoint_diff.compared,
        disjoint_diff.gained,
        disjoint_diff.lost,
    ) == (None, 0, 1, 60)


def test_metrics_are_compared_only_on_the_same_interactions() -> None:
    strict = {"interactions.min_rating": 4.0, "solution.recipe": "x"}
    old = build_edition(
        1, settings={"interactions.min_rating": 3.5}, metrics={NDCG: 0.2}, data_version="old"
    )
    new = build_edition(2, settings=strict, metrics={NDCG: 0.1}, data_version="new")
    assert explain_incomparability(old, new) == ["interactions.min_rating changed from 3.5 to 4"]
    other_model = build_edition(
        2, settings={**strict, "interactions.min_rating": 3.5}, data_version="new"
    )
    assert explain_incomparability(old, other_model) == []
    diff = compare_editions((old, build_table({}), None), (new, build_table({}), None))
    assert [change.text for change in diff.settings] == [
        "interactions.min_rating changed from 3.5 to 4",
        "solution.recipe changed from its default to x",
    ]
    assert not diff.comparable
    section = build_changes_section(diff, None)
    assert any("cannot be compared" in text for text in section.text)
    assert "changed-metrics" not in [figure.name for figure in section.figures]
    # Columns that are recognised anyway may be left out: the interactions are the same.
    edition_with_column = build_edition(
        1, settings={"ratings.columns.user": "userId"}, data_version="a"
    )
    assert (
        explain_incomparability(
            edition_with_column, build_edition(2, settings={}, data_version="a")
        )
        == []
    )
    for other in ({"data_version": "b"}, {"data_version": "a", "trained_on": "b"}):
        assert (
            len(
                explain_incomparability(edition_with_column, build_edition(2, settings={}, **other))
            )
            == 1
        )


def test_the_ndcg_comes_with_its_interval_where_there_is_one() -> None:
    numbers = {f"all/{name}": 0.1 for name in ("ndcg", "popular", "difference")}
    numbers |= {"all/users": 50, "all/ndcg_low": 0.05}
    sure = build_edition(1, metrics={NDCG: 0.1}, evidence=numbers)
    assert read_ndcg(sure) is not None
    assert read_ndcg(sure).low == 0.05  # type: ignore[union-attr]
    assert read_ndcg(build_edition(1, metrics={NDCG: 0.1})).low is None  # type: ignore[union-attr]
    assert (
        read_ndcg(build_edition(1, metrics={NDCG: 0.1}, evidence={**numbers, "all/users": 0}))
        is None
    )
    assert read_ndcg(build_edition(1)) is None


DATA = DataFacts(1000, 100, 50, "2026-01-01", "2026-01-31", {"buy": 0.5, "view": 0.5}, 2.0)


@pytest.mark.parametrize(
    ("current_data", "expected_changes"),
    [
        ({}, []),
        ({"interactions": 1200, "users": 90}, []),
        ({"interactions": 600}, ["40% fewer interactions"]),
        ({"users": 200, "items": 70}, ["100% more users", "40% more items"]),
        ({"events": {"buy": 0.2, "view": 0.8}}, 2),
        ({"events": {"buy": 0.5, "see": 0.5}}, ["see is 50% of the events, it was 0%"]),
        ({"events": {}}, []),
        ({"mean_value": 1.0}, ["the mean value is 1, it was 2"]),
        ({"mean_value": None}, []),
    ],
)
def test_only_much_drift_is_named(
    current_data: dict[str, Any], expected_changes: list[str] | int
) -> None:
    items = pl.Series([f"i{n}" for n in range(50)])
    before = RunInputs(DATA, items)
    drift = (
        RunInputs(replace(DATA, **current_data), pl.concat([items, pl.Series(["new"])]))
        .add_drift(before)
        .drift
    )
    assert drift is not None
    assert (drift.new_items, drift.vanished_items) == (1, 0)
    if isinstance(expected_changes, int):
        assert len(drift.large_changes) == expected_changes
    else:
        assert {*expected_changes} <= {*drift.large_changes}
        assert bool(expected_changes) == bool(drift.large_changes)


def test_the_same_data_keep_the_drift_they_had() -> None:
    first = RunInputs(DATA, pl.Series(["a", "b"]))
    assert first.add_drift(None).drift is None
    second = RunInputs(replace(DATA, users=99), pl.Series(["b", "c", "d"])).add_drift(first)
    assert second.drift is not None
    assert (second.drift.new_items, second.drift.vanished_items) == (2, 1)
    # The third run reads what the second wrote to its file.
    stored_inputs = RunInputs.read(second.facts, second.items)
    assert stored_inputs.facts == second.facts
    assert RunInputs(second.data, second.items).add_drift(stored_inputs).drift == second.drift
