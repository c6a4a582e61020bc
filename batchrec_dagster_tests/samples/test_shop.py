"""The generated files of the example shop are what a shop has."""

from __future__ import annotations

from datetime import date

import polars as pl
import pytest

from batchrec_dagster.samples.shop import SEED, Shop, generate_shop

LAST_MONTH = "2026-10-16"


@pytest.fixture(scope="module")
def shop() -> Shop:
    return generate_shop()


@pytest.fixture(scope="module")
def purchases(shop: Shop) -> pl.DataFrame:
    """What was bought, with the products."""
    return shop.orders_and_clicks.filter(event="purchase").join(
        shop.products, on="sku", maintain_order="left"
    )


def test_it_has_a_shops_size(shop: Shop) -> None:
    events = shop.orders_and_clicks
    assert shop.customers["customer_id"].n_unique() == shop.customers.height == 780
    assert shop.products["sku"].n_unique() == shop.products.height == 300
    assert shop.products["title"].drop_nulls().n_unique() == 300 - 4
    assert events["event"].unique().sort().to_list() == ["purchase", "view"]
    assert events["time"].is_sorted()
    assert (events["time"].min(), events["time"].max()) > ("2025-05-16", "2026-11-15")
    assert events["time"].max() < "2026-11-16"  # type: ignore[operator]
    assert 30_000 < events.height < 50_000
    assert set(events["sku"]) <= set(shop.products["sku"])


def test_the_same_seed_gives_the_same_rows(shop: Shop) -> None:
    again, other = generate_shop(SEED), generate_shop(SEED + 1)
    for table, same, different in zip(shop, again, other, strict=True):
        assert table.equals(same)
        assert not table.equals(different)


def test_an_order_is_what_a_customer_buys_on_a_day(shop: Shop, purchases: pl.DataFrame) -> None:
    views = shop.orders_and_clicks.filter(event="view")
    assert views.select(pl.col("value", "order_id").is_null().all()).row(0) == (True, True)
    orders = purchases.group_by("order_id").agg(
        pl.col("customer_id").n_unique(), days=pl.col("time").str.slice(0, 10).n_unique()
    )
    assert orders.select("customer_id", "days").unique().rows() == [(1, 1)]
    quantity = purchases["value"] / purchases["price"]
    assert ((quantity - quantity.round()).abs() < 1e-6).all()
    assert quantity.filter(purchases["consumable"] == "no").max() == 1


def test_what_sold_last_month_differs_from_all_time(purchases: pl.DataFrame) -> None:
    def rank(table: pl.DataFrame) -> list[str]:
        counts = table["category"].value_counts().sort("count", "category", descending=True)
        return counts["category"].to_list()

    lately = rank(purchases.filter(pl.col("time") >= LAST_MONTH))
    all_time = rank(purchases)
    assert {"Candles", "Christmas"} <= {*lately[:3]}
    assert "Christmas" not in all_time[:3]
    assert all_time.index("Garden") + 4 < lately.index("Garden")


def test_people_buy_consumables_again(purchases: pl.DataFrame) -> None:
    bought = purchases.group_by("customer_id", "sku", "consumable").len()
    again = bought.group_by("consumable").agg(share=(pl.col("len") > 1).mean())
    shares = dict(again.iter_rows())
    assert shares["yes"] > 0.4
    assert shares["yes"] > 2 * shares["no"]


def test_products_sell_only_while_they_are_there(shop: Shop, purchases: pl.DataFrame) -> None:
    products = shop.products
    assert purchases.filter(pl.col("time") < pl.col("created").dt.strftime("%F")).is_empty()
    assert products["status"].value_counts().sort("status").rows() == [
        ("active", 260),
        ("given up", 15),
        ("sold out", 25),
    ]
    assert (products["stock"] > 0).equals(products["status"] == "active")
    # What is sold out was liked, and sold until lately.
    sold = purchases.group_by("status").agg(pl.len() / pl.col("sku").n_unique())
    average = dict(sold.iter_rows())
    assert average["sold out"] > average["active"]
    assert purchases.filter(status="sold out")["time"].max() > LAST_MONTH  # type: ignore[operator]
    assert purchases.filter(status="given up")["time"].max() < LAST_MONTH  # type: ignore[operator]
    assert products.filter(pl.col("created") > date(2026, 10, 17)).height == 25


def test_some_customers_have_no_history_and_some_no_consent(shop: Shop) -> None:
    customers = shop.customers
    strangers = customers.filter(
        ~pl.col("customer_id").is_in(shop.orders_and_clicks["customer_id"].unique().implode())
    )
    assert strangers.height == 78
    assert strangers["joined"].min() > date(2026, 9, 1)  # type: ignore[operator]
    assert 0.7 < (customers["consent"] == "yes").mean() < 0.9  # type: ignore[operator]
    assert set(customers["country"]) == {"AT", "DE", "CH"}
    joined = shop.orders_and_clicks.join(customers, on="customer_id")
    assert joined.filter(pl.col("time") < pl.col("joined").dt.strftime("%F")).is_empty()
