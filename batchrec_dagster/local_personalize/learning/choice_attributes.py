"""What is known of the tested users and of the items that they chose, as values of columns.

It is kept with the choices, without any ids, so that the quality by these values can be measured
later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from batchrec_dagster.personalize.breakdown import LONGEST_VALUE, MOST_COLUMNS, MOST_VALUES
from batchrec_dagster.personalize.schemas import VALUE_SEPARATOR

from .interactions import Ids, Int32, Int64, find_positions
from .store import require_array, require_indices


@dataclass(frozen=True)
class ColumnValues:
    """The values of a column for the tested users, or for the choices. One may have several."""

    column: str

    names: Sequence[str]
    """The values that stand alone, the most frequent first; at most MOST_VALUES."""

    rows: Int32
    """(entries,) indices of the tested users or of the choices; some may be in no entry."""

    codes: Int32
    """(entries,) indices of the names; their number for all other values."""


@dataclass(frozen=True)
class ChoiceAttributes:
    """The columns of the Users and of the Items dataset that have values for what was tested."""

    users: Sequence[ColumnValues] = ()

    items: Sequence[ColumnValues] = ()

    @property
    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `read` takes, together with `facts`."""
        columns = [*self.users, *self.items]
        empty = [np.zeros(0, np.int32)]
        return {
            "attribute_rows": np.concatenate([*empty, *(column.rows for column in columns)]),
            "attribute_codes": np.concatenate([*empty, *(column.codes for column in columns)]),
            "attribute_ends": np.cumsum([len(column.rows) for column in columns], dtype=np.int64),
        }

    @property
    def facts(self) -> dict[str, list[list[Any]]]:
        """The names of the columns and of their values."""
        return {
            name: [[column.column, list(column.names)] for column in columns]
            for name, columns in (("users", self.users), ("items", self.items))
        }

    @classmethod
    def read(
        cls,
        facts: Mapping[str, Any],
        arrays: Mapping[str, npt.NDArray[Any]],
        tested: int,
        choices: int,
    ) -> ChoiceAttributes:
        """Those that have these facts and arrays.

        tested: how many users were tested.
        choices: how many choices they made.

        Raises KeyError and LOAD_ERRORS if the facts or the arrays are damaged.
        """
        names = [*facts["users"], *facts["items"]]
        ends: Int64 = require_array(arrays, "attribute_ends", [np.int64], [len(names)])
        rows = require_array(arrays, "attribute_rows", [np.int32], [None])
        codes = require_array(arrays, "attribute_codes", [np.int32], [len(rows)])
        starts = np.concatenate([[0], ends])
        if np.any(np.diff(starts) < 0) or starts[-1] != len(rows):
            raise ValueError("attribute_ends does not divide attribute_rows")
        columns = []
        for number, (column, values) in enumerate(names):
            if not isinstance(column, str) or not all(isinstance(value, str) for value in values):
                raise ValueError("a column of the attributes has no names")
            part = slice(starts[number], ends[number])
            size = tested if number < len(facts["users"]) else choices
            require_indices(rows[part], size, "attribute_rows")
            require_indices(codes[part], len(values) + 1, "attribute_codes")
            columns.append(ColumnValues(column, values, rows[part], codes[part]))
        count = len(facts["users"])
        return cls(columns[:count], columns[count:])


def index_values(column: str, table: pl.DataFrame, ids: Ids) -> ColumnValues | None:
    """The values of a column for these ids; None if none of them has a value.

    table: the ids and the column, in this order, with text that separates several values by |. If
        an id has several rows, the last one counts.
    ids: (rows,) of the tested users, or of the items of the choices. Items repeat.
    """
    cells = table.select(pl.nth(0).alias("id"), pl.nth(1).alias("value"))
    cells = cells.unique("id", keep="last", maintain_order=True)
    positions = pl.Series(find_positions(cells.get_column("id"), ids)).replace(-1, None)
    entries = (
        cells.get_column("value")
        .gather(positions)
        .cast(pl.String)
        .str.split(VALUE_SEPARATOR)
        .to_frame("value")
        .with_row_index("row")
        .explode("value")
        .with_columns(pl.col("value").str.strip_chars().str.slice(0, LONGEST_VALUE))
        .filter(pl.col("value") != "")
        .unique(["row", "value"])
    )
    if not entries.height:
        return None
    counts = entries.group_by("value").len().sort("len", "value", descending=[True, False])
    names = counts.get_column("value").head(MOST_VALUES)
    numbered = names.to_frame().with_row_index("code")
    coded = (
        entries.join(numbered, on="value", how="left")
        .select("row", pl.col("code").fill_null(len(names)).cast(pl.Int32))
        .unique()
        .sort("row", "code")
    )
    rows = coded.get_column("row").cast(pl.Int32).to_numpy()
    return ColumnValues(column, names.to_list(), rows, coded.get_column("code").to_numpy())


def choose_columns(names: Sequence[str]) -> Sequence[str]:
    """The first of these columns, which are indexed."""
    return names[:MOST_COLUMNS]
