"""JSON Lines: an object a line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import polars as pl

from batchrec_dagster.preparation.layout import (
    JSON_LINES_SAMPLED,
    NOT_AN_OBJECT,
    Column,
    PreparationError,
    json_cell,
    locate,
    parse_json,
)
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster.preparation.polars.tables import FLAW, ROW, TEXT, typed_cells

# Lines that are not worth being parted in order to find the one that Polars refuses.
FEW = 50
# Roles of which only the value of a number counts, not how it is written.
_VALUES = ("rating",)
# After a name and its colon, numbers that Polars does not give as they are written: -0, 1e3, 1.50,
# or of more digits than a 64-bit floating-point number keeps.
_NUMBERS = (
    r"-0|-?[0-9]+(?:\.[0-9]*)?[eE]|-?[0-9]+\.[0-9]*0(?:[\s,}]|$)|-?[0-9]{9,}\.|-?[0-9]+\.[0-9]{7}"
)
# A name with an escape in it, which may be one that is looked for; half a character.
_ESCAPES = r'\\[^"]*"\s*:|\\u[dD][89a-fA-F]'


class Decoding:
    """Decodes lines into `dtype`: FLAW, and under each role the column of that name.

    names: the columns by role.
    """

    def __init__(self, names: Mapping[str, str]) -> None:
        self.names = names
        self.dtype = pl.Struct({FLAW: pl.String(), **dict.fromkeys(names, pl.String())})
        self._columns = pl.Struct(dict.fromkeys(names.values(), pl.String()))
        self._odd = _pattern(names)

    def decode(self, lines: pl.Series) -> pl.Series:
        """lines: str, none of them blank. The same for every line as `layout.parse_json`."""
        if self._odd is None:
            return self._by_python(lines)
        odd = lines.str.contains(self._odd) | ~lines.str.starts_with("{")
        if not odd.any():
            return self._by_polars(lines)
        place = odd.arg_sort()  # Of those that are not odd, then of those that are.
        count = len(lines) - int(odd.sum())
        parts = lines.gather(place)
        found = pl.concat([self._by_polars(parts.head(count)), self._by_python(parts.slice(count))])
        return found.gather(place.arg_sort())

    def _by_polars(self, lines: pl.Series) -> pl.Series:
        if len(lines) <= FEW:
            return self._by_python(lines)
        try:
            found = lines.str.json_decode(self._columns).struct.unnest()
        except pl.exceptions.PolarsError:
            half = len(lines) // 2
            return pl.concat(
                [self._by_polars(lines.head(half)), self._by_polars(lines.slice(half))]
            )
        return found.select(
            pl.lit(None, dtype=pl.String).alias(FLAW),
            *(pl.col(name).alias(role) for role, name in self.names.items()),
        ).to_struct(lines.name)

    def _by_python(self, lines: pl.Series) -> pl.Series:
        return pl.Series(lines.name, [self._cells(line) for line in lines], dtype=self.dtype)

    def _cells(self, line: str) -> dict[str, str | None]:
        found = parse_json(line)
        if found is None:
            return {FLAW: NOT_AN_OBJECT}
        return {
            FLAW: None,
            **{role: json_cell(found.get(name)) for role, name in self.names.items()},
        }


def _pattern(names: Mapping[str, str]) -> str | None:
    """What a line that is left to `layout.parse_json` has in it; None where every line is: JSON may
    have such names in several ways."""
    if any(re.search(r'["\\/\x00-\x1f]', name) for name in names.values()):
        return None
    values = {name for role, name in names.items() if role in _VALUES}
    values -= {name for role, name in names.items() if role not in _VALUES}
    keys = {name: f'"{re.escape(name)}"\\s*:' for name in names.values()}
    exact = "|".join(key for name, key in keys.items() if name not in values)
    return "|".join(
        [_ESCAPES, f"(?:{exact})\\s*(?:{_NUMBERS})", *(f"{key}.*{key}" for key in keys.values())]
    )


@dataclass(frozen=True)
class JsonTable:
    opened: OpenedFile
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
        return self.opened.place(row + 1)

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
            for line in islice(file, JSON_LINES_SAMPLED):
                yield parse_json(line) or {}
