"""Small data sets and helpers for the tests of the engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import numpy as np
import polars as pl

from batchrec_dagster.local_personalize.engine import blend
from batchrec_dagster.local_personalize.engine.data import (
    Float32,
    History,
    Ids,
    Int32,
    Interactions,
    order_by_popularity,
    read_histories,
)
from batchrec_dagster.local_personalize.engine.evaluate import HeldOut, Measurements, measure
from batchrec_dagster.local_personalize.engine.select import POPULARITY, Blend
from batchrec_dagster.local_personalize.engine.serve import Exclude, UserModel, recommend, top_k

Row = tuple[str, str, int]  # user, item, epoch seconds

SCHEMA = {"USER_ID": pl.String, "ITEM_ID": pl.String, "TIMESTAMP": pl.Int64}


def interactions_of(rows: Iterable[Row]) -> Interactions:
    """Return interactions from (user, item, timestamp) rows."""
    return Interactions.from_frame(pl.DataFrame(list(rows), schema=SCHEMA, orient="row"))


def history_of(orders: Sequence[Sequence[int]], n_items: int) -> History:
    """Return histories of users with items in these orders, oldest first."""
    rows = [
        (f"u{user:03}", f"i{item:03}", time)
        for user, order in enumerate(orders)
        for time, item in enumerate(order)
    ]
    data = interactions_of(rows)
    items = np.array([f"i{item:03}" for item in range(n_items)], dtype=object)
    return read_histories(data, items, np.arange(len(data.user_ids), dtype=np.int32))


def tastes(users: int = 60, items: int = 40, items_per_user: int = 12, seed: int = 0) -> list[Row]:
    """Return rows of users who each prefer a half of the items, above all its lower numbers."""
    rng = np.random.default_rng(seed)
    half = items // 2
    chance = 1 / np.arange(1, half + 1) ** 0.7
    size = min(items_per_user, half)
    rows = []
    for user in range(users):
        chosen_items = rng.choice(half, size=size, replace=False, p=chance / chance.sum())
        for place, item in enumerate(chosen_items):
            stray = rng.random() < 0.1
            rows.append((f"u{user}", f"i{2 * item + (user + stray) % 2}", 1_000 * user + place))
    return rows


@dataclass(frozen=True)
class PopularItems:
    """A model that gives all users the items with the most interactions, which others must beat."""

    item_ids: Ids
    """The distinct item ids, of shape (n_items,), the most popular first."""

    def score(self, history: History, out: Float32 | None = None) -> Float32:
        """Return scores of shape (users, n_items)."""
        falling = -np.arange(len(self.item_ids), dtype=np.float32)
        return np.tile(falling, (len(history.lengths), 1))

    def choose(self, scores: Float32, history: History, k: int) -> Int32:
        """See `serve.UserModel`."""
        return top_k(scores, k)


def measure_popular_items(held_out: HeldOut) -> Measurements:
    """Return the metrics of lists of popular items."""
    item_ids = held_out.train.item_ids[order_by_popularity(held_out.train)]
    return measure(PopularItems(item_ids), held_out)


@contextmanager
def popular_blends() -> Iterator[None]:
    """Make trainings of blends select popularity alone until the end of the block."""
    popular = Blend({POPULARITY: 1.0}, {POPULARITY: 0.0})
    with patch.object(blend, "select_blend", lambda *_, **__: popular):
        yield


def lists(
    model: UserModel,
    users: Sequence[str],
    interactions: Interactions,
    k: int,
    exclude: Exclude | None = None,
) -> list[list[str]]:
    """Return the recommended item ids of each user, without padding."""
    return [
        [str(model.item_ids[item]) for item in row if item >= 0]
        for chunk in recommend(model, users, interactions, k, exclude)
        for row in chunk.items
    ]
