"""The datasets that a filter reads, as the group holds them now.

Source: developer guide, "Filter expressions": the latest 100 interactions of each user and event
type count; event types match in any case.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.local_personalize.errors import JobFailedError
from batchrec_dagster.local_personalize.filters.columns import (
    Column,
    Rows,
    Strings,
    Table,
    column_of,
    lookup,
)
from batchrec_dagster.personalize.datasets import (
    EVENT_TYPE,
    FILTER_HISTORY,
    ITEM_ID,
    TIMESTAMP,
    USER_ID,
)
from batchrec_dagster.personalize.filter_check import check
from batchrec_dagster.personalize.filter_grammar import (
    CURRENT_ITEM,
    Expression,
    FieldRef,
    FilterError,
    Literal,
    Variable,
    comparisons,
    fields,
)
from batchrec_dagster.personalize.schemas import INTERACTIONS, ITEMS, USERS, Field, Schema

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


# Reads these columns of the group's data set of that type; names are taken in any case.
Read = Callable[[str, Sequence[str]], pl.DataFrame]

_KEYS = {ITEMS: [ITEM_ID], USERS: [USER_ID], INTERACTIONS: [USER_ID, ITEM_ID, TIMESTAMP]}
_TYPES = {
    pl.String: "string",
    pl.Int32: "int",
    pl.Int64: "long",
    pl.Float32: "float",
    pl.Float64: "double",
    pl.Boolean: "boolean",
}


def load(expressions: tuple[Expression, ...], read: Read) -> dict[str, pl.DataFrame]:
    """The data sets that the filter looks at: the keys and the fields that it names.

    Raises JobFailedError when one is not there, or no longer is as it was for CreateFilter.
    """
    columns: dict[str, list[str]] = {}
    for dataset_type, column in sorted(fields(expressions)):
        columns.setdefault(dataset_type, list(_KEYS[dataset_type])).append(column)
    frames = {
        dataset_type: read(dataset_type, list(dict.fromkeys(wanted)))
        for dataset_type, wanted in columns.items()
    }
    schemas = {
        dataset_type: Schema(
            dataset_type,
            tuple(Field(name, _TYPES[type(dtype)]) for name, dtype in frame.schema.items()),
        )
        for dataset_type, frame in frames.items()
    }
    try:
        check(expressions, schemas)
    except FilterError as error:
        raise JobFailedError(
            f"The filter does not fit the data that there are now: {error}"
        ) from None
    return {
        dataset_type: frame if dataset_type == INTERACTIONS else by_id(frame, *_KEYS[dataset_type])
        for dataset_type, frame in frames.items()
    }


def by_id(frame: pl.DataFrame, key: str) -> pl.DataFrame:
    """One row for each id: the last, for a later import replaces what an earlier one said."""
    return frame.unique(key, keep="last", maintain_order=True)


def placed(items: pl.DataFrame, item_ids: Sequence[str]) -> dict[str, Column]:
    """The columns of Items, a row for each of `item_ids`: null for one that is not there."""
    at = pl.Series(lookup(items[ITEM_ID], item_ids)).replace(-1, None)
    return {name: column_of(cells.gather(at)) for name, cells in items.to_dict().items()}


class CurrentItems:
    """What the fields of CurrentItem stand for, item by item."""

    def __init__(self, expressions: Iterable[Expression], items: pl.DataFrame) -> None:
        self.fields = sorted(
            {
                operand
                for expression in expressions
                for comparison in comparisons(expression.where)
                for operand in comparison.operands
                if isinstance(operand, FieldRef) and operand.dataset == CURRENT_ITEM
            },
            key=str,
        )
        columns = list(dict.fromkeys([ITEM_ID, *(field.column for field in self.fields)]))
        self._frame = items.select(columns)

    def given(self, item_ids: Sequence[str]) -> list[dict[Variable, tuple[Literal, ...]]]:
        """For each item the values of its fields; fields that are null are left out."""
        rows = lookup(self._frame[ITEM_ID], item_ids).tolist()
        found: list[dict[Variable, tuple[Literal, ...]]] = [{} for _ in rows]
        for field in self.fields:
            cells = self._frame[field.column]
            for number, row in enumerate(rows):
                cell = cells[row] if row >= 0 else None
                if isinstance(cell, str):
                    found[number][field] = tuple(cell.split("|"))
                elif cell is not None:
                    found[number][field] = (cell,)
        return found
