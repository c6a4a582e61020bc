"""Who has interacted with what, small enough to hold for a hundred million interactions."""

from __future__ import annotations

import numpy as np
import polars as pl

from batchrec_dagster.formats.interactions import ITEM_ID, USER_ID

# A number that is no pair's: users and items are counted from 0, in fewer than 2**32 - 1.
NO_PAIR = 2**64 - 1


class SeenItems:
    """The items that each of these users has interacted with: 8 bytes a pair, 16 in the making.

    users: the ids of those who are asked about, each once.
    """

    def __init__(self, interactions: pl.LazyFrame, users: pl.Series) -> None:
        items = interactions.select(ITEM_ID).unique().collect(engine="streaming")
        self._users = pl.DataFrame({"user_id": users}).with_row_index("user")
        self._items = items.select(item_id=ITEM_ID).with_row_index("item")
        pairs = (
            # The places in two lists, as joins find them too, in a third less memory.
            interactions.select(
                user=_place(USER_ID, self._users.get_column("user_id")),
                item=_place(ITEM_ID, self._items.get_column("item_id")),
            )
            .select(_pair())
            .drop_nulls()
            .collect(engine="streaming")
            .get_column("pair")
            .to_numpy(writable=True)
        )
        # np.unique would hash them: ten times the time, five times the memory.
        pairs.sort()
        again = pairs[1:] == pairs[:-1]
        self._pairs = pairs[np.append(True, ~again)] if again.any() else pairs

    @property
    def longest(self) -> int:
        """How many items the user with the most has interacted with."""
        if not len(self._pairs):
            return 0
        return int(np.bincount((self._pairs >> 32).astype(np.int64)).max())

    def among(self, table: pl.DataFrame) -> pl.Series:
        """Whether its user has interacted with the item, for each row of user_id and item_id."""
        if not len(self._pairs):
            return pl.repeat(value=False, n=table.height, eager=True)
        # A part of the users in place of all makes the join of a small table a quick one.
        users = self._users.join(table.select("user_id").unique(), on="user_id", how="semi")
        asked = (
            table.select("user_id", "item_id")
            .join(users, on="user_id", how="left", maintain_order="left")
            .join(self._items, on="item_id", how="left", maintain_order="left")
            .select(_pair().fill_null(NO_PAIR))
            .get_column("pair")
            .to_numpy()
        )
        found = np.searchsorted(self._pairs, asked)
        return pl.Series(self._pairs[np.minimum(found, len(self._pairs) - 1)] == asked)


def _place(column: str, among: pl.Series) -> pl.Expr:
    """Where in the list the value is; null where it is not."""
    return pl.col(column).cast(pl.Enum(among), strict=False).to_physical()


def _pair() -> pl.Expr:
    user, item = pl.col("user").cast(pl.UInt64), pl.col("item").cast(pl.UInt64)
    return (user * 2**32 + item).alias("pair")
