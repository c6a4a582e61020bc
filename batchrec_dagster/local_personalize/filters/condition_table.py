"""Rows with an id each, such as users, and which of them meet a condition."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.personalize.conditions import find_matches
from batchrec_dagster.personalize.filters import Condition

from ..engine.data import find_positions

Mask = npt.NDArray[np.bool_]
"""One flag for each row, item, user or line."""

RowIndexes = npt.NDArray[np.integer[Any]]


class ConditionTable:
    """A table on which the conditions of filters are evaluated."""

    def __init__(self, ids: pl.Series, cells: pl.DataFrame) -> None:
        """Take the rows of these cells, each with one of the distinct `ids`."""
        self._ids = ids
        self._cells = cells
        self._match_all = cache(self._match_all_now)

    def find_rows(self, ids: Sequence[str] | npt.NDArray[np.object_]) -> RowIndexes:
        """Return the row of each id, -1 for an unknown one."""
        return find_positions(self._ids, ids)

    def match(self, condition: Condition, rows: RowIndexes) -> Mask:
        """Return which of these rows meet the condition. Row -1 never does."""
        return self._match_all(condition)[rows]

    def _match_all_now(self, condition: Condition) -> Mask:
        """Return which rows meet the condition, and false for row -1. Its results are cached."""
        return np.append(find_matches(condition, self._cells).to_numpy(), False)
