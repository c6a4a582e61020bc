"""A file of orders, as the tutorial starts with: who bought what of a shop, and when.

`batchrec init --example orders` writes it into a project. Customers like a few groups of products,
and buy popular ones of these more often than others. As in any shop, a few orders were cancelled:
their quantity is 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import polars as pl

SEED, CUSTOMERS, PRODUCTS, GROUPS, ROWS = 2026, 1_200, 240, 12, 18_000
FIRST_DAY, DAYS = np.datetime64("2025-11-01T00:00:00"), 365
SECONDS_A_DAY = 24 * 60 * 60
# How many groups of products a customer likes, and the share of the purchases that are of these.
LIKED_GROUPS, SHARE_OF_LIKED = 2, 0.75
# How many pieces of a product an order has, and how often.
QUANTITIES = {0: 0.03, 1: 0.82, 2: 0.12, 3: 0.03}


def generate_orders(seed: int = SEED) -> pl.DataFrame:
    """The rows of the file, in order of time; the same seed gives the same rows."""
    rng = np.random.default_rng(seed)
    # Some customers buy far more often than others.
    eagerness = rng.lognormal(sigma=0.8, size=CUSTOMERS)
    customer = rng.choice(CUSTOMERS, ROWS, p=eagerness / eagerness.sum())
    seconds = np.sort(rng.integers(0, DAYS * SECONDS_A_DAY, ROWS))
    return pl.DataFrame(
        {
            "order_id": [f"O-{number:05}" for number in range(1, ROWS + 1)],
            "customer_id": [f"C-{number + 1:04}" for number in customer],
            "sku": [f"SKU-{number + 1:04}" for number in _choose_products(rng, customer)],
            "quantity": rng.choice([*QUANTITIES], ROWS, p=[*QUANTITIES.values()]),
            "ordered_at": np.datetime_as_string(FIRST_DAY + seconds, unit="s"),
        }
    ).with_columns(pl.col("ordered_at") + "Z")


def _choose_products(
    rng: np.random.Generator, customer: npt.NDArray[np.int64]
) -> npt.NDArray[np.int64]:
    """What is bought in each row. Product p is in the group p modulo GROUPS.

    customer: who buys it.
    """
    in_group = PRODUCTS // GROUPS
    popularity = 1 / np.arange(1, in_group + 1) ** 0.7
    liked = rng.integers(0, GROUPS, (CUSTOMERS, LIKED_GROUPS))
    group = liked[customer, rng.integers(0, LIKED_GROUPS, len(customer))]
    is_liked = rng.random(len(customer)) < SHARE_OF_LIKED
    group = np.where(is_liked, group, rng.integers(0, GROUPS, len(customer)))
    place = rng.choice(in_group, len(customer), p=popularity / popularity.sum())
    return place * GROUPS + group
