"""Why an item is on a list: a reason names an item that the person had, and that speaks for it."""

from __future__ import annotations

import polars as pl

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


def explain(
    rows: list[tuple[str, str, str | None]],
) -> list[tuple[str | None, str | None]]:
    interactions = pl.DataFrame(
        INTERACTIONS, schema={"USER_ID": pl.String, "ITEM_ID": pl.String}, orient="row"
    )
    schema = {"user_id": pl.String, "item_id": pl.String, "reason": pl.String}
    return explain_lists(pl.DataFrame(rows, schema=schema, orient="row"), interactions)


def test_because_names_the_item_of_the_person_that_shares_most_people_with_it() -> None:
    assert explain([("cook", "lid", None), ("cook", "lamp", None), ("reader", "lamp", None)]) == [
        ("because", "pot"),
        ("because", "book"),
        ("because", "book"),
    ]


def test_without_anything_in_common_no_item_is_named() -> None:
    assert explain([("reader", "pan", None)]) == [(None, None)]


def test_people_without_a_history_get_what_is_popular_and_items_without_people_are_new() -> None:
    assert explain([("nobody", "pot", None), ("cook", "just in", None)]) == [
        ("popular", None),
        ("new", None),
    ]


def test_what_a_rule_says_stays() -> None:
    assert explain([("cook", "lid", "pinned"), ("cook", "lamp", "popular")]) == [
        ("pinned", None),
        ("popular", None),
    ]
