"""Numbers that stand for ids, so that tables of users and items take little memory."""

from __future__ import annotations

import numpy as np
import polars as pl

Int64s = np.ndarray[tuple[int], np.dtype[np.int64]]


class NumberedIds:
    """A lookup of the numbers of distinct ids. The number of an id is its index.

    This class suits many tables, because the lookup is built once. `find_positions` suits a single
    table, because it reads all ids again for each table.
    """

    def __init__(self, ids: pl.Series) -> None:
        self.ids = ids
        self._type = pl.Categorical(pl.Categories.random(physical=pl.UInt32))
        # Polars numbers categories in order of appearance. It forgets the categories when the last
        # column that uses them is gone, so this object keeps such a column.
        self._categories = ids.cast(self._type)

    def find(self, ids: pl.Series) -> pl.Series:
        """Return the number of each id; null for an unknown id and for null."""
        numbers = ids.cast(self._type).to_physical()
        return numbers.set(numbers >= len(self.ids), None)


def find_positions(column: str, ids: pl.Series) -> pl.Expr:
    """Return an expression for the index of a column's value in distinct ids.

    The index is null if the value is not among the ids.
    """
    return pl.col(column).cast(pl.Enum(ids), strict=False).to_physical()
