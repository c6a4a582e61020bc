"""What changed between two editions, counted another way."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import polars as pl
import pytest

from batchrec_dagster.personalize.measurements import AMAZON, NDCG
from batchrec_dagster.reporting.insight.changes import compare_editions, explain_incomparability
from batchrec_dagster.reporting.insight.numbers import Number
from batchrec_dagster.storage.edition import Edition
from batchrec_dagster_tests.guard.seams.editions import make_edition, make_groups

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
        (build_edition(1), build_table(old)), (build_edition(2), build_table(new))
    )
    common_users = {*old} & {*new}
    overlaps = [len({*old[u]} & {*new[u]}) / max(len(old[u]), len(new[u])) for u in common_users]
    assert diff.kept == pytest.approx(sum(overlaps) / len(common_users))
    assert (diff.compared, diff.gained, diff.lost) == (len(common_users), 10, 5)
    assert diff.same_lists == sum({*old[u]} == {*new[u]} for u in common_users) >= 1
    before, after = (Counter(i for u in common_users for i in lists[u]) for lists in (old, new))
    order = sorted({*before, *after}, key=lambda item: (before[item] - after[item], item))
    rose = [item for item in order if after[item] > before[item]][:10]
    fell = [item for item in reversed(order) if after[item] < before[item]][:10]
    for shifts, items in ((diff.up, rose), (diff.down, fell)):
        assert [(s.item, s.title, s.before, s.after) for s in shifts] == [
            (item, f"T{item}", before[item], after[item]) for item in items
        ]


def test_many_users_are_sampled_and_none_in_common_is_said() -> None:
    lists = draw_lists(1, range(60))
    diff = compare_editions(
        (build_edition(1), build_table(lists)),
        (build_edition(2), build_table(lists)),
        most_users=20,
    )
    assert (diff.compared, diff.kept, diff.same_lists) == (20, 1.0, 20)
    assert (diff.up, diff.down) == ((), ())
    other_table = build_table({"other": ["i1"]})
    disjoint_diff = compare_editions(
        (build_edition(1), build_table(lists)), (build_edition(2), other_table)
    )
    assert (
        disjoint_diff.kept,
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
    diff = compare_editions((old, build_table({})), (new, build_table({})))
    assert [(change.name, change.before, change.after) for change in diff.settings] == [
        ("interactions.min_rating", "3.5", "4"),
        ("solution.recipe", None, "x"),
    ]
    assert diff.caveat.startswith("The metrics cannot be compared: interactions.min_rating")
    assert "NDCG@25" not in [change.name for change in diff.quality]
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


def test_two_models_are_compared_on_the_same_people() -> None:
    before = build_edition(1, solution_version_arn="a", groups=make_groups(0.2, 0.02))
    after = build_edition(2, solution_version_arn="b", groups=make_groups(0.21, 0.02))
    diff = compare_editions((before, build_table({})), (after, build_table({})))
    assert "on the same people" in diff.caveat
    numbers = {change.name: change.after for change in diff.quality}
    ndcg, difference = numbers["NDCG@25"], numbers["difference, on the same people"]
    assert isinstance(ndcg, Number)
    assert isinstance(difference, Number)
    assert ndcg.low == pytest.approx(0.19, abs=0.001)
    assert ndcg.measured_on == 200
    # What is hard for one model is so for the other.
    assert difference.value == pytest.approx(0.01)
    assert difference.low == pytest.approx(0.01)


def test_without_groups_two_models_are_not_compared_and_that_is_said() -> None:
    known = {"metrics": {NDCG: 0.2}, "engine": AMAZON}
    before = build_edition(1, solution_version_arn="a", **known)
    after = build_edition(2, solution_version_arn="b", **known)
    diff = compare_editions((before, build_table({})), (after, build_table({})))
    assert "as Amazon Personalize gives means alone: a difference may be chance" in diff.caveat
    assert [change.name for change in diff.quality][:2] == ["NDCG@25", "users with a list"]
