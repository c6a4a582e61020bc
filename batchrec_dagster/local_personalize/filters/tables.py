"""The datasets that a filter reads, as the group holds them now.

Source: developer guide, "Filter expressions": the latest 100 interactions of each user and event
type count; event types match in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.filter_check import check
from batchrec_dagster.personalize.filter_grammar import (
    CURRENT_ITEM,
    Expression,
    FieldRef,
    FilterExpressionError,
    Literal,
    Variable,
    list_fields,
    list_operands,
)

from ..data.datasets import STORED_TYPES
from ..errors import JobFailedError
from ..learning.interactions import Int32, find_positions
from .columns import Column, ColumnTable, RowIndexes, StringColumn, make_column


class UserItemPairs:
    """The distinct pairs of a user and an item, with the event types of each.

    `columns` holds EVENT_TYPE, one row for each pair.
    """

    def __init__(
        self, rows: pl.DataFrame, item_ids: Sequence[str], latest: int = schemas.FILTER_HISTORY
    ) -> None:
        """`rows` has USER_ID, ITEM_ID, TIMESTAMP and EVENT_TYPE; unknown items are dropped.

        Of each user and event type, only the latest rows count.
        """
        coded, self._user_ids, types = _encode_events(rows)
        item = pl.col(schemas.ITEM_ID).cast(pl.Enum(list(item_ids)), strict=False).to_physical()
        pair = pl.col("user") * len(item_ids) + item.cast(pl.Int64)
        # One number encodes user, item and type; sorting it puts a user's pairs together.
        numbers = (
            _select_latest(coded, latest).select(pair * len(types) + pl.col("type")).to_series()
        )
        known = numbers.drop_nulls().unique().sort().to_numpy()
        pairs, kinds = np.divmod(known, max(1, len(types)))
        starts_pair = np.ones(len(pairs), dtype=bool)
        starts_pair[1:] = np.diff(pairs) != 0
        owners, items = np.divmod(pairs[starts_pair], max(1, len(item_ids)))
        self._items = items.astype(np.int32)
        self._starts = np.searchsorted(owners, np.arange(len(self._user_ids) + 1))
        column = StringColumn(
            len(items), np.cumsum(starts_pair) - 1, kinds, types, ignore_case=True
        )
        self.columns = {schemas.EVENT_TYPE: column}

    def find_users(self, user_ids: Sequence[str]) -> RowIndexes:
        """Each user's index for `pairs`, -1 for a user without interactions."""
        return find_positions(self._user_ids, user_ids)

    def find_pairs(self, users: RowIndexes) -> tuple[RowIndexes, Int32, RowIndexes]:
        """The pairs of users given by index: position in `users`, item, and row in `columns`."""
        at = np.flatnonzero(users >= 0)
        first, last = self._starts[users[at]], self._starts[users[at] + 1]
        lengths = last - first
        ends = np.cumsum(lengths)
        rows = np.repeat(last - ends, lengths) + np.arange(ends[-1] if len(ends) else 0)
        return np.repeat(at, lengths), self._items[rows], rows


def index_event_types(rows: pl.DataFrame) -> ColumnTable:
    """The event types of each user in `rows` (USER_ID, EVENT_TYPE)."""
    coded, ids, types = _encode_events(rows.select(schemas.USER_ID, schemas.EVENT_TYPE))
    coded = coded.unique()
    user, kind = coded["user"].to_numpy(), coded["type"].to_numpy()
    return ColumnTable(
        ids, {schemas.EVENT_TYPE: StringColumn(len(ids), user, kind, types, ignore_case=True)}
    )


def _encode_events(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.Series, list[str]]:
    """The rows with an event type, with codes `user` and `type`; and the decoded users and types.

    Types that differ only in case are the same type.
    """
    rows = rows.drop_nulls(schemas.EVENT_TYPE)
    ids = rows[schemas.USER_ID].unique().sort()
    lower = {text: text.lower() for text in rows[schemas.EVENT_TYPE].unique().to_list()}
    types = list(dict.fromkeys(lower.values()))
    number = {text: types.index(lower[text]) for text in lower}
    coded = rows.with_columns(
        type=pl.col(schemas.EVENT_TYPE).replace_strict(number).cast(pl.Int64),
        user=pl.col(schemas.USER_ID).cast(pl.Enum(ids)).to_physical().cast(pl.Int64),
    )
    return coded.drop(schemas.USER_ID, schemas.EVENT_TYPE), ids, types


