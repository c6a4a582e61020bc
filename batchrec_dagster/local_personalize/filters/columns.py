"""Columns on which the conditions of filters are evaluated, for all rows or for some.

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
)

from ..learning.interactions import find_positions

Mask = npt.NDArray[np.bool_]
"""One flag for each row, item, user or line."""

RowIndexes = npt.NDArray[np.integer[Any]]

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
        self._is_float32 = cells.dtype == pl.Float32
        self._present = cells.is_not_null().to_numpy()
        wide_type = pl.Float64 if cells.dtype.is_float() else pl.Int64
        self._values = cells.cast(wide_type).fill_null(0).to_numpy()

    def compare(
        self, operator_sign: str, values: tuple[Literal, ...], rows: RowIndexes | None
    ) -> Mask:
        """Return which rows match.

        operator_sign: a comparison operator, such as `<=`.
        values: the one number to compare with.
        rows: the rows to compare, or None for all.
        """
        (value,) = values
        if self._is_float32:
            # The import rounded 0.1 to the nearest 32-bit float, so the value is rounded too.
            with np.errstate(over="ignore"):
                value = float(np.float32(value))
        selection = slice(None) if rows is None else rows
        matching = _OPERATORS[operator_sign](self._values[selection], value)
        return self._present[selection] & matching


class StringColumn:
    """A column of strings, indexed by value: each value has the rows that contain it."""

    def __init__(
        self,
        size: int,
        rows: RowIndexes,
        codes: npt.NDArray[np.integer[Any]],
        values: Sequence[str],
        *,
        ignore_case: bool = False,
    ) -> None:
        """Index the values: row `rows[i]` has the value `values[codes[i]]`, among others.

        size: the number of rows. Those that are not in `rows` are null.
        values: the distinct values, in lower case if `ignore_case` is set.
        """
        self.size = size
        self._ignore_case = ignore_case
        self._code_of_value = {value: code for code, value in enumerate(values)}
        order = np.lexsort((rows, codes)) if len(values) > 1 else np.argsort(rows, kind="stable")
        # The rows of value c are `_rows[_starts[c] : _starts[c + 1]]`, in ascending order.
        self._rows = rows[order]
        self._starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(values)))])
        self._present = np.zeros(size, dtype=bool)
        self._present[rows] = True

    @classmethod
    def from_cells(cls, cells: pl.Series) -> StringColumn:
        """Return the column of these imported cells."""
        whole = pl.DataFrame({"row": np.arange(len(cells)), "value": cells}).drop_nulls("value")
        with_separator = whole.filter(pl.col("value").str.contains("|", literal=True))
        parts = with_separator.with_columns(pl.col("value").str.split("|")).explode("value")
        frame = pl.concat([whole, parts]).unique()
        values = frame["value"].unique()
        codes = frame["value"].cast(pl.Enum(values)).to_physical().to_numpy()
        return cls(len(cells), frame["row"].to_numpy(), codes, values.to_list())

    def compare(
        self, operator_sign: str, values: tuple[Literal, ...], rows: RowIndexes | None
    ) -> Mask:
        """Return which rows match.

        operator_sign: `IN` or `=`. Any other one means that the row has none of the values.
        rows: the rows to compare, or None for all.
        """
        present = self._present if rows is None else self._present[rows]
        if self._ignore_case and ANY_EVENT in values:
            has_value = present
        else:
            has_value = self._find_rows_with(values, rows)
        return has_value if operator_sign in ("IN", "=") else present & ~has_value

    def _find_rows_with(self, values: tuple[Literal, ...], rows: RowIndexes | None) -> Mask:
        """Return which of the rows have one of the values."""
        mask = np.zeros(self.size if rows is None else len(rows), dtype=bool)
        for value in values:
            text = str(value).lower() if self._ignore_case else str(value)
            code = self._code_of_value.get(text)
            if code is None:
                continue
            value_rows = self._rows[self._starts[code] : self._starts[code + 1]]
            if rows is None:
                mask[value_rows] = True
            elif len(value_rows):
                nearest = np.minimum(np.searchsorted(value_rows, rows), len(value_rows) - 1)
                mask |= value_rows[nearest] == rows
        return mask


Column = NumberColumn | StringColumn


def make_column(cells: pl.Series) -> Column:
    """Return the column of these cells, which are strings or numbers."""
    return StringColumn.from_cells(cells) if cells.dtype == pl.String else NumberColumn(cells)


def evaluate(
    condition: Condition,
    columns: Mapping[str, Column],
    rows: RowIndexes | None = None,
) -> Mask:
    """Return which rows meet the condition.

    columns: the columns of its fields, by name.
    rows: the rows to evaluate it on, or None for all.
    """
    match condition:
        case Comparison():
            column = columns[condition.field.column]
            return column.compare(condition.operator, condition.operands, rows)
        case And(parts) | Or(parts):
            combine = np.logical_and if isinstance(condition, And) else np.logical_or
            return reduce(combine, [evaluate(part, columns, rows) for part in parts])


class ColumnTable:
    """Columns with an id for each row, such as a user's."""

    def __init__(self, ids: pl.Series, columns: Mapping[str, Column]) -> None:
        """Make a table of columns, by name, with a row for each of the distinct `ids`."""
        self._ids = ids
        self._columns = columns

    def find_rows(self, ids: Sequence[str] | npt.NDArray[np.object_]) -> RowIndexes:
        """Return the row of each id, -1 for an unknown one."""
        return find_positions(self._ids, ids)

    def evaluate(self, condition: Condition, rows: RowIndexes) -> Mask:
        """Return which of these rows meet the condition. Row -1 never does."""
        mask = np.zeros(len(rows), dtype=bool)
        positions = np.flatnonzero(rows >= 0)
        mask[positions] = evaluate(condition, self._columns, rows[positions])
        return mask
