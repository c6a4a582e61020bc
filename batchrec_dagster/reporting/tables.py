"""The tables that a report is made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl


@dataclass(frozen=True)
class Tables:
    """What a run left in the storage. Ids are text everywhere.

    interactions: USER_ID, ITEM_ID, TIMESTAMP (epoch seconds); recommendations: user_id, rank,
    item_id; users, who were asked for: userId; titles: item_id, title (may be null); items:
    ITEM_ID, and the `categories`, whose cells join their values by |; segments: segment, rank,
    user_id, perhaps title.
    """

    interactions: pl.LazyFrame
    recommendations: pl.LazyFrame
    users: pl.LazyFrame
    titles: pl.DataFrame | None = None
    items: pl.DataFrame | None = None
    categories: Sequence[str] = ()
    segments: pl.DataFrame | None = None
