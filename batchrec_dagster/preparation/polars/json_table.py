"""Files of JSON Lines: one object a line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import polars as pl

from batchrec_dagster.preparation.column_names import locate_columns
from batchrec_dagster.preparation.layout import (
    JSON_LINES_SAMPLED,
    NOT_AN_OBJECT,
    Column,
    PreparationError,
    parse_json,
)
from batchrec_dagster.preparation.polars.cells import ROW, TEXT
from batchrec_dagster.preparation.polars.json_decoding import parse_json_cells
from batchrec_dagster.preparation.polars.tables import RowTable

NESTED_RECIPE = 'write a query, as under "Nested JSON" in docs/own-data.md'


@dataclass(frozen=True)
class JsonTable(RowTable):
    """A file of JSON Lines; see `RowTable`."""

    separator: str | None = None
    """What stands between the values of a list in its text; None: a list is a missing cell."""

    @cached_property
    def columns(self) -> Sequence[str]:
        names: dict[str, None] = {}
        for line_fields in self._first_lines():
            names.update(dict.fromkeys(line_fields))
        if not names:
            raise PreparationError(
                f"{self.opened.name}, line 1: {NOT_AN_OBJECT}; ratings.format json wants one a"
                f" line. For rows within one object, {NESTED_RECIPE}"
            )
        return list(names)

    @property
    def nested_columns(self) -> list[str]:
        """The columns that have only objects or lists in the first lines, in place of values."""
        has_values: dict[str, bool] = {}
        for line_fields in self._first_lines():
            for name, value in line_fields.items():
                if value is not None:
                    is_value = not isinstance(value, dict | list)
                    has_values[name] = has_values.get(name, False) or is_value
        return [name for name in has_values if not has_values[name]]

    def read_cells(self, columns_by_role: Mapping[str, Column]) -> pl.LazyFrame:
        places = locate_columns(columns_by_role, self.columns, self.opened.name)
        names = {role: self.columns[place] for role, place in places.items()}
        lines = pl.scan_lines(
            self.opened.path, name=TEXT, row_index_name=ROW, n_rows=self.most, glob=False
        )
        return parse_json_cells(lines, names, self.separator)

    def _first_lines(self) -> Iterator[dict[str, object]]:
        """The fields of each of the first lines; none of a line that is not an object."""
        with self.opened.path.open(encoding="utf-8-sig") as file:
            for line in islice(file, JSON_LINES_SAMPLED):
                yield parse_json(line) or {}


def describe_nested(columns: Sequence[str]) -> str:
    """What to do about columns of objects or lists, in words."""
    verb = "has" if len(columns) == 1 else "have"
    return f"{', '.join(columns)} {verb} objects or lists in place of values: {NESTED_RECIPE}"
