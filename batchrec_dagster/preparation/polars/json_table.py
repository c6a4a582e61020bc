"""Tables in files of JSON Lines, which have one object a line.

Polars reads most lines. `parse_json` reads the lines for which Polars may give another result.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice

import polars as pl

from batchrec_dagster.preparation.column_names import locate_columns
from batchrec_dagster.preparation.file_form import Column, PreparationError
from batchrec_dagster.preparation.polars.row_table import FLAW, ROW, TEXT, RowTable

NOT_AN_OBJECT = "not a JSON object"
# The number of lines that are read to find the columns of a file.
SAMPLED_LINES = 10_000
# The only role that needs the value of a number and not the number's spelling.
_NUMERIC_ROLE = "rating"
# The pattern of numbers that Polars spells differently than the file: -0, 1e3, 1.50, and numbers of
# more digits than a 64-bit floating-point number keeps. It is used after a name and a colon.
_CHANGED_NUMBERS = (
    r"-0|-?[0-9]+(?:\.[0-9]*)?[eE]|-?[0-9]+\.[0-9]*0(?:[\s,}]|$)|-?[0-9]{9,}\.|-?[0-9]+\.[0-9]{7}"
)
# The pattern of two kinds of escapes. One is an escape within a name, because the name may be the
# name of a wanted column. The other is an escape of half a surrogate pair.
_ESCAPES = r'\\[^"]*"\s*:|\\u[dD][89a-fA-F]'
NESTED_RECIPE = 'write a query, as under "Nested JSON" in docs/own-data.md'


@dataclass(frozen=True)
class JsonTable(RowTable):
    """A table in a file of JSON Lines; see `RowTable`."""

    separator: str | None = None
    """The text that joins the values of a list to one text. With None, a list is a missing cell."""

    @cached_property
    def columns(self) -> Sequence[str]:
        names: dict[str, None] = {}
        for line_fields in self._read_first_lines():
            names.update(dict.fromkeys(line_fields))
        if not names:
            raise PreparationError(
                f"{self.opened.name}, line 1: {NOT_AN_OBJECT}; ratings.format json wants one a"
                f" line. For rows within one object, {NESTED_RECIPE}"
            )
        return list(names)

    @property
    def nested_columns(self) -> list[str]:
        """The columns that have only objects or lists in the first lines, and no values."""
        has_values: dict[str, bool] = {}
        for line_fields in self._read_first_lines():
            for name, value in line_fields.items():
                if value is not None:
                    is_value = not isinstance(value, dict | list)
                    has_values[name] = has_values.get(name, False) or is_value
        return [name for name in has_values if not has_values[name]]

    def read_cells(self, columns_by_role: Mapping[str, Column]) -> pl.LazyFrame:
        indexes = locate_columns(columns_by_role, self.columns, self.opened.name)
        names = {role: self.columns[index] for role, index in indexes.items()}
        lines = pl.scan_lines(
            self.opened.path, name=TEXT, row_index_name=ROW, n_rows=self.most, glob=False
        )
        return parse_json_cells(lines, names, self.separator)

    def _read_first_lines(self) -> Iterator[dict[str, object]]:
        """Yield the fields of each of the first lines; none for a line that is not an object."""
        with self.opened.path.open(encoding="utf-8-sig") as file:
            for line in islice(file, SAMPLED_LINES):
                yield parse_json(line) or {}


def describe_nested(columns: Sequence[str]) -> str:
    """Return a message about columns of objects or lists, with the fix."""
    verb = "has" if len(columns) == 1 else "have"
    return f"{', '.join(columns)} {verb} objects or lists in place of values: {NESTED_RECIPE}"


def parse_json_cells(
    lines: pl.LazyFrame, names: Mapping[str, str], separator: str | None = None
) -> pl.LazyFrame:
    """Return the cells of lines of JSON, without the blank lines; see `row_table`.

    lines: ROW, and the line in TEXT.
    names: the name of the column of each role.
    separator: the text that joins the values of a list to one text. With a separator, a row has a
    flaw if a cell is an object, or if a cell is a list with an object or a list in it. With None,
    lists and objects are missing cells.
    """
    cells = pl.Struct({FLAW: pl.String(), **dict.fromkeys(names, pl.String())})
    columns = pl.Struct(dict.fromkeys(names.values(), pl.String()))
    left_to_python = _build_pattern_for_python(names, with_lists=separator is not None)

    def decode_by_polars(text: pl.Series) -> pl.Series:
        decoded = text.str.json_decode(columns).struct.unnest()
        flaw = pl.lit(None, dtype=pl.String).alias(FLAW)
        return decoded.select(
            flaw, *(pl.col(name).alias(role) for role, name in names.items())
        ).to_struct(text.name)

    def decode_by_python(text: pl.Series) -> pl.Series:
        rows = [line and _read_cells(line, names, separator) for line in text]
        return pl.Series(text.name, rows, dtype=cells)

    def decode(text: pl.Series) -> pl.Series:
        is_for_python = text.str.contains(left_to_python) | ~text.str.starts_with("{")
        if is_for_python.all():
            return decode_by_python(text)
        nothing = pl.Series(text.name, [None], dtype=pl.String)
        try:
            by_polars = decode_by_polars(text.zip_with(~is_for_python, nothing))
        except pl.exceptions.PolarsError:
            # One of the lines is broken, and Polars does not say which.
            return decode_by_python(text)
        by_python = decode_by_python(text.zip_with(is_for_python, nothing))
        return by_polars.zip_with(~is_for_python, by_python)

    return (
        lines.with_columns(pl.col(ROW).cast(pl.Int64), pl.col(TEXT).str.strip_chars("\ufeff \t\r"))
        .filter(pl.col(TEXT) != "")
        .with_columns(
            pl.col(TEXT)
            .map_batches(decode, return_dtype=cells, is_elementwise=True)
            .struct.unnest()
        )
    )


def _read_cells(
    line: str, names: Mapping[str, str], separator: str | None
) -> dict[str, str | None]:
    """Return FLAW and the cells of a line. The parameters are described in `parse_json_cells`."""
    fields = parse_json(line)
    if fields is None:
        return {FLAW: NOT_AN_OBJECT}
    cells: dict[str, str | None] = {FLAW: None}
    for role, name in names.items():
        value = fields.get(name)
        if separator is None or not isinstance(value, list | dict):
            cells[role] = format_json_cell(value)
        elif isinstance(value, dict) or any(isinstance(part, list | dict) for part in value):
            cells[FLAW] = f"{name} is an object, or a list that is not of values"
        else:
            texts = (format_json_cell(part) for part in value)
            cells[role] = separator.join(text for text in texts if text is not None)
    return cells


def _build_pattern_for_python(names: Mapping[str, str], *, with_lists: bool) -> str:
    """Return a pattern that finds lines that Polars may read differently than `parse_json`.

    The pattern matches every line if JSON can spell one of the names in several ways.

    with_lists: whether the values of lists are wanted, which Polars does not return.
    """
    if any(re.search(r'["\\/\x00-\x1f]', name) for name in names.values()):
        return ""
    text_columns = {name for role, name in names.items() if role != _NUMERIC_ROLE}
    key_of_column = {name: f'"{re.escape(name)}"\\s*:' for name in names.values()}
    keys = list(key_of_column.values())
    text_keys = [key for name, key in key_of_column.items() if name in text_columns]
    # This pattern finds a number that Polars would spell differently, in a column of text.
    patterns = [_ESCAPES, f"(?:{'|'.join(text_keys)})\\s*(?:{_CHANGED_NUMBERS})"]
    # This pattern finds a column that is in the line twice. Python takes the last value.
    patterns += [f"{key}.*{key}" for key in keys]
    if with_lists:
        patterns.append(f"(?:{'|'.join(keys)})\\s*[\\[{{]")
    return "|".join(patterns)


def parse_json(line: str) -> dict[str, object] | None:
    """Return the object in the line, or None if the line is not an object.

    Numbers become the text that is written in the line.
    """
    try:
        value = json.loads(line.lstrip("\ufeff"), parse_float=str, parse_int=str)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def format_json_cell(value: object) -> str | None:
    """Return the value as text; None for a missing value, an object or a list."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            # JSON may contain halves of surrogate pairs, which are not text.
            return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        case float():
            return str(value)
    return None
