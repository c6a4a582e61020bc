"""Tests of reasons: a reason names an item of the user's history that speaks for the result."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchrec_dagster_tests.guard.seams.lists import explain_lists

PEOPLE = [f"u{number}" for number in range(40)]
# Half of the people cook and half read; cook and reader are people to explain a list to.
INTERACTIONS = [
    *[(user, item) for user in PEOPLE[:20] for item in ("pot", "lid", "pan")],
    *[(user, item) for user in PEOPLE[20:] for item in ("book", "lamp")],
    ("cook", "pot"),
    ("cook", "book"),
    ("reader", "book"),
]
# The product's constant: this number of people with the two items is half as good as very many.
DISCOUNT = 10
USERS, ITEMS = [f"u{n}" for n in range(9)], [f"i{n}" for n in range(7)]


def to_lists(rows: list[tuple[str, str, str | None]]) -> pl.DataFrame:
    schema = {"user_id": pl.String, "item_id": pl.String, "reason": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").with_columns(score=pl.lit(0.5))


def to_frame(rows: Sequence[tuple[str, ...]]) -> pl.DataFrame:
    """Return interactions from users, items and, if given, types."""
    names = ["USER_ID", "ITEM_ID", "EVENT_TYPE"][: max(map(len, rows), default=2)]
    return pl.DataFrame(rows, schema=dict.fromkeys(names, pl.String), orient="row")


def explain(
    rows: list[tuple[str, str, str | None]],
) -> list[tuple[str | None, str | None]]:
    return explain_lists(to_lists(rows), to_frame(INTERACTIONS))["reason", "reason_item"].rows()


def test_because_names_the_item_of_the_person_that_shares_most_people_with_it() -> None:
    assert explain([("cook", "lid", None), ("cook", "lamp", None), ("reader", "lamp", None)]) == [
        ("because", "pot"),
        ("because", "book"),
        ("because", "book"),
    ]


def test_without_anything_in_common_no_item_is_named() -> None:
    assert explain([("reader", "pan", None)]) == [(None, None)]


def test_newcomers_get_popular_items_and_unseen_items_count_as_new() -> None:
    assert explain([("nobody", "pot", None), ("cook", "just in", None)]) == [
        ("popular", None),
        ("new", None),
    ]


def test_the_text_of_a_rule_stays() -> None:
    assert explain([("cook", "lid", "pinned"), ("cook", "lamp", "popular")]) == [
        ("pinned", None),
        ("popular", None),
    ]


def test_items_of_a_control_or_without_a_score_count_as_popular() -> None:
    rows = to_lists([("cook", "lid", None), ("cook", "lamp", None), ("reader", "lamp", None)])
    lists = rows.with_columns(
        score=pl.Series([0.5, None, None]), arm=pl.Series(["model", "model", "control"])
    )
    explained = explain_lists(lists, to_frame(INTERACTIONS))
    assert explained["reason"].to_list() == ["because", "popular", "popular"]


@pytest.mark.parametrize(
    "settings", [{"success": ["Purchase"]}, {"event_weights": {"view": 0.1, "PURCHASE": 1}}]
)
def test_viewed_items_are_no_reason_for_people_who_bought(
    settings: dict[str, Any],
) -> None:
    rows = [(user, item, "view") for user, item in INTERACTIONS]
    # The book speaks for the lamp, but was only viewed. The pot does not speak for the lamp.
    rows += [("cook", "pot", "purchase"), ("cook", "pot", "view")]
    lists = to_lists([("cook", "lid", None), ("cook", "lamp", None), ("reader", "lamp", None)])
    explained = explain_lists(lists, to_frame(rows), titles={"pot": "A pot"}, **settings)
    assert explained.rows() == [
        ("because", "pot", "A pot", "purchase"),
        (None, None, None, None),
        ("because", "book", None, "view"),
    ]


def test_an_overlap_that_chance_explains_is_no_reason() -> None:
    # All users have the bag, so having it says nothing about users with the lamp.
    everybody = [(user, "bag") for user in [*PEOPLE, "cook", "reader", "new one"]]
    interactions = to_frame([*INTERACTIONS, *everybody])
    lists = to_lists([("new one", "lamp", None), ("reader", "lamp", None)])
    explained = explain_lists(lists, interactions)
    assert explained["reason_item"].to_list() == [None, "book"]


def test_an_item_of_a_single_person_is_no_reason() -> None:
    interactions = to_frame([*INTERACTIONS, ("u1", "secret"), ("reader", "secret")])
    explained = explain_lists(to_lists([("reader", "pot", None)]), interactions)
    assert explained.rows() == [(None, None, None, None)]


def count_overlaps(pairs: set[tuple[str, str]]) -> dict[tuple[str, str], float]:
    """Return the scores of pairs that more people have than by chance, counted with loops."""
    people = defaultdict(set)
    for user, item in pairs:
        people[item].add(user)
    everybody = len({user for user, _ in pairs})
    scores = {}
    for item, users in people.items():
        for other, other_users in people.items():
            people_with_both, product = len(users & other_users), len(users) * len(other_users)
            if item != other and people_with_both >= 2 and people_with_both > product / everybody:
                scores[item, other] = (
                    people_with_both
                    / math.sqrt(product)
                    * people_with_both
                    / (people_with_both + DISCOUNT)
                )
    return scores


@given(
    st.lists(
        st.tuples(
            st.sampled_from(USERS),
            st.sampled_from(ITEMS),
            st.sampled_from(["buy", "view", "click"]),
        ),
        max_size=60,
    ),
    st.lists(
        st.tuples(st.sampled_from(USERS), st.sampled_from([*ITEMS, "x"]), st.just(None)),
        min_size=1,
        unique=True,
    ),
    st.sampled_from([{"event_weights": {"buy": 1, "view": 0.5}}, {"success": ["Buy"]}, {}]),
)
def test_reasons_equal_a_plain_count(
    events: list[tuple[str, str, str]],
    rows: list[tuple[str, str, None]],
    solution: dict[str, Any],
) -> None:
    explained = explain_lists(to_lists([*rows]), to_frame([*events]), **solution)
    weights = solution.get("event_weights", {"buy": 1} if solution else {})
    pairs = {(user, item) for user, item, _ in events}
    scores = count_overlaps(pairs)
    for (user, item, _), (reason, reason_item, _, reason_event) in zip(
        rows, explained.iter_rows(), strict=True
    ):
        user_events = [(listed, kind) for name, listed, kind in events if name == user]
        strongest = max((weights.get(kind, 0) for _, kind in user_events), default=0)
        kinds = defaultdict(set)
        for listed, kind in user_events:
            if weights.get(kind, 0) == strongest:
                kinds[listed].add(kind)
        own_scores = {listed: scores.get((item, listed), 0) for listed in kinds}
        best = max(own_scores.values(), default=0)
        expected = None
        if item not in {listed for _, listed in pairs}:
            expected = "new"
        elif not user_events:
            expected = "popular"
        elif best:
            expected = "because"
        assert reason == expected
        assert (reason_item is None) == (reason != "because")
        if reason == "because":
            assert own_scores[reason_item] == pytest.approx(best)
            assert reason_event in kinds[reason_item]
