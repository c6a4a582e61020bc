"""What the users of a run have interacted with, which their lists leave out."""

from __future__ import annotations

import polars as pl

from batchrec_dagster.personalize.schemas import ITEM_ID, USER_ID
from batchrec_dagster.rules.pairs import Pairs, find_positions


class SeenItems:
    """The items that each of these users has interacted with.

    users: distinct ids.
    """

    def __init__(self, interactions: pl.LazyFrame, users: pl.Series) -> None:
        items = interactions.select(ITEM_ID).unique().collect(engine="streaming")
        self._users = pl.DataFrame({"user_id": users}).with_row_index("user")
        self._items = items.select(item_id=ITEM_ID).with_row_index("item")
        # The positions in two lists. Joins would find them too, with half more memory.
        self._pairs = Pairs.read(
            interactions.select(
                user=find_positions(USER_ID, self._users.get_column("user_id")),
                item=find_positions(ITEM_ID, self._items.get_column("item_id")),
            )
        )

    @property
    def longest(self) -> int:
        """How many items the user with the most has interacted with."""
        return int(self._pairs.count_items().max(initial=0))

    def count(self, users: pl.Series) -> pl.Series:
        """How many items each of these users has interacted with."""
        counts = self._pairs.count_items()
        # Users after the last of the pairs have none.
        items = self._users.head(len(counts)).select("user_id", items=pl.Series(counts))
        numbered = (
            users.alias("user_id")
            .to_frame()
            .join(items, on="user_id", how="left", maintain_order="left")
        )
        return numbered.get_column("items").fill_null(0)

    def contain(self, table: pl.DataFrame) -> pl.Series:
        """For each row of user_id and item_id, whether the user has interacted with the item."""
        # Fewer users make the join of a small table fast.
        users = self._users.join(table.select("user_id").unique(), on="user_id", how="semi")
        return self._pairs.contain(
            table.select("user_id", "item_id")
            .join(users, on="user_id", how="left", maintain_order="left")
            .join(self._items, on="item_id", how="left", maintain_order="left")
        )
