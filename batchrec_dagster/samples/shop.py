"""The files of the example shop: products, customers, and 18 months of orders and clicks.

`batchrec init --example` writes the files into a project. The shop sells goods for home and garden.
Sales depend on the season. People stay with the collections that they like, and buy coffee again
and again. As in any shop, some products are sold out, some are new, some have no title, and some
people have only just registered.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.personalize.schemas import SECONDS_A_DAY
from batchrec_dagster.samples.population import Floats, Ints

SEED, CUSTOMERS, PRODUCTS = 2026, 780, 300
# The data begin and end at midnight UTC. Days and seconds are counted from the beginning.
FIRST_DAY, END = np.datetime64("2025-05-16"), np.datetime64("2026-11-16")
DAYS = int((END - FIRST_DAY).astype(int))

# The lines of products, and the popularity of each line.
COLLECTIONS = {"Alpine": 1.3, "Nordic": 1.0, "Rustic": 0.8, "Botanical": 0.7, "Bauhaus": 0.6}
COUNTRIES = {"AT": 0.5, "DE": 0.38, "CH": 0.12}


class Category(NamedTuple):
    """A shelf of the shop; each collection has all products of the shelf."""

    names: str
    """The names of the five products."""
    price: float
    """The typical price in euros."""
    popularity: float
    peak_month: int | None = None
    """The month with the most sales; None if the category sells all year."""
    consumable: bool = False
    """Whether people use the products up and buy them again."""


CATEGORIES = {
    "Coffee": Category("espresso, filter coffee, decaf, cold brew, mocha", 14, 1.3, None, True),
    "Tea": Category("black tea, green tea, herbal tea, rooibos, chai", 9, 1.0, 12, True),
    "Candles": Category("candle, tea lights, scented candle, tapers, lantern", 16, 1.0, 11, True),
    "Tableware": Category("plates, soup bowls, mugs, serving dish, water glasses", 39, 1.1),
    "Kitchen": Category("knife, chopping board, frying pan, storage jars, kettle", 49, 1.2),
    "Baking": Category("cake tin, rolling pin, mixing bowls, cutters, baking mat", 22, 0.8, 12),
    "Textiles": Category("tea towels, tablecloth, cushion cover, throw, napkins", 29, 0.9),
    "Lamps": Category("table lamp, ceiling lamp, floor lamp, desk lamp, fairy lights", 85, 0.6, 11),
    "Garden": Category("planter, watering can, shears, herb bed, garden gloves", 34, 1.4, 5),
    "Seeds": Category(
        "tomato seeds, herb seeds, flower mix, salad mix, tulip bulbs", 6, 1.1, 4, True
    ),
    "Barbecue": Category("kettle grill, tongs, grill brush, apron, grate", 32, 1.3, 7),
    "Christmas": Category("advent calendar, baubles, tree lights, wreath, gift wrap", 24, 1.5, 11),
}
# The strength of the seasons. It is the natural logarithm of a ratio: the sales in the peak month
# divided by the sales three months before or after the peak.
SEASON = 2.2


class Shop(NamedTuple):
    """The generated files."""

    products: pl.DataFrame
    customers: pl.DataFrame
    orders_and_clicks: pl.DataFrame


class Catalogue(NamedTuple):
    """The products as customers see them.

    Each array has one value for each product.
    """

    table: pl.DataFrame
    categories: Ints
    collections: Ints
    prices: Floats
    consumable: npt.NDArray[np.bool_]
    first_days: Ints
    """The day that the product came, which may be before the data begin."""
    end_days: Ints
    """The day that the product was sold out or given up; DAYS if it is for sale."""
    appeal: Floats
    """The weight of the product for all customers, before taste and season count."""


class Customer(NamedTuple):
    """A customer who visits the shop."""

    customer_id: str
    joined: int
    """The first day that the customer may visit on."""
    weights: Floats
    """The customer's weight of each product, before the season counts.

    Products with a larger weight are looked at more often.
    """


class Event(NamedTuple):
    """A row of orders_and_clicks."""

    second: int
    customer_id: str
    sku: str
    value: float | None
    """The amount that the customer paid in euros; None for a click."""


def generate_shop() -> Shop:
    """Return the three files, which always have the same rows."""
    catalogue = _make_products(np.random.default_rng([SEED, 0]))
    rng = np.random.default_rng([SEED, 1])
    country = rng.choice(len(COUNTRIES), CUSTOMERS, p=[*COUNTRIES.values()])
    joined = rng.integers(-700, DAYS - 30, CUSTOMERS)
    # The last tenth of the customers have only just registered, and looked at nothing yet.
    visitors = CUSTOMERS * 9 // 10
    joined[visitors:] = rng.integers(DAYS - 45, DAYS, CUSTOMERS - visitors)
    customers = pl.DataFrame(
        {
            "customer_id": [f"C-{number:04}" for number in range(1, CUSTOMERS + 1)],
            "country": np.array([*COUNTRIES])[country],
            "consent": np.where(rng.random(CUSTOMERS) < 0.8, "yes", "no"),
            "joined": FIRST_DAY + joined,
        }
    )
    # People of a country share a liking for some products.
    liking = np.exp(0.5 * rng.standard_normal((len(COUNTRIES), PRODUCTS)))
    seasons = _measure_seasons()
    events: list[Event] = []
    for number, customer_id in enumerate(customers["customer_id"][:visitors]):
        weights = _draw_taste(rng, catalogue) * liking[country[number]]
        customer = Customer(customer_id, max(0, int(joined[number])), weights)
        events += _visit_shop(rng, customer, catalogue, seasons)
    return Shop(catalogue.table, customers, _number_orders(events))


def _make_products(rng: np.random.Generator) -> Catalogue:
    shelves = [*CATEGORIES.values()]
    category, kind, collection = (
        axis.ravel() for axis in np.indices((len(CATEGORIES), 5, len(COLLECTIONS)))
    )
    titles = [
        f"{[*COLLECTIONS][look]} {shelves[shelf].names.split(', ')[number]}"
        for shelf, number, look in zip(category, kind, collection, strict=True)
    ]
    typical_price = np.array([shelf.price for shelf in shelves])[category]
    of_kind = np.repeat(rng.standard_normal(PRODUCTS // len(COLLECTIONS)), len(COLLECTIONS))
    of_product = rng.standard_normal(PRODUCTS)
    prices = np.rint(typical_price * np.exp(0.35 * of_kind + 0.15 * of_product)).clip(3) - 0.1
    appeal = np.array([*COLLECTIONS.values()])[collection]
    appeal *= np.array([shelf.popularity for shelf in shelves])[category]
    appeal *= np.exp(0.7 * rng.standard_normal(PRODUCTS))
    first_days = rng.integers(-1_000, 120, PRODUCTS)
    end_days = np.full(PRODUCTS, DAYS)
    order = rng.permutation(PRODUCTS)
    new, given_up, remaining, untitled = np.split(order, [25, 40, PRODUCTS - 4])
    # Every fourth of the 100 most popular remaining products is sold out.
    sold_out = remaining[np.argsort(-appeal[remaining])][1:100:4]
    first_days[new] = rng.integers(DAYS - 28, DAYS, len(new))
    end_days[sold_out] = rng.integers(DAYS - 40, DAYS, len(sold_out))
    end_days[given_up] = rng.integers(150, DAYS - 150, len(given_up))
    status = np.full(PRODUCTS, "active", dtype=object)
    status[sold_out], status[given_up] = "sold out", "given up"
    consumable = np.array([shelf.consumable for shelf in shelves])[category]
    skus = [f"P-{number:03}" for number in range(1, PRODUCTS + 1)]
    table = pl.DataFrame(
        {
            "sku": skus,
            "title": pl.Series(titles).scatter(untitled, None),
            "category": np.array([*CATEGORIES])[category],
            "price": prices,
            "stock": np.where(status == "active", rng.integers(3, 200, PRODUCTS), 0),
            "status": status,
            "consumable": np.where(consumable, "yes", "no"),
            "created": FIRST_DAY + first_days,
            "image": [f"https://shop.example/images/{sku}.jpg" for sku in skus],
            "link": [f"https://shop.example/products/{sku}" for sku in skus],
        }
    )
    return Catalogue(table, category, collection, prices, consumable, first_days, end_days, appeal)


def _measure_seasons() -> Floats:
    """Return the demand for each product on each day, of shape (DAYS, PRODUCTS)."""
    months = (FIRST_DAY + np.arange(DAYS)).astype("datetime64[M]").astype(int) % 12 + 1
    demand = np.ones((DAYS, len(CATEGORIES)))
    for number, shelf in enumerate(CATEGORIES.values()):
        if shelf.peak_month is not None:
            angle = (months - shelf.peak_month) * np.pi / 6
            # The divisor keeps the sales of a year about as high as without a season.
            demand[:, number] = np.exp(SEASON * np.cos(angle)) / 3
    return np.repeat(demand, PRODUCTS // len(CATEGORIES), axis=1)


def _draw_taste(rng: np.random.Generator, catalogue: Catalogue) -> Floats:
    """Return a customer's random weight of each product, by category, collection and price."""
    taste = np.exp(1.5 * rng.standard_normal(len(CATEGORIES)))[catalogue.categories]
    taste *= np.exp(1.6 * rng.standard_normal(len(COLLECTIONS)))[catalogue.collections]
    usual_price = rng.normal(3.2, 0.5)
    taste *= np.exp(-((np.log(catalogue.prices) - usual_price) ** 2) / 2)
    return np.asarray(catalogue.appeal * taste)


