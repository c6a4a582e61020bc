"""Numbers in the place of ids, so that tables of users and items take little memory."""

from __future__ import annotations

import numpy as np
import polars as pl

Int64s = np.ndarray[tuple[int], np.dtype[np.int64]]


class NumberedIds:
    """The numbers of distinct ids, which are their indices.

    It is made once, while `find_positions` would look at all ids again for each table.
    """

    def __init__(self, ids: pl.Series) -> None:
        self.ids = ids
        self._type = pl.Categorical(pl.Categories.random(physical=pl.UInt32))
        # Polars numbers categories as they come, and forgets them with the last column that has
        # them.
        self._categories = ids.cast(self._type)

    def find(self, ids: pl.Series) -> pl.Series:
        """The number of each id; null for any other id, and for null."""
        numbers = ids.cast(self._type).to_physical()
        return numbers.set(numbers >= len(self.ids), None)


def find_positions(column: str, ids: pl.Series) -> pl.Expr:
    """The index of the column's value in these distinct ids; null if it is not there."""
    return pl.col(column).cast(pl.Enum(ids), strict=False).to_physical()
