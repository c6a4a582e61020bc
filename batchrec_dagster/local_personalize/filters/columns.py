"""Columns to evaluate filter conditions on, for all rows or for some.

A null never matches, not even != or NOT IN. A string with `|` matches as a whole and by each of the
values that `|` separates.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.personalize.filter_grammar import (
    ANY_EVENT,
    And,
    Comparison,
    Condition,
    Literal,
    Or,
    Variable,
)

from ..learning.interactions import find_positions

Mask = npt.NDArray[np.bool_]
RowIndexes = npt.NDArray[np.integer[Any]]
# The values of placeholders and of CurrentItem's fields; a missing one matches nothing.
Bindings = Mapping[Variable, tuple[Literal, ...]]

_OPERATORS: dict[str, Callable[[Any, Any], Mask]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class NumberColumn:
    """A column of type int, long, float or double."""

    def __init__(self, cells: pl.Series) -> None:
        self.size = len(cells)
        self._single = cells.dtype == pl.Float32
        self._present = cells.is_not_null().to_numpy()
        wide = pl.Float64 if cells.dtype.is_float() else pl.Int64
        self._values = cells.cast(wide).fill_null(0).to_numpy()

    def compare(self, sign: str, values: tuple[Literal, ...], rows: RowIndexes | None) -> Mask:
        """Which of these rows, or of all rows, match."""
        (value,) = values
        if self._single:
            # The import rounded 0.1 to the nearest float, so round the value too.
            with np.errstate(over="ignore"):
                value = float(np.float32(value))
        at = slice(None) if rows is None else rows
        return self._present[at] & _OPERATORS[sign](self._values[at], value)


class StringColumn:
    """A column of strings, indexed by value: the ascending rows that have it."""

    def __init__(
        self,
        size: int,
        rows: RowIndexes,
        codes: npt.NDArray[np.integer[Any]],
        values: Sequence[str],
        *,
        ignore_case: bool = False,
    ) -> None:
        """Row `rows[i]` has `values[codes[i]]`; with `ignore_case`, values are in lower case."""
        self.size = size
        self._ignore_case = ignore_case
        self._code = {value: code for code, value in enumerate(values)}
        order = np.lexsort((rows, codes)) if len(values) > 1 else np.argsort(rows, kind="stable")
        self._rows = rows[order]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(values)))])
        self._present = np.zeros(size, dtype=bool)
        self._present[rows] = True

    @classmethod
    def from_cells(cls, cells: pl.Series) -> StringColumn:
        """The column of these imported cells."""
        frame = pl.DataFrame({"row": np.arange(len(cells)), "value": cells}).drop_nulls("value")
        several = frame.filter(pl.col("value").str.contains("|", literal=True))
        parts = several.with_columns(pl.col("value").str.split("|")).explode("value")
        frame = pl.concat([frame, parts]).unique()
        values = frame["value"].unique()
        codes = frame["value"].cast(pl.Enum(values)).to_physical().to_numpy()
        return cls(len(cells), frame["row"].to_numpy(), codes, values.to_list())

    def compare(self, sign: str, values: tuple[Literal, ...], rows: RowIndexes | None) -> Mask:
        """Which of these rows, or of all rows, match."""
        present = self._present if rows is None else self._present[rows]
        hit = (
            present if self._ignore_case and ANY_EVENT in values else self._rows_with(values, rows)
        )
        return hit if sign in ("IN", "=") else present & ~hit

    def _rows_with(self, values: tuple[Literal, ...], rows: RowIndexes | None) -> Mask:
        """Which rows have one of the values."""
        hit = np.zeros(self.size if rows is None else len(rows), dtype=bool)
        for value in values:
            code = self._code.get(str(value).lower() if self._ignore_case else str(value))
            if code is None:
                continue
            having = self._rows[self._starts[code] : self._starts[code + 1]]
            if rows is None:
                hit[having] = True
            elif len(having):
                at = np.minimum(np.searchsorted(having, rows), len(having) - 1)
                hit |= having[at] == rows
        return hit


Column = NumberColumn | StringColumn


def make_column(cells: pl.Series) -> Column:
    """The column of these cells, of strings or numbers."""
    return StringColumn.from_cells(cells) if cells.dtype == pl.String else NumberColumn(cells)


def evaluate(
    condition: Condition,
    columns: Mapping[str, Column],
    bindings: Bindings,
    rows: RowIndexes | None = None,
) -> Mask:
    """Which of these rows, or of all rows, meet the condition."""
    match condition:
        case Comparison():
            column = columns[condition.field.column]
            values = resolve(condition, bindings)
            if values is None:
                return np.zeros(column.size if rows is None else len(rows), dtype=bool)
            return column.compare(condition.operator, values, rows)
        case And(parts) | Or(parts):
            combine = np.logical_and if isinstance(condition, And) else np.logical_or
            return reduce(combine, [evaluate(part, columns, bindings, rows) for part in parts])


def resolve(comparison: Comparison, bindings: Bindings) -> tuple[Literal, ...] | None:
    """The values to compare with, or None when one is missing."""
    values: list[Literal] = []
    for operand in comparison.operands:
        found = bindings.get(operand) if isinstance(operand, Variable) else (operand,)
        if found is None:
            return None
        values += found
    return tuple(values)


class ColumnTable:
    """Columns with an id for each row."""

    def __init__(self, ids: pl.Series, columns: Mapping[str, Column]) -> None:
        """`ids` are distinct."""
        self._ids = ids
        self._columns = columns

    def find_rows(self, ids: Sequence[str] | npt.NDArray[np.object_]) -> RowIndexes:
        """The row of each id, -1 for an unknown one."""
        return find_positions(self._ids, ids)

    def evaluate(self, condition: Condition, bindings: Bindings, rows: RowIndexes) -> Mask:
        """Which of these rows meet the condition; row -1 never does."""
        mask = np.zeros(len(rows), dtype=bool)
        known = np.flatnonzero(rows >= 0)
        mask[known] = evaluate(condition, self._columns, bindings, rows[known])
        return mask