def _select_latest(rows: pl.DataFrame, most: int) -> pl.DataFrame:
    """The latest rows of each user and event type; the first row wins a tie."""
    if rows.height <= most:
        return rows
    rows = rows.with_columns(many=pl.len().over("user", "type") > most)
    few = rows.filter(~pl.col("many"))
    latest = (
        rows.filter("many")
        .sort(schemas.TIMESTAMP, descending=True, maintain_order=True)
        .group_by("user", "type", maintain_order=True)
        .head(most)
    )
    return pl.concat([few, latest.select(few.columns)])


# (dataset type, columns) -> those columns of the group's dataset; names match in any case.
ReadColumns = Callable[[str, Sequence[str]], pl.DataFrame]

_KEYS = {
    schemas.ITEMS: [schemas.ITEM_ID],
    schemas.USERS: [schemas.USER_ID],
    schemas.INTERACTIONS: [schemas.USER_ID, schemas.ITEM_ID, schemas.TIMESTAMP],
}
_TYPES = {stored: name for name, stored in STORED_TYPES.items()}


def load_datasets(
    expressions: tuple[Expression, ...], read: ReadColumns
) -> tuple[dict[str, pl.DataFrame], dict[str, schemas.Schema]]:
    """The datasets that the filter uses, by type: their ids and the fields it names; and schemas.

    Raises JobFailedError when one is missing, or has changed so that the filter no longer fits.
    """
    columns: dict[str, list[str]] = {}
    for dataset_type, column in sorted(list_fields(expressions)):
        columns.setdefault(dataset_type, list(_KEYS[dataset_type])).append(column)
    frames = {
        dataset_type: read(dataset_type, list(dict.fromkeys(names)))
        for dataset_type, names in columns.items()
    }
    of_type = {
        dataset_type: schemas.Schema(
            dataset_type,
            tuple(schemas.Field(name, _TYPES[type(dtype)]) for name, dtype in frame.schema.items()),
        )
        for dataset_type, frame in frames.items()
    }
    try:
        check(expressions, of_type)
    except FilterExpressionError as error:
        raise JobFailedError(f"The filter does not fit the current data: {error}") from None
    for dataset_type in frames.keys() - {schemas.INTERACTIONS}:
        # A later import replaces the earlier rows of an id.
        of_id = frames[dataset_type].unique(_KEYS[dataset_type], keep="last", maintain_order=True)
        frames[dataset_type] = of_id
    return frames, of_type


def align_items(items: pl.DataFrame, item_ids: Sequence[str]) -> dict[str, Column]:
    """The columns of Items, one row for each of `item_ids`; null for an unknown id."""
    at = pl.Series(find_positions(items[schemas.ITEM_ID], item_ids)).replace(-1, None)
    return {name: make_column(cells.gather(at)) for name, cells in items.to_dict().items()}


class CurrentItemFields:
    """The values of CurrentItem's fields, for each item."""

    def __init__(self, expressions: Iterable[Expression], items: pl.DataFrame) -> None:
        used = list_operands(*(expression.where for expression in expressions))
        of_item = {o for o in used if isinstance(o, FieldRef) and o.dataset == CURRENT_ITEM}
        self.fields = sorted(of_item, key=str)
        columns = list(dict.fromkeys([schemas.ITEM_ID, *(field.column for field in self.fields)]))
        self._frame = items.select(columns)

    def find_bindings(self, item_ids: Sequence[str]) -> list[dict[Variable, tuple[Literal, ...]]]:
        """The values of each item's fields, without those that are null."""
        rows = find_positions(self._frame[schemas.ITEM_ID], item_ids).tolist()
        bindings: list[dict[Variable, tuple[Literal, ...]]] = [{} for _ in rows]
        for field in self.fields:
            cells = self._frame[field.column]
            for number, row in enumerate(rows):
                cell = cells[row] if row >= 0 else None
                if isinstance(cell, str):
                    bindings[number][field] = tuple(cell.split("|"))
                elif cell is not None:
                    bindings[number][field] = (cell,)
        return bindings
