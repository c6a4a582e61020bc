"""Which items each user had, by event type: the latest interactions only.

Source: developer guide, "Filter expressions": of each user and event type the latest 100
interactions count; case is ignored when event types are matched.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.local_personalize.filters.columns import (
    Rows,
    Strings,
    Table,
    lookup,
)
from batchrec_dagster.personalize.datasets import (
    EVENT_TYPE,
    FILTER_HISTORY,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
)

Int32 = npt.NDArray[np.int32]


class UserItems:
    """The distinct pairs of a user and an item; a pair has the event types that it came about by.

    `columns` holds EVENT_TYPE, a row a pair.
    """

    def __init__(self, rows: pl.DataFrame, item_ids: Sequence[str]) -> None:
        """`rows` has USER_ID, ITEM_ID, TIMESTAMP and EVENT_TYPE; other items are left out."""
        coded, self._user_ids, types = _coded(rows)
        item = pl.col(ITEM_ID).cast(pl.Enum(list(item_ids)), strict=False).to_physical()
        pair = pl.col("user") * len(item_ids) + item.cast(pl.Int64)
        # One number tells a user, an item and a type; sorting it puts the pairs of a user together.
        numbers = _latest(coded).select(pair * len(types) + pl.col("type")).to_series()
        known = numbers.drop_nulls().unique().sort().to_numpy()
        pairs, kinds = np.divmod(known, max(1, len(types)))
        opens = np.ones(len(pairs), dtype=bool)
        opens[1:] = np.diff(pairs) != 0
        owners, items = np.divmod(pairs[opens], max(1, len(item_ids)))
        self._items = items.astype(np.int32)
        self._starts = np.searchsorted(owners, np.arange(len(self._user_ids) + 1))
        column = Strings(len(items), np.cumsum(opens) - 1, kinds, types, ignore_case=True)
        self.columns = {EVENT_TYPE: column}

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
    coded, ids, types = _coded(rows.select(USER_ID, EVENT_TYPE))
    coded = coded.unique()
    user, kind = coded["user"].to_numpy(), coded["type"].to_numpy()
    return Table(ids, {EVENT_TYPE: Strings(len(ids), user, kind, types, ignore_case=True)})


def _coded(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series, list[str]]:
    """The rows that have an event type, with numbers for `user` and `type`; what these stand for.

    Types that differ in case only are one.
    """
    rows = rows.drop_nulls(EVENT_TYPE)
    ids = rows[USER_ID].unique().sort()
    spelt = rows[EVENT_TYPE].unique()
    lower = [text.lower() for text in spelt.to_list()]
    types = list(dict.fromkeys(lower))
    code = {text: at for at, text in enumerate(types)}
    number = np.array([code[text] for text in lower], dtype=np.int64)
    kinds = rows[EVENT_TYPE].cast(pl.Enum(spelt)).to_physical().to_numpy()
    coded = rows.with_columns(
        pl.Series("type", number[kinds] if len(kinds) else [], dtype=pl.Int64),
        user=pl.col(USER_ID).cast(pl.Enum(ids)).to_physical().cast(pl.Int64),
    )
    return coded.drop(USER_ID, EVENT_TYPE), ids, types


def _latest(rows: pl.DataFrame) -> pl.DataFrame:
    """The latest FILTER_HISTORY of each user and event type; the first given wins a tie."""
    rows = rows.with_columns(many=pl.len().over("user", "type") > FILTER_HISTORY)
    few = rows.filter(~pl.col("many"))
    latest = (
        rows.filter("many")
        .sort(TIMESTAMP, descending=True, maintain_order=True)
        .group_by("user", "type", maintain_order=True)
        .head(FILTER_HISTORY)
    )
    return pl.concat([few, latest.select(few.columns)])
