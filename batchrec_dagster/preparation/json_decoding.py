"""Lines of JSON into cells of text: by Polars where it reads what `json_lines` does, else by that.

Polars is ten times as quick, and differs in a few things: numbers lose how they were written, of
two members of one name the first counts, half a character becomes a NUL. Lines in which that could
matter, and lines that Polars refuses, are left to `json_lines`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import polars as pl

from batchrec_dagster.preparation.json_lines import NOT_AN_OBJECT, cell, parse
from batchrec_dagster.preparation.table import FLAW

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
        """lines: str, none of them blank. The same for every line as `json_lines` has it."""
        if self._odd is None:
            return self._by_json_lines(lines)
        odd = lines.str.contains(self._odd) | ~lines.str.starts_with("{")
        if not odd.any():
            return self._by_polars(lines)
        place = odd.arg_sort()  # Of those that are not odd, then of those that are.
        count = len(lines) - int(odd.sum())
        parts = lines.gather(place)
        found = pl.concat(
            [self._by_polars(parts.head(count)), self._by_json_lines(parts.slice(count))]
        )
        return found.gather(place.arg_sort())

    def _by_polars(self, lines: pl.Series) -> pl.Series:
        if len(lines) <= FEW:
            return self._by_json_lines(lines)
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

    def _by_json_lines(self, lines: pl.Series) -> pl.Series:
        return pl.Series(lines.name, [self._cells(line) for line in lines], dtype=self.dtype)

    def _cells(self, line: str) -> dict[str, str | None]:
        found = parse(line)
        if found is None:
            return {FLAW: NOT_AN_OBJECT}
        return {FLAW: None, **{role: cell(found.get(name)) for role, name in self.names.items()}}


def _pattern(names: Mapping[str, str]) -> str | None:
    """What a line that is left to `json_lines` has in it; None where every line is, for JSON may
    have such names in several ways."""
    if any(re.search(r'["\\/\x00-\x1f]', name) for name in names.values()):
        return None
    values = {name for role, name in names.items() if role in _VALUES}
    values -= {name for role, name in names.items() if role not in _VALUES}
    keys = {name: f'"{re.escape(name)}"\\s*:' for name in names.values()}
    exact = "|".join(key for name, key in keys.items() if name not in values)
    return "|".join(
        [
            _ESCAPES,
            f"(?:{exact})\\s*(?:{_NUMBERS})",
            *(f"{key}.*{key}" for key in keys.values()),
        ]
    )
