"""Which items each user had, by event type: the latest interactions only.

Source: developer guide, "Filter expressions": of each user and event type the latest 100
interactions count; case is ignored when event types are matched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.formats.interactions import (
    EVENT_TYPE,
    FILTER_HISTORY,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.local_personalize.filters.columns import (
    Rows,
    Strings,
    Table,
    lookup,
    lowered,
)

Int32 = npt.NDArray[np.int32]


class UserItems:
    """The distinct pairs of a user and an item; a pair has the event types that it came about by.

    `columns` holds EVENT_TYPE, a row a pair.
    """

    def __init__(self, rows: pl.DataFrame, item_ids: Sequence[str]) -> None:
        """`rows` has USER_ID, ITEM_ID, TIMESTAMP and EVENT_TYPE; other items are left out."""
        rows = _typed(rows)
        self._user_ids = rows[USER_ID].unique().sort()
        items = pl.DataFrame({ITEM_ID: item_ids, "item": np.arange(len(item_ids), dtype=np.int32)})
        coded = (
            _latest(
                rows.with_columns(
                    user=pl.col(USER_ID).cast(pl.Enum(self._user_ids)).to_physical()
                ).drop(USER_ID)
            )
            .join(items, on=ITEM_ID)
            .select("user", "item", EVENT_TYPE)
            .unique()
            .sort("user", "item")
        )
        users, item = coded["user"].to_numpy().astype(np.int64), coded["item"].to_numpy()
        opens = np.ones(len(coded), dtype=bool)
        opens[1:] = (np.diff(users) != 0) | (np.diff(item) != 0)
        self._items = item[opens]
        counts = np.bincount(users[opens], minlength=len(self._user_ids))
        self._starts = np.concatenate([[0], np.cumsum(counts)])
        pairs = np.cumsum(opens) - 1
        types = Strings(len(self._items), pairs, coded[EVENT_TYPE], ignore_case=True)
        self.columns = {EVENT_TYPE: types}

    def users(self, user_ids: Sequence[str]) -> Rows:
        """Each user's index for `pairs`, -1 for one without interactions."""
        return lookup(self._user_ids, user_ids)

    def pairs(self, users: Rows) -> tuple[Rows, Int32, Rows]:
        """The pairs of users given by index: position in `users`, item, and row in `columns`."""
        at = np.flatnonzero(users >= 0)
        first, last = self._starts[users[at]], self._starts[users[at] + 1]
        lengths = last - first
        ends = np.cumsum(lengths)
        rows = np.repeat(last - ends, lengths) + np.arange(ends[-1] if len(ends) else 0)
        return np.repeat(at, lengths), self._items[rows], rows


def types_of_users(rows: pl.DataFrame) -> Table:
    """The event types that each user of `rows` (USER_ID, EVENT_TYPE) has."""
    rows = _typed(rows.select(USER_ID, EVENT_TYPE)).unique()
    ids = rows[USER_ID].unique().sort()
    at = rows[USER_ID].cast(pl.Enum(ids)).to_physical().to_numpy().astype(np.int64)
    return Table(ids, {EVENT_TYPE: Strings(len(ids), at, rows[EVENT_TYPE], ignore_case=True)})


def _typed(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(lowered(rows[EVENT_TYPE])).drop_nulls(EVENT_TYPE)


def _latest(rows: pl.DataFrame) -> pl.DataFrame:
    """The latest FILTER_HISTORY of each user and event type; the first given wins a tie."""
    many = pl.len().over("user", EVENT_TYPE) > FILTER_HISTORY
    rows = rows.with_columns(many=many)
    latest = (
        rows.filter("many")
        .sort(TIMESTAMP, descending=True, maintain_order=True)
        .group_by("user", EVENT_TYPE, maintain_order=True)
        .head(FILTER_HISTORY)
    )
    few = rows.filter(~pl.col("many"))
    return pl.concat([few, latest.select(few.columns)])
