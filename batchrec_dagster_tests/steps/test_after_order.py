"""What goes with a person's last order: which order it is, and the lines that are made of it."""

from __future__ import annotations

import polars as pl
import pytest

from batchrec_dagster.explanations.last_orders import find_last_orders
from batchrec_dagster.steps.after_order import make_lines

DAY = 86_400


def test_the_last_order_is_what_was_bought_within_a_day_before_the_newest() -> None:
    rows = [
        ("ann", "old", 0, "buy"),
        ("ann", "pot", 9 * DAY, "Buy"),
        ("ann", "lid", 9 * DAY + 60, "buy"),
        ("ann", "lid", 9 * DAY + 60, "buy"),
        ("ann", "ad", 20 * DAY, "view"),
        ("bob", "pot", 3 * DAY, "view"),
        ("eve", "pot", 3 * DAY, "buy"),
    ]
    names = ["USER_ID", "ITEM_ID", "TIMESTAMP", "EVENT_TYPE"]
    interactions = pl.DataFrame(rows, names, orient="row").lazy()
    users = pl.Series(["ann", "bob"])
    orders = find_last_orders(interactions, users, ["buy"])
    assert orders.rows() == [("ann", "lid"), ("ann", "pot")]
    of_any_type = find_last_orders(interactions, users, None)
    assert of_any_type.rows() == [("ann", "ad"), ("bob", "pot")]


def test_an_item_that_goes_with_several_of_the_order_comes_first() -> None:
    orders = pl.DataFrame(
        {"user_id": ["ann", "ann", "bob", "eve"], "item_id": ["lid", "pot", "pot", "alone"]}
    )
    similar_items = pl.DataFrame(
        {
            "item_id": ["pot", "pot", "pot", "lid", "lid"],
            "rank": [1, 2, 3, 1, 2],
            "similar_item_id": ["lid", "pan", "spoon", "pot", "spoon"],
            "score": [0.9, 0.5, 0.3, 0.9, None],
        }
    )
    (lines,) = make_lines(orders, similar_items)
    assert lines.get_column("user_id").to_list() == ["ann", "bob", "eve"]
    # What was ordered is not there; without a score, the second rank counts one half.
    assert lines.get_column("items").to_list() == [["spoon", "pan"], ["lid", "pan", "spoon"], []]
    assert lines.get_column("scores")[0].to_list() == pytest.approx([0.8, 0.5])
    (nothing,) = make_lines(orders.clear(), similar_items)
    assert nothing.columns == ["user_id", "items", "scores", "error"]
