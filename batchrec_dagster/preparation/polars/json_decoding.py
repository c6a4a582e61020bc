"""The cells of lines of JSON as text: by Polars where it reads them as `layout.parse_json` does."""

from __future__ import annotations

import re
from collections.abc import Mapping

import polars as pl

from batchrec_dagster.preparation.layout import NOT_AN_OBJECT, format_json_cell, parse_json
from batchrec_dagster.preparation.polars.cells import FLAW, ROW, TEXT

# If Polars refuses lines, they are halved again and again to find which of them. This many or fewer
# are not halved, but read by Python.
FEW_LINES = 50
# The role of which only the value of a number counts, not how it is written.
_NUMERIC_ROLE = "rating"
# After a name and its colon, numbers that Polars does not give as they are written: -0, 1e3, 1.50,
# or of more digits than a 64-bit floating-point number keeps.
_CHANGED_NUMBERS = (
    r"-0|-?[0-9]+(?:\.[0-9]*)?[eE]|-?[0-9]+\.[0-9]*0(?:[\s,}]|$)|-?[0-9]{9,}\.|-?[0-9]+\.[0-9]{7}"
)
# An escape within a name, which may spell the name of a column, or half a character.
_ESCAPES = r'\\[^"]*"\s*:|\\u[dD][89a-fA-F]'


def parse_json_cells(
    lines: pl.LazyFrame, names: Mapping[str, str], separator: str | None = None
) -> pl.LazyFrame:
    """The cells of lines of JSON, without the blank lines; see `cells`.

    lines: ROW, and the line in TEXT.
    names: the name of the column of each role.
    separator: as in `JsonDecoder`.
    """
    decoder = JsonDecoder(names, separator)
    return (
        lines.with_columns(pl.col(ROW).cast(pl.Int64), pl.col(TEXT).str.strip_chars("\ufeff \t\r"))
        .filter(pl.col(TEXT) != "")
        .with_columns(
            pl.col(TEXT)
            .map_batches(decoder.decode, return_dtype=decoder.dtype, is_elementwise=True)
            .struct.unnest()
        )
    )


class JsonDecoder:
    """Decodes lines of JSON into structs of the type `dtype`.

    names: the name of the column of each role.
    separator: what stands between the values of a list in its text. With it, a row has a flaw if a
        cell is an object or holds one. With None, lists and objects are missing cells.

    A struct has FLAW, and under each role the text of its column.
    """

    def __init__(self, names: Mapping[str, str], separator: str | None = None) -> None:
        self.names = names
        self._separator = separator
        self.dtype = pl.Struct({FLAW: pl.String(), **dict.fromkeys(names, pl.String())})
        self._columns = pl.Struct(dict.fromkeys(names.values(), pl.String()))
        self._left_to_python = _build_pattern_for_python(names, with_lists=separator is not None)

    def decode(self, lines: pl.Series) -> pl.Series:
        """The structs of the lines, none of which is blank."""
        if self._left_to_python is None:
            return self._decode_by_python(lines)
        is_for_python = lines.str.contains(self._left_to_python) | ~lines.str.starts_with("{")
        if not is_for_python.any():
            return self._decode_by_polars(lines)
        # The lines for Polars come first, then those for Python. In the end all of them go back to
        # their places.
        order = is_for_python.arg_sort()
        sorted_lines = lines.gather(order)
        polars_count = len(lines) - int(is_for_python.sum())
        decoded = pl.concat(
            [
                self._decode_by_polars(sorted_lines.head(polars_count)),
                self._decode_by_python(sorted_lines.slice(polars_count)),
            ]
        )
        return decoded.gather(order.arg_sort())

    def _decode_by_polars(self, lines: pl.Series) -> pl.Series:
        if len(lines) <= FEW_LINES:
            return self._decode_by_python(lines)
        try:
            columns = lines.str.json_decode(self._columns).struct.unnest()
        except pl.exceptions.PolarsError:
            half = len(lines) // 2
            return pl.concat(
                [
                    self._decode_by_polars(lines.head(half)),
                    self._decode_by_polars(lines.slice(half)),
                ]
            )
        return columns.select(
            pl.lit(None, dtype=pl.String).alias(FLAW),
            *(pl.col(name).alias(role) for role, name in self.names.items()),
        ).to_struct(lines.name)

    def _decode_by_python(self, lines: pl.Series) -> pl.Series:
        return pl.Series(lines.name, [self._read_cells(line) for line in lines], dtype=self.dtype)

    def _read_cells(self, line: str) -> dict[str, str | None]:
        fields = parse_json(line)
        if fields is None:
            return {FLAW: NOT_AN_OBJECT}
        cells: dict[str, str | None] = {FLAW: None}
        for role, name in self.names.items():
            value = fields.get(name)
            if self._separator is None or not isinstance(value, list | dict):
                cells[role] = format_json_cell(value)
            elif isinstance(value, dict) or any(isinstance(part, list | dict) for part in value):
                cells[FLAW] = f"{name} is an object, or a list that is not of values"
            else:
                texts = (format_json_cell(part) for part in value)
                cells[role] = self._separator.join(text for text in texts if text is not None)
        return cells


def _build_pattern_for_python(names: Mapping[str, str], *, with_lists: bool) -> str | None:
    """What is in a line that Polars may read otherwise than `layout.parse_json`.

    None if every line is for Python, because JSON can spell one of the names in several ways.

    with_lists: whether the values of lists are wanted, which Polars does not give.
    """
    if any(re.search(r'["\\/\x00-\x1f]', name) for name in names.values()):
        return None
    text_columns = {name for role, name in names.items() if role != _NUMERIC_ROLE}
    key_of_column = {name: f'"{re.escape(name)}"\\s*:' for name in names.values()}
    keys = list(key_of_column.values())
    text_keys = [key for name, key in key_of_column.items() if name in text_columns]
    # A number in a column whose text counts, which Polars would write in another way.
    patterns = [_ESCAPES, f"(?:{'|'.join(text_keys)})\\s*(?:{_CHANGED_NUMBERS})"]
    # A column that is in the line twice, of which Python takes the last.
    patterns += [f"{key}.*{key}" for key in keys]
    if with_lists:
        patterns.append(f"(?:{'|'.join(keys)})\\s*[\\[{{]")
    return "|".join(patterns)
