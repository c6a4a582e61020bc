"""The contract of every format's reader, and the one of Parquet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import polars as pl

from batchrec_dagster.personalize.schemas import MAX_ID_LENGTH
from batchrec_dagster.preparation.layout import Column, PreparationError, locate, setting
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster.preparation.sources.limits import CELLS_OF_A_LINE, KB, MAX_LINE_KB, Limits

# Columns of `Table.cells`, next to the roles'.
ROW, FLAW, TEXT = "row", "flaw", "text"
# Characters of a cell in TEXT, of which messages show the first.
SHOWN = 200


class RowTable(Protocol):
    """A file, opened. What cannot be used raises PreparationError."""

    @property
    def opened(self) -> OpenedFile: ...

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


@dataclass(frozen=True)
class ParquetTable:
    opened: OpenedFile

    @cached_property
    def schema(self) -> Mapping[str, pl.DataType]:
        try:
            return pl.scan_parquet(self.opened.path, glob=False).collect_schema()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise damaged(self.opened, error) from error

    @property
    def columns(self) -> Sequence[str]:
        return list(self.schema)

    def cells(self, wanted: Mapping[str, Column]) -> pl.LazyFrame:
        names = self._names(wanted)
        cells = {role: self._text(role, name) for role, name in names.items()}
        for role in {"user", "item"} & names.keys():
            cells[role] = cells[role].str.head(MAX_ID_LENGTH + 1)  # Enough to refuse it.
        # A dictionary makes one huge cell into millions of them: no step may copy such cells.
        shown = [cell.str.head(SHOWN) for cell in cells.values()]
        most = Limits.from_environment().cell_bytes
        flaw = f"a cell of more than {most / KB:g} KB ({MAX_LINE_KB} / {CELLS_OF_A_LINE})"
        return pl.scan_parquet(self.opened.path, row_index_name=ROW, glob=False).select(
            pl.col(ROW).cast(pl.Int64),
            pl.when(self._too_long(names.values())).then(pl.lit(flaw)).alias(FLAW),
            pl.concat_str(shown, separator=",", ignore_nulls=True).alias(TEXT),
            **{
                role: pl.when(~self._too_long([names[role]])).then(cell)
                for role, cell in cells.items()
            },
        )

    def typed(self, wanted: Mapping[str, Column], types: Mapping[str, pl.DataType]) -> pl.LazyFrame:
        names = self._names(wanted)
        good = ~self._too_long(names.values())
        return pl.scan_parquet(self.opened.path, glob=False).select(
            # As in `typed_cells`, a row with a flaw is one without a user.
            pl.when(good).then(self._typed(role, name, types.get(role, pl.String()))).alias(role)
            for role, name in names.items()
        )

    def _names(self, wanted: Mapping[str, Column]) -> dict[str, str]:
        places = locate(wanted, self.columns, self.opened.name)
        return {role: self.columns[place] for role, place in places.items()}

    def _too_long(self, names: Iterable[str]) -> pl.Expr:
        most = Limits.from_environment().cell_bytes
        texts = [name for name in names if self.schema[name] == pl.String]
        return pl.any_horizontal(
            pl.lit(value=False),
            *(pl.col(name).str.len_bytes().fill_null(0) > most for name in texts),
        )

    def _typed(self, role: str, name: str, wanted: pl.DataType) -> pl.Expr:
        kind = self.schema[name]
        # The others by way of their text, so that they mean the same as in a file of text.
        if wanted.is_numeric() and (kind.is_integer() or kind == wanted):
            return pl.col(name).cast(wanted)
        if role == "timestamp" and wanted.is_numeric() and kind in (pl.Datetime, pl.Date):
            return pl.col(name).dt.epoch("s").cast(wanted)
        return self._text(role, name).cast(wanted)

    def place(self, row: int) -> str:
        return f"row {row + 1}"

    def _text(self, role: str, name: str) -> pl.Expr:
        kind, column = self.schema[name], pl.col(name)
        if is_without_text(kind):
            raise self._unfit(role, name, "a column of text or numbers")
        if role in ("user", "item") and kind.is_float():
            raise self._unfit(
                role, name, "ids as text or whole numbers, or convert them in ratings.query"
            )
        if role == "timestamp" and kind == pl.Date:
            return column.dt.strftime("%Y-%m-%d")
        if role == "timestamp" and isinstance(kind, pl.Datetime):
            if kind.time_zone is None:
                return column.dt.strftime("%Y-%m-%dT%H:%M:%S")
            return column.dt.convert_time_zone("UTC").dt.strftime("%Y-%m-%dT%H:%M:%SZ")
        return column.cast(pl.String)

    def _unfit(self, role: str, name: str, wanted: str) -> PreparationError:
        return PreparationError(
            f"{self.opened.name}: {name!r} ({setting(role)}) is of type {self.schema[name]}; write"
            f" the file with {wanted}"
        )


def is_without_text(kind: pl.DataType) -> bool:
    """Whether cells of this type cannot be read as text: lists, structures and bytes."""
    return kind.is_nested() or kind in (pl.Binary, pl.Object)


def damaged(opened: OpenedFile, error: Exception) -> PreparationError:
    reason = str(error).partition("\n")[0]
    return PreparationError(f"{opened.name} is damaged or not Parquet ({reason}): copy it again")
