"""The Items dataset in filters: columns over a model's items, and the fields of CurrentItem."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.filter_grammar import (
    CURRENT_ITEM,
    Expression,
    FieldRef,
    Literal,
    Variable,
    list_operands,
)

from ..learning.interactions import find_positions
from .columns import Column, make_column


def align_items(items: pl.DataFrame, item_ids: Sequence[str]) -> dict[str, Column]:
    """Return the columns of Items by name, with a row for each of `item_ids`.

    The cells of an id that Items lacks are null.
    """
    rows = pl.Series(find_positions(items[schemas.ITEM_ID], item_ids)).replace(-1, None)
    return {name: make_column(cells.gather(rows)) for name, cells in items.to_dict().items()}


class CurrentItemFields:
    """The fields of CurrentItem in a filter, and their values for each item."""

    fields: list[FieldRef]
    """The fields that the filter compares with, such as CurrentItem.GENRE."""

    def __init__(self, expressions: Iterable[Expression], items: pl.DataFrame) -> None:
        """`items` are the ids of Items and the columns that the filter uses."""
        operands = list_operands(*(expression.where for expression in expressions))
        fields = {
            operand
            for operand in operands
            if isinstance(operand, FieldRef) and operand.dataset == CURRENT_ITEM
        }
        self.fields = sorted(fields, key=str)
        columns = list(dict.fromkeys([schemas.ITEM_ID, *(field.column for field in self.fields)]))
        self._items = items.select(columns)

    def find_bindings(self, item_ids: Sequence[str]) -> list[dict[Variable, tuple[Literal, ...]]]:
        """Return the values of each item's fields, without those that are null."""
        rows = find_positions(self._items[schemas.ITEM_ID], item_ids).tolist()
        bindings: list[dict[Variable, tuple[Literal, ...]]] = [{} for _ in rows]
        for field in self.fields:
            cells = self._items[field.column]
            for item_bindings, row in zip(bindings, rows, strict=True):
                cell = cells[row] if row >= 0 else None
                if isinstance(cell, str):
                    item_bindings[field] = tuple(cell.split("|"))
                elif cell is not None:
                    item_bindings[field] = (cell,)
        return bindings
