"""The tables of a run, from which the report counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import polars as pl


@dataclass(frozen=True)
class RunTables:
    """The tables of a run. Ids are text everywhere."""

    interactions: pl.LazyFrame
    """USER_ID, ITEM_ID and TIMESTAMP (epoch seconds)."""
    recommendations: pl.LazyFrame
    """user_id, rank and item_id."""
    users: pl.LazyFrame
    """userId, of the users who were to get lists."""
    titles: pl.DataFrame | None = None
    """item_id, title and, if they are declared, the addresses image and link. All may be null."""
    items: pl.DataFrame | None = None
    """ITEM_ID and the columns of `categories`, whose cells separate values by |."""
    categories: Sequence[str] = ()
    segments: pl.DataFrame | None = None
    """segment, rank, user_id and, if there are titles, title."""
    similar_items: pl.LazyFrame | None = None
    """item_id, rank and similar_item_id: the published lists of similar items. None if there are
    none."""

    event_strengths: Mapping[str, float] = field(default_factory=dict)
    """How much each type of event says of a person's taste, as of `weigh_events`."""

    def look_up(self, items: pl.Series, column: str) -> list[str | None]:
        """The values of the items in a column of `titles`; None for an item without one."""
        if self.titles is None or column not in self.titles.columns:
            return [None] * len(items)
        ids = items.to_frame("item_id")
        values = ids.join(self.titles, on="item_id", how="left", maintain_order="left")
        return values.get_column(column).to_list()
