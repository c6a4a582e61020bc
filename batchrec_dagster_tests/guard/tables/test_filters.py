"""Tests of each rule of Personalize's filters: the remaining items, and the users in a segment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
import pytest

from batchrec_dagster_tests.guard.seams.personalize import (
    mask_items,
    mask_users,
)

DATA = {
    "ITEMS": pl.DataFrame(
        {
            "ITEM_ID": ["boot", "shoe", "hat", "old", "old"],
            "KIND": ["shoe|winter", "shoe", None, "shoe", "Hat"],
            "PRICE": [90.0, 50.0, 20.0, 1.0, 30.0],
        }
    ),
    "USERS": pl.DataFrame({"USER_ID": ["ann", "bob"], "AGE": [30, 15], "PLAN": ["gold", None]}),
    "INTERACTIONS": pl.DataFrame(
        {
            "USER_ID": ["ann", "ann", "bob", "bob"],
            "ITEM_ID": ["boot", "hat", "shoe", "hat"],
            "TIMESTAMP": [1, 2, 3, 4],
            "EVENT_TYPE": ["Click", "buy", "click", None],
        }
    ),
}
MODEL = ["boot", "shoe", "hat", "old", "new"]  # the item "new" has no attributes


def list_items_left(
    expression: str,
    data: Mapping[str, pl.DataFrame],
    user_ids: Sequence[str],
    *,
    items: Sequence[str] = MODEL,
) -> list[list[str]]:
    """Return the items that each user's list may have."""
    return [
        [item for item, is_allowed in zip(items, row, strict=True) if is_allowed]
        for row in mask_items(expression, data, items, user_ids)
    ]


HAD = "WHERE Interactions.EVENT_TYPE IN"


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (f'EXCLUDE ItemID {HAD} ("*")', [["shoe", "old", "new"], ["boot", "hat", "old", "new"]]),
        (
            f'EXCLUDE ItemID {HAD} ("CLICK")',
            [["shoe", "hat", "old", "new"], ["boot", "hat", "old", "new"]],
        ),
        (f'INCLUDE ItemID {HAD} ("click", "buy")', [["boot", "hat"], ["shoe"]]),
        ('INCLUDE ItemID WHERE Items.KIND IN ("shoe")', [["boot", "shoe"]] * 2),
        ('INCLUDE ItemID WHERE Items.KIND IN ("SHOE")', [[], []]),
        ('INCLUDE ItemID WHERE Items.KIND IN ("shoe|winter")', [["boot"]] * 2),
        ('EXCLUDE ItemID WHERE Items.KIND = "winter"', [["shoe", "hat", "old", "new"]] * 2),
        # A null matches nothing: neither "hat" nor "new" has a kind that is not "shoe".
        ('INCLUDE ItemID WHERE Items.KIND NOT IN ("shoe")', [["old"]] * 2),
        ('EXCLUDE ItemID WHERE Items.KIND != "shoe"', [["boot", "shoe", "hat", "new"]] * 2),
        ("INCLUDE ItemID WHERE Items.PRICE >= 30 AND Items.PRICE < 9e1", [["shoe", "old"]] * 2),
        # AND binds tighter than OR.
        (
            'INCLUDE ItemID WHERE Items.KIND = "Hat" OR Items.KIND = "shoe" AND Items.PRICE > 60',
            [["boot", "old"]] * 2,
        ),
        (
            'INCLUDE ItemID WHERE (Items.KIND = "Hat" OR Items.KIND = "shoe") AND Items.PRICE > 60',
            [["boot"]] * 2,
        ),
        # In any order, the union of the EXCLUDEs is subtracted from the union of the INCLUDEs.
        (
            'INCLUDE ItemID WHERE Items.KIND = "Hat" | INCLUDE ItemID WHERE Items.KIND = "winter"',
            [["boot", "old"]] * 2,
        ),
        (
            'EXCLUDE ItemID WHERE Items.KIND = "Hat" | EXCLUDE ItemID WHERE Items.KIND = "winter"',
            [["shoe", "hat", "new"]] * 2,
        ),
        (
            f'EXCLUDE ItemID {HAD} ("*") | INCLUDE ItemID WHERE Items.PRICE > 10',
            [["shoe", "old"], ["boot", "hat", "old"]],
        ),
        (
            'INCLUDE ItemID WHERE Items.PRICE > 10 | EXCLUDE ItemID WHERE Items.KIND = "winter"',
            [["shoe", "hat", "old"]] * 2,
        ),
        (
            f'INCLUDE ItemID {HAD} ("*") | INCLUDE ItemID WHERE Items.KIND = "Hat"'
            ' | EXCLUDE ItemID WHERE Items.KIND = "winter"',
            [["hat", "old"], ["shoe", "old"]],
        ),
        # An expression whose IF does not hold has no effect.
        ("INCLUDE ItemID WHERE Items.PRICE < 25 IF CurrentUser.AGE > 18", [["hat"], MODEL]),
        (
            'EXCLUDE ItemID WHERE Items.PRICE < 60 IF CurrentUser.PLAN = "gold"',
            [["boot", "new"], MODEL],
        ),
        ('EXCLUDE ItemID WHERE Items.PRICE < 60 IF CurrentUser.PLAN != "gold"', [MODEL, MODEL]),
        (
            "EXCLUDE ItemID WHERE Items.PRICE < 60"
            " IF CurrentUser.AGE < 40 AND CurrentUser.AGE > 20",
            [["boot", "new"], MODEL],
        ),
    ],
)
def test_the_items_left_for_ann_and_bob(expression: str, expected: list[list[str]]) -> None:
    assert list_items_left(expression, DATA, ["ann", "bob"]) == expected


def test_an_unknown_user_has_no_items_and_no_metadata() -> None:
    assert list_items_left(f'EXCLUDE ItemID {HAD} ("*")', DATA, ["who"]) == [MODEL]
    assert list_items_left(f'INCLUDE ItemID {HAD} ("*")', DATA, ["who"]) == [[]]
    expression = "EXCLUDE ItemID WHERE Items.PRICE > 0 IF CurrentUser.AGE >= 0"
    assert list_items_left(expression, DATA, ["who"]) == [MODEL]


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("INCLUDE UserID WHERE Users.AGE > 18", [True, False, False]),
        ("EXCLUDE UserID WHERE Users.AGE < 18", [True, False, True]),
        ('INCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("BUY")', [True, False, False]),
        ('EXCLUDE UserID WHERE Interactions.EVENT_TYPE IN ("*")', [False, False, True]),
        (
            'INCLUDE UserID WHERE Users.AGE > 1 | EXCLUDE UserID WHERE Users.PLAN = "gold"',
            [False, True, False],
        ),
    ],
)
def test_users_that_may_be_in_a_segment(expression: str, expected: list[bool]) -> None:
    assert mask_users(expression, DATA, ["ann", "bob", "who"]) == expected


def test_the_deepest_condition_is_evaluated() -> None:
    depth = 130
    condition = "".join("(Items.Y=1 OR " if n % 2 else "(Items.Y=1 AND " for n in range(depth))
    text = f"INCLUDE ItemID WHERE {condition}Items.Y=1{')' * depth}"
    assert 1900 < len(text) <= 2500
    data = {"ITEMS": pl.DataFrame({"ITEM_ID": ["a", "b"], "Y": [1, 2]})}
    assert list_items_left(text, data, ["u"], items=["a", "b"]) == [["a"]]
