"""JSON Lines: an object a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import polars as pl

from batchrec_dagster.preparation.errors import PreparationError
from batchrec_dagster.preparation.json_lines import LOOKED_AT, NOT_AN_OBJECT, cell, parse
from batchrec_dagster.preparation.layout import Column
from batchrec_dagster.preparation.opening import Opened
from batchrec_dagster.preparation.table import FLAW, ROW, TEXT, locate


@dataclass(frozen=True)
class JsonTable:
    opened: Opened
    # Only the first of the rows; None: all.
    most: int | None = None

    @cached_property
    def columns(self) -> Sequence[str]:
        found: dict[str, None] = {}
        with self.opened.path.open(encoding="utf-8-sig") as file:
            for line in islice(file, LOOKED_AT):
                found.update(dict.fromkeys(parse(line) or ()))
        if not found:
            raise PreparationError(
                f"{self.opened.name}, line 1: {NOT_AN_OBJECT}; ratings.format json wants one a line"
            )
        return list(found)

    def cells(self, wanted: Mapping[str, Column]) -> pl.LazyFrame:
        places = locate(wanted, self.columns, self.opened.name)
        names = {role: self.columns[place] for role, place in places.items()}
        schema = {FLAW: pl.String(), **dict.fromkeys(names, pl.String())}

        def decode(lines: pl.Series) -> pl.Series:
            return pl.Series(
                [_cells(parse(line), names) for line in lines], dtype=pl.Struct(schema)
            )

        return (
            pl.scan_lines(
                self.opened.path, name=TEXT, row_index_name=ROW, n_rows=self.most, glob=False
            )
            .with_columns(pl.col(ROW).cast(pl.Int64), pl.col(TEXT).str.strip_chars("\ufeff \t\r"))
            .filter(pl.col(TEXT) != "")
            .with_columns(
                pl.col(TEXT)
                .map_batches(decode, return_dtype=pl.Struct(schema), is_elementwise=True)
                .struct.unnest()
            )
        )

    def typed(self, wanted: Mapping[str, Column], types: Mapping[str, pl.DataType]) -> None:
        return None

    def place(self, row: int) -> str:
        return f"line {row + 1}"


def _cells(found: dict[str, object] | None, names: Mapping[str, str]) -> dict[str, str | None]:
    if found is None:
        return {FLAW: NOT_AN_OBJECT}
    return {FLAW: None, **{role: cell(found.get(name)) for role, name in names.items()}}
