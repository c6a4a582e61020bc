"""What a filter looks at, read from the datasets of the group as they are now."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import polars as pl

from batchrec_dagster.local_personalize.errors import JobFailedError
from batchrec_dagster.local_personalize.filters.check import check
from batchrec_dagster.local_personalize.filters.columns import (
    Column,
    column_of,
    lookup,
)
from batchrec_dagster.personalize.datasets import ITEM_ID, TIMESTAMP, USER_ID
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
