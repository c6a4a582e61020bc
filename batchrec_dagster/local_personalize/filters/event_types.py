"""The event types of users, and of the items that they interacted with.

Source: developer guide, "Filter expressions": the latest 100 interactions of each user and event
type count; event types match in any case.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from batchrec_dagster.personalize import schemas

from ..learning.interactions import Int32, find_positions
from .columns import ColumnTable, RowIndexes, StringColumn


class UserItemPairs:
    """The distinct pairs of a user and an item, with the event types of each."""

    columns: dict[str, StringColumn]
    """The column EVENT_TYPE, by its name. It has a row for each pair."""

    def __init__(
        self, rows: pl.DataFrame, item_ids: Sequence[str], latest: int = schemas.FILTER_HISTORY
    ) -> None:
        """Find the pairs in interactions.

        rows: the columns USER_ID, ITEM_ID, TIMESTAMP and EVENT_TYPE of Interactions.
        item_ids: the items of the model. Rows with others are left out.
        latest: how many of the latest rows of each user and event type count.
        """
        coded, self._user_ids, types = _encode_events(rows)
        item = pl.col(schemas.ITEM_ID).cast(pl.Enum(list(item_ids)), strict=False).to_physical()
        pair = pl.col("user") * len(item_ids) + item.cast(pl.Int64)
        # One number encodes user, item and type; sorting it puts a user's pairs together.
        numbers = _select_latest(coded, latest).select(pair * len(types) + pl.col("type"))
        distinct = numbers.to_series().drop_nulls().unique().sort().to_numpy()
        pairs, type_codes = np.divmod(distinct, max(1, len(types)))
        is_first_of_pair = np.ones(len(pairs), dtype=bool)
        is_first_of_pair[1:] = np.diff(pairs) != 0
        users, items = np.divmod(pairs[is_first_of_pair], max(1, len(item_ids)))
        self._items = items.astype(np.int32)
        # The pairs of user u are those from `_starts[u]` to before `_starts[u + 1]`.
        self._starts = np.searchsorted(users, np.arange(len(self._user_ids) + 1))
        pair_of_number = np.cumsum(is_first_of_pair) - 1
        column = StringColumn(len(items), pair_of_number, type_codes, types, ignore_case=True)
        self.columns = {schemas.EVENT_TYPE: column}

    def find_users(self, user_ids: Sequence[str]) -> RowIndexes:
        """Return each user's index for `find_pairs`, -1 for a user without interactions."""
        return find_positions(self._user_ids, user_ids)

    def find_pairs(self, users: RowIndexes) -> tuple[RowIndexes, Int32, RowIndexes]:
        """Return all pairs of these users, as three arrays with an entry for each pair.

        They are the position in `users`, the item's position in the model, and the row in
        `columns`.

        users: indexes that `find_users` returned.
        """
        positions = np.flatnonzero(users >= 0)
        first, end = self._starts[users[positions]], self._starts[users[positions] + 1]
        counts = end - first
        ends = np.cumsum(counts)
        total = ends[-1] if len(ends) else 0
        rows = np.repeat(end - ends, counts) + np.arange(total)
        return np.repeat(positions, counts), self._items[rows], rows


def index_event_types(rows: pl.DataFrame) -> ColumnTable:
    """Return a table of users with the event types of each.

    rows: the columns USER_ID and EVENT_TYPE of Interactions.
    """
    coded, user_ids, types = _encode_events(rows.select(schemas.USER_ID, schemas.EVENT_TYPE))
    coded = coded.unique()
    users, type_codes = coded["user"].to_numpy(), coded["type"].to_numpy()
    column = StringColumn(len(user_ids), users, type_codes, types, ignore_case=True)
    return ColumnTable(user_ids, {schemas.EVENT_TYPE: column})


def _encode_events(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series, list[str]]:
    """Return the rows that have an event type, the distinct users and the distinct types.

    The rows have the columns `user` and `type` instead of USER_ID and EVENT_TYPE: positions in the
    distinct users and types. Types that differ only in case are the same type.
    """
    rows = rows.drop_nulls(schemas.EVENT_TYPE)
    user_ids = rows[schemas.USER_ID].unique().sort()
    lower_case = {text: text.lower() for text in rows[schemas.EVENT_TYPE].unique().to_list()}
    types = list(dict.fromkeys(lower_case.values()))
    code_of_text = {text: types.index(lower) for text, lower in lower_case.items()}
    coded = rows.with_columns(
        type=pl.col(schemas.EVENT_TYPE).replace_strict(code_of_text).cast(pl.Int64),
        user=pl.col(schemas.USER_ID).cast(pl.Enum(user_ids)).to_physical().cast(pl.Int64),
    )
    return coded.drop(schemas.USER_ID, schemas.EVENT_TYPE), user_ids, types


def _select_latest(rows: pl.DataFrame, limit: int) -> pl.DataFrame:
    """Return the latest `limit` rows of each user and event type. The first row wins a tie."""
    if rows.height <= limit:
        return rows
    rows = rows.with_columns(is_over_limit=pl.len().over("user", "type") > limit)
    within = rows.filter(~pl.col("is_over_limit"))
    latest = (
        rows.filter("is_over_limit")
        .sort(schemas.TIMESTAMP, descending=True, maintain_order=True)
        .group_by("user", "type", maintain_order=True)
        .head(limit)
    )
    return pl.concat([within, latest.select(within.columns)])
