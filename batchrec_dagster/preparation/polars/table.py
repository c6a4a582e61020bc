"""A file's rows as cells of text, whatever the file's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import polars as pl

from batchrec_dagster.preparation.layout import Column
from batchrec_dagster.preparation.polars.decoding import Opened

# Columns of `Table.cells` beside the roles'.
ROW, FLAW, TEXT = "row", "flaw", "text"


class Table(Protocol):
    """A file, opened. What cannot be used raises PreparationError."""

    @property
    def opened(self) -> Opened: ...

    @property
    def columns(self) -> Sequence[str]:
        """The columns' names; without a header `column_1` and so on."""

    def cells(self, wanted: Mapping[str, Column]) -> pl.LazyFrame:
        """A row each: ROW (from 0), FLAW (what is wrong with the row as such, or null), TEXT (the
        row as a person would find it), and the wanted columns as text under their keys."""

    def typed(self, wanted: Mapping[str, Column], types: Mapping[str, pl.DataType]) -> pl.LazyFrame:
        """The wanted columns under their keys, as these types or as text. Collecting it raises a
        PolarsError where a cell is of another type."""

    def place(self, row: int) -> str:
        """Where a person finds this row: `line 3`."""


def typed_cells(
    cells: pl.LazyFrame, wanted: Mapping[str, Column], types: Mapping[str, pl.DataType]
) -> pl.LazyFrame:
    """`Table.typed` by way of the cells; a row with a flaw is one without a user."""
    good = cells.with_columns(pl.when(pl.col(FLAW).is_null()).then(pl.col("user")).alias("user"))
    return good.select(pl.col(role).cast(types.get(role, pl.String())) for role in wanted)
