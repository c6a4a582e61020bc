"""What goes with a person's last order: which order it is, and the lines that are made of it."""

from __future__ import annotations

import polars as pl
import pytest

from batchrec_dagster.explanations.last_orders import OrderSettings, find_last_orders
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
    orders = find_last_orders(interactions, users, OrderSettings(["buy"]))
    assert orders.rows() == [("ann", "lid"), ("ann", "pot")]
    until_day_9 = find_last_orders(interactions, users, OrderSettings(["buy"]), 9 * DAY)
    assert until_day_9.rows() == [("ann", "pot")]
    of_any_type = find_last_orders(interactions, users, OrderSettings(None))
    assert of_any_type.rows() == [("ann", "ad"), ("bob", "pot")]


def test_the_last_order_is_what_has_the_number_of_the_newest_event() -> None:
    rows = [
        # A part of the last order was added days before, and something else was bought next to it.
        ("ann", "pot", 1 * DAY, "9"),
        ("ann", "lid", 9 * DAY, "9"),
        ("ann", "gum", 9 * DAY - 60, "8"),
        # The number is that of another person's order, too.
        ("bob", "ink", 2 * DAY, "9"),
        ("bob", "pen", 3 * DAY, "2"),
        # Two orders of one second, as where times are days.
        ("cat", "cup", 4 * DAY, "9"),
        ("cat", "jug", 4 * DAY, "10"),
        ("cat", "jar", 4 * DAY, None),
        # The newest event is in no order, so that the time decides.
        ("dan", "hat", 5 * DAY, None),
        ("dan", "bag", 5 * DAY - 60, "7"),
        ("dan", "tie", 4 * DAY, "7"),
    ]
    names = ["USER_ID", "ITEM_ID", "TIMESTAMP", "ORDER_ID"]
    interactions = pl.DataFrame(rows, names, orient="row").lazy()
    users = pl.Series(["ann", "bob", "cat", "dan"])
    by_number = OrderSettings(None, has_numbers=True)
    orders = find_last_orders(interactions, users, by_number)
    assert orders.rows() == [
        ("ann", "lid"),
        ("ann", "pot"),
        ("bob", "pen"),
        ("cat", "jug"),
        ("dan", "bag"),
        ("dan", "hat"),
    ]
    # Without the setting, or once the data have no numbers any more, the time decides.
    by_time = find_last_orders(interactions, users, OrderSettings(None))
    assert by_time.filter(user_id="ann").get_column("item_id").to_list() == ["gum", "lid"]
    without = find_last_orders(interactions.drop("ORDER_ID"), users, by_number)
    assert without.equals(by_time)


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
