"""Tests that the example shop's generated files look like a real shop's."""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest

from batchrec_dagster.samples.shop import Shop, generate_shop


@pytest.fixture(scope="module")
def shop() -> Shop:
    return generate_shop()


def test_it_has_a_shops_size_and_the_same_rows_each_time(shop: Shop) -> None:
    events, products = shop.orders_and_clicks, shop.products
    assert shop.customers["customer_id"].n_unique() == shop.customers.height == 780
    assert products["sku"].n_unique() == products.height == 300
    assert 30_000 < events.height < 50_000
    assert set(events["sku"]) <= set(products["sku"])
    statuses = products["status"].value_counts().sort("status").rows()
    assert statuses == [("active", 260), ("given up", 15), ("sold out", 25)]
    assert (products["stock"] > 0).equals(products["status"] == "active")
    for table, same in zip(shop, generate_shop(), strict=True):
        assert table.equals(same)


def test_people_buy_as_in_a_shop(shop: Shop) -> None:
    purchases = shop.orders_and_clicks.filter(event="purchase").join(shop.products, on="sku")
    # An order has the products that a customer buys on one day, all from the catalogue.
    orders = purchases.group_by("order_id").agg(
        pl.col("customer_id").n_unique(), days=pl.col("time").str.slice(0, 10).n_unique()
    )
    assert orders.select("customer_id", "days").unique().rows() == [(1, 1)]
    assert purchases.filter(pl.col("time") < pl.col("created").dt.strftime("%F")).is_empty()
    # Last month's best sellers are not the overall ones, and people buy consumables repeatedly.
    lately, all_time = (
        table["category"].value_counts().sort("count", descending=True)["category"].head(3)
        for table in (purchases.filter(pl.col("time") >= "2026-10-16"), purchases)
    )
    assert {"Candles", "Christmas"} <= {*lately}
    assert "Christmas" not in all_time
    bought = purchases.group_by("customer_id", "sku", "consumable").len()
    repeat_shares = bought.group_by("consumable").agg(share=(pl.col("len") > 1).mean())
    shares = dict(repeat_shares.iter_rows())
    assert shares["yes"] > max(0.4, 2 * shares["no"])


def test_some_customers_have_no_history_and_some_no_consent(shop: Shop) -> None:
    customers = shop.customers
    customers_with_history = shop.orders_and_clicks["customer_id"].unique().implode()
    strangers = customers.filter(~pl.col("customer_id").is_in(customers_with_history))
    assert strangers.height == 78
    assert strangers["joined"].min() > date(2026, 9, 1)  # type: ignore[operator]
    assert 0.7 < (customers["consent"] == "yes").mean() < 0.9  # type: ignore[operator]
    assert set(customers["country"]) == {"AT", "DE", "CH"}
