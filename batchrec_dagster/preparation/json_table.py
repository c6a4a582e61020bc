"""JSON Lines: an object a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import polars as pl

from batchrec_dagster.preparation.errors import PreparationError
from batchrec_dagster.preparation.json_decoding import Decoding
from batchrec_dagster.preparation.json_lines import LOOKED_AT, NOT_AN_OBJECT, parse
from batchrec_dagster.preparation.layout import Column
from batchrec_dagster.preparation.locating import locate
from batchrec_dagster.preparation.opening import Opened
from batchrec_dagster.preparation.table import ROW, TEXT, typed_cells


@dataclass(frozen=True)
class JsonTable:
    opened: Opened
    # Only the first of the rows; None: all.
    most: int | None = None

    @cached_property
    def columns(self) -> Sequence[str]:
        found: dict[str, None] = {}
        for names in self._first_lines():
            found.update(dict.fromkeys(names))
        if not found:
            raise PreparationError(
                f"{self.opened.name}, line 1: {NOT_AN_OBJECT}; ratings.format json wants one a line"
            )
        return list(found)

    def cells(self, wanted: Mapping[str, Column]) -> pl.LazyFrame:
        decoding = Decoding(self._located(wanted))
        return (
            pl.scan_lines(
                self.opened.path, name=TEXT, row_index_name=ROW, n_rows=self.most, glob=False
            )
            .with_columns(pl.col(ROW).cast(pl.Int64), pl.col(TEXT).str.strip_chars("\ufeff \t\r"))
            .filter(pl.col(TEXT) != "")
            .with_columns(
                pl.col(TEXT)
                .map_batches(decoding.decode, return_dtype=decoding.dtype, is_elementwise=True)
                .struct.unnest()
            )
        )

    def typed(self, wanted: Mapping[str, Column], types: Mapping[str, pl.DataType]) -> pl.LazyFrame:
        return typed_cells(self.cells(wanted), wanted, types)

    def place(self, row: int) -> str:
        return f"line {row + 1}"

    def _located(self, wanted: Mapping[str, Column]) -> dict[str, str]:
        """The names of the wanted columns by role; no more lines are looked at than it takes."""
        missing = set(wanted.values())
        for names in self._first_lines():
            missing -= names.keys()
            if not missing:
                return {role: str(name) for role, name in wanted.items()}
        places = locate(wanted, self.columns, self.opened.name)
        return {role: self.columns[place] for role, place in places.items()}

    def _first_lines(self) -> Iterator[dict[str, object]]:
        with self.opened.path.open(encoding="utf-8-sig") as file:
            for line in islice(file, LOOKED_AT):
                yield parse(line) or {}
