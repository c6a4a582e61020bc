"""The event types of users, and of the items that they interacted with.

Source: developer guide, "Filter expressions": the latest 100 interactions of each user and event
type count; event types match in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.conditions import find_matches
from batchrec_dagster.personalize.filters import Condition

from ..engine.data import Int32, find_positions
from .condition_table import ConditionTable, Mask, RowIndexes

_EVENT_TYPES = {schemas.EVENT_TYPE: pl.List(pl.String)}


class UserItemPairs:
    """The distinct pairs of a user and an item, with the set of event types of each."""

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
        # A dataset has at most MAX_EVENT_TYPES types, so a number has a bit for each.
        bits = np.bitwise_or.reduceat(np.int64(1) << type_codes, np.flatnonzero(is_first_of_pair))
        distinct_bits = pl.Series(bits).unique().sort().to_numpy()
        self._set_of_pair = np.searchsorted(distinct_bits, bits)
        sets = [
            [name for code, name in enumerate(types) if bit_set >> code & 1]
            for bit_set in distinct_bits.tolist()
        ]
        self._sets = pl.DataFrame({schemas.EVENT_TYPE: sets}, schema=_EVENT_TYPES)
        self._match_sets = cache(self._match_sets_now)

    def match(self, condition: Condition, pairs: RowIndexes) -> Mask:
        """Return which of these pairs meet the condition."""
        return self._match_sets(condition)[self._set_of_pair[pairs]]

    def _match_sets_now(self, condition: Condition) -> Mask:
        """Return which sets of event types meet the condition. Its results are cached."""
        return find_matches(condition, self._sets).to_numpy()

    def find_users(self, user_ids: Sequence[str]) -> RowIndexes:
        """Return each user's index for `find_pairs`, -1 for a user without interactions."""
        return find_positions(self._user_ids, user_ids)

    def find_pairs(self, users: RowIndexes) -> tuple[RowIndexes, Int32, RowIndexes]:
        """Return all pairs of these users, as three arrays with an entry for each pair.

        They are the position in `users`, the item's position in the model, and the index for
        `match`.

        users: indexes that `find_users` returned.
        """
        positions = np.flatnonzero(users >= 0)
        first, end = self._starts[users[positions]], self._starts[users[positions] + 1]
        counts = end - first
        ends = np.cumsum(counts)
        total = ends[-1] if len(ends) else 0
        rows = np.repeat(end - ends, counts) + np.arange(total)
        return np.repeat(positions, counts), self._items[rows], rows


def index_event_types(rows: pl.DataFrame) -> ConditionTable:
    """Return a table of users with the event types of each.

    rows: the columns USER_ID and EVENT_TYPE of Interactions.
    """
    types = pl.col(schemas.EVENT_TYPE).str.to_lowercase().unique()
    users = rows.drop_nulls(schemas.EVENT_TYPE).group_by(schemas.USER_ID).agg(types)
    return ConditionTable(users[schemas.USER_ID], users.select(schemas.EVENT_TYPE))


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