def _visit_shop(
    rng: np.random.Generator, customer: Customer, catalogue: Catalogue, seasons: Floats
) -> list[Event]:
    """Return the customer's clicks and purchases."""
    events: list[Event] = []

    def add(second: int, product: int, quantity: int = 0) -> None:
        value = round(quantity * float(catalogue.prices[product]), 2) if quantity else None
        events.append(Event(second, customer.customer_id, f"P-{product + 1:03}", value))

    visits = rng.poisson((DAYS - customer.joined) / DAYS * rng.lognormal(2.5, 0.6)) + 1
    for day in rng.integers(customer.joined, DAYS, visits).tolist():
        for_sale = (catalogue.first_days <= day) & (day < catalogue.end_days)
        chances = customer.weights * seasons[day] * for_sale
        # Choosing the products with the smallest exponential variates draws the products in
        # proportion to their chances.
        variates = rng.standard_exponential(PRODUCTS) / np.maximum(chances, 1e-12)
        clicked = np.argsort(variates)[: rng.integers(1, 7)].tolist()
        second = day * SECONDS_A_DAY + int(rng.integers(6 * 3600, 23 * 3600))
        for product in clicked:
            second += int(rng.integers(60, 300))
            add(second, product)
            if rng.random() < 0.22:
                most = 3 if catalogue.consumable[product] else 1
                add(second + 50, product, int(rng.integers(1, most + 1)))
                refill = second
                # Customers who have used a product up often buy it again.
                while catalogue.consumable[product] and rng.random() < 0.55:
                    refill += int(rng.integers(20 * SECONDS_A_DAY, 60 * SECONDS_A_DAY))
                    if refill < catalogue.end_days[product] * SECONDS_A_DAY:
                        add(refill, product, int(rng.integers(1, most + 1)))
    return events


def _number_orders(events: list[Event]) -> pl.DataFrame:
    """Return the events in order of time, with numbered orders.

    All purchases of a customer on one day are one order.
    """
    types = {"second": pl.Int64, "customer_id": pl.String, "sku": pl.String, "value": pl.Float64}
    table = pl.DataFrame(events, types, orient="row").sort("second", "customer_id", "sku")
    time = pl.lit(FIRST_DAY).cast(pl.Datetime("ms")) + pl.duration(seconds="second")
    is_purchase = pl.col("value").is_not_null()
    order = pl.struct(pl.col("second") // SECONDS_A_DAY, "customer_id").rank("dense") + 10_000
    return table.select(
        time=time.dt.strftime("%FT%TZ"),
        event=pl.when(is_purchase).then(pl.lit("purchase")).otherwise(pl.lit("view")),
        customer_id="customer_id",
        sku="sku",
        value="value",
        order_id=pl.when(is_purchase).then(pl.format("O-{}", order)),
    )
