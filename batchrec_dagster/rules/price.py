"""The rule price: items cost about what the user's own items cost."""

from __future__ import annotations

import numpy as np
import polars as pl

from batchrec_dagster.config.rules import PriceRange
from batchrec_dagster.rules.catalogue import Floats
from batchrec_dagster.rules.context import RuleContext
from batchrec_dagster.rules.pairs import Mask, Numbers, Pairs
from batchrec_dagster.rules.rule import estimate_more_results

USERS_AT_ONCE = 50_000
# Personalize is asked for as many results as are enough for this share of the users.
SHARE_SERVED = 0.9


class PriceFilter:
    """The rule, for the users and items of a run."""

    name = "price"

    def __init__(self, settings: PriceRange, context: RuleContext, histories: Pairs) -> None:
        """Find the range of each user.

        histories: what each user had, of the interactions that count.
        """
        self._prices = context.catalogue.read_numbers(settings.of)
        medians = compute_medians(histories, self._prices, len(context.user_ids))
        # The entry after the last is for users whom no list was requested for.
        self._medians = np.append(medians, np.nan)
        self._lowest, self._highest = settings.within
        self._share_removed = self._measure_share_removed(context.catalogue.weights)

    def allow(self, users: Numbers, items: Numbers) -> Mask:
        """Whether the price is in the user's range, or the user has none."""
        medians, prices = self._medians[users], self._prices[items]
        is_near = (prices >= self._lowest * medians) & (prices <= self._highest * medians)
        near: Mask = is_near | np.isnan(medians)
        return near

    def count_more_results(self, num_results: int) -> int:
        """As many as are likely for a user whose range has few items."""
        return estimate_more_results(num_results, self._share_removed)

    def _measure_share_removed(self, weights: Floats) -> float:
        """Which share of the interactions is out of range, for a user with a range of few items."""
        order = np.argsort(self._prices)
        prices = self._prices[order]
        prices = prices[~np.isnan(prices)]
        totals = np.append(0.0, np.cumsum(weights[order]))
        medians = self._medians[~np.isnan(self._medians)]
        if not len(medians) or not totals[-1]:
            return 0.0
        below = totals[np.searchsorted(prices, self._lowest * medians, side="left")]
        until = totals[np.searchsorted(prices, self._highest * medians, side="right")]
        return float(np.quantile(1 - (until - below) / totals[-1], SHARE_SERVED))


def compute_medians(pairs: Pairs, prices: Floats, users: int) -> Floats:
    """The median price of each user's items; NaN for a user without an item with a price.

    prices: the price of each item, NaN where there is none.
    users: how many users there are.
    """
    medians = np.full(users, np.nan)
    for first in range(0, users, USERS_AT_ONCE):
        users_of_pairs, items = pairs.between_users(first, first + USERS_AT_ONCE)
        table = pl.DataFrame({"user": users_of_pairs, "price": prices[items]})
        of_users = table.filter(~pl.col("price").is_nan()).group_by("user").agg(pl.median("price"))
        medians[of_users["user"].to_numpy()] = of_users["price"].to_numpy()
    return medians
