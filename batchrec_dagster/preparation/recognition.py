"""How the files are read, as far as it is not declared: found out from the first one that has rows.

What is found is reported; what is not found is an error that lists the columns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import polars as pl

from batchrec_dagster.preparation.layout import (
    AUTO,
    DATETIME,
    NO_TIMES,
    NULL_VALUES,
    Column,
    Decimal,
    Encoding,
    Format,
    Layout,
    PreparationError,
    locate,
    recognise,
)
from batchrec_dagster.preparation.polars.csv_table import DELIMITERS, CsvTable, pointed
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster.preparation.polars.json_table import JsonTable
from batchrec_dagster.preparation.polars.rows import (
    RowConditionError,
    check_types,
    filter_columns,
    typed,
)
from batchrec_dagster.preparation.polars.tables import ParquetTable, RowTable
from batchrec_dagster.preparation.rules import Rules

_AnyTable = CsvTable | JsonTable | ParquetTable

REQUIRED = ("user", "item", "timestamp")
NEEDLESS = ("timestamp", NO_TIMES)
# Rows that the columns' types are inferred from.
LOOKED_AT = 1000


@dataclass(frozen=True)
class ReadSettings:
    """What is declared of how to read the files. None, or nothing in a mapping: to be found out.

    `columns` goes from role to column; `types` from column to string, long, double or boolean.
    """

    format: Format | None = None
    delimiter: str | None = None
    encoding: Encoding = "auto"
    quoted: bool = True
    columns: Mapping[str, Column] = field(default_factory=dict)
    timestamp_unit: str = AUTO
    types: Mapping[str, str] = field(default_factory=dict)
    decimal: Decimal = "."
    null_values: Sequence[str] = NULL_VALUES
    timezone: str | None = None

    @classmethod
    def of(cls, layout: Layout) -> ReadSettings:
        """The layout of a source that is known, as a declaration."""
        return cls(**{each.name: getattr(layout, each.name) for each in fields(cls)})


@dataclass(frozen=True)
class RecognisedLayout:
    """The layout; the type of every column of the file, by its name; the roles recognised;
    `warnings`: what can be read but is probably not meant."""

    layout: Layout
    types: Mapping[str, str]
    recognised: Mapping[str, str]
    warnings: Sequence[str] = ()


def recognise_layout(opened: OpenedFile, reading: ReadSettings, rules: Rules) -> RecognisedLayout:
    """How to read files such as this one. Raises PreparationError."""
    form = reading.format or opened.format
    delimiter = _delimiter(opened, reading) if form == "csv" else ","
    columns: dict[str, Any] = dict(reading.columns)
    recognised: dict[str, str] = {}
    has_header = form != "csv" or not any(isinstance(c, int) for c in columns.values())
    table = _table(opened, form, delimiter, has_header=has_header, quoted=reading.quoted)
    if form != "csv" and any(isinstance(column, int) for column in columns.values()):
        raise PreparationError(
            f"{opened.name} is {form}, whose columns have names: give these in ratings.columns, of"
            f" {', '.join(table.columns)}"
        )
    if form != "csv" and reading.decimal != ".":
        raise PreparationError(
            f"{opened.name} is {form}, whose numbers have a point: ratings.decimal is of csv"
        )
    required = [role for role in REQUIRED if (role, reading.timestamp_unit) != NEEDLESS]
    needed = [*required, *(["rating"] if rules.min_rating is not None else [])]
    if not columns and rules.event_type:
        needed.append("event_type")
    if set(needed) - columns.keys() and has_header:
        names = recognise(table.columns)
        recognised = {r: names[r] for r in needed if r in names and r not in columns}
        columns.update(recognised)
    if missing := [role for role in needed if role not in columns and role != "event_type"]:
        raise _not_recognised(table, missing, form)
    layout = Layout(
        delimiter=delimiter,
        timestamp_unit=_unit(table, columns.get("timestamp"), reading.timestamp_unit),
        format=form,
        encoding=reading.encoding,
        quoted=reading.quoted,
        decimal=reading.decimal,
        null_values=reading.null_values,
        timezone=reading.timezone,
        **{"rating": None, "timestamp": None, **columns},
    )
    types = {**_types(table, layout), **reading.types}
    warnings = [
        f"{opened.name}: the {role} ids (column {column}) are decimals such as {example}, as pandas"
        f" writes a column with missing values: {example} is not the id of {example.split('.')[0]}."
        " Write them as whole numbers, or convert them in ratings.query"
        for role, column in (("user", layout.user), ("item", layout.item))
        if (example := _decimal_id(table, column, types))
    ]
    return RecognisedLayout(_with_types(layout, rules, types, table), types, recognised, warnings)


def open_table(opened: OpenedFile, layout: Layout) -> RowTable:
    """The file, to be read in this layout."""
    table = _table(
        opened, layout.format, layout.delimiter, has_header=layout.has_header, quoted=layout.quoted
    )
    if isinstance(table, CsvTable):
        return replace(table, with_comma=layout.with_comma)
    return table


def _table(
    opened: OpenedFile, form: Format, delimiter: str, *, has_header: bool, quoted: bool
) -> _AnyTable:
    if form == "parquet":
        return ParquetTable(opened)
    if form == "json":
        return JsonTable(opened)
    return CsvTable(opened, delimiter, has_header, quoted)


def _delimiter(opened: OpenedFile, reading: ReadSettings) -> str:
    """The declared one; else the one that makes names of the first line that are declared, or
    recognised where none is; else a comma."""
    if reading.delimiter is not None:
        return reading.delimiter
    headers = {
        delimiter: CsvTable(opened, delimiter, has_header=True, quoted=reading.quoted).columns
        for delimiter in DELIMITERS
    }
    if reading.columns:
        declared = set(reading.columns.values())
        return next((by for by in (",", *DELIMITERS) if declared <= set(headers[by])), ",")
    found = {delimiter: len(recognise(names)) for delimiter, names in headers.items()}
    best = max(found, key=lambda delimiter: found[delimiter])
    return best if found[best] >= len(REQUIRED) else ","


def _unit(table: RowTable, column: Column | None, declared: str) -> str:
    if isinstance(table, ParquetTable) and isinstance(column, str):
        kind = table.schema.get(column)
        if kind is not None and kind.is_temporal():
            return DATETIME
    return declared


def _types(table: _AnyTable, layout: Layout) -> dict[str, str]:
    """The type of each column by its name: of Parquet its own, else what the first rows look
    like. Numbers with a leading zero are text."""
    if isinstance(table, ParquetTable):
        return {name: str(kind).lower() for name, kind in table.schema.items()}
    names = list(table.columns)
    keys = {str(place): layout.named(name) for place, name in enumerate(names)}
    try:
        first = replace(table, most=LOOKED_AT)
        rows = first.cells(keys).select(*keys).collect()
    except pl.exceptions.PolarsError:
        # The reading of the rows reports a quote that does not end.
        return dict.fromkeys(names, "string")
    return {
        name: _type(rows.get_column(str(place)), layout.decimal) for place, name in enumerate(names)
    }


def _decimal_id(table: _AnyTable, column: Column, types: Mapping[str, str]) -> str | None:
    """An id such as 913.0, if all of the first rows are numbers."""
    # A position that the file lacks is refused where the rows are read.
    name = column if isinstance(column, str) else dict(enumerate(types, 1)).get(column)
    if types.get(name or "") != "double" or isinstance(table, ParquetTable):
        return None
    cells = replace(table, most=LOOKED_AT).cells({"id": column}).select(pl.col("id").drop_nulls())
    found = cells.filter(pl.col("id").str.contains(r"^[0-9]+\.0+$")).head(1).collect()
    return found.item() if found.height else None


def _type(cells: pl.Series, decimal: Decimal) -> str:
    given = cells.drop_nulls().str.strip_chars(" \t")
    given = given.filter(given != "")
    if not len(given) or given.str.contains("^[+-]?0[0-9]").any():
        return "string"
    for kind in ("long", "double", "boolean"):
        text = pl.lit(given)
        if kind == "double" and decimal == ",":
            text = pointed(text)
        if not pl.select(typed(text, kind).null_count()).item():
            return kind
    return "string"


def _with_types(layout: Layout, rules: Rules, types: Mapping[str, str], table: RowTable) -> Layout:
    if rules.filter is None:
        return layout
    names = filter_columns(rules.filter)
    name = table.opened.name
    locate({f"filter {column}": layout.named(column) for column in names}, table.columns, name)
    of_filter = {column: _simple(types[column]) for column in names}
    try:
        check_types(rules.filter, of_filter)
    except RowConditionError as error:
        raise PreparationError(f"{name}: interactions.filter: {error}") from error
    return replace(layout, types=of_filter)


def _simple(kind: str) -> str:
    if re.match(r"u?int\d", kind):
        return "long"
    if re.match(r"float\d|decimal", kind):
        return "double"
    return kind if kind in ("long", "double", "boolean") else "string"


def _not_recognised(table: RowTable, missing: Sequence[str], form: Format) -> PreparationError:
    columns = table.columns
    if form == "csv" and all(re.fullmatch(r"[0-9.]+", name) for name in columns):
        return PreparationError(
            f"{table.opened.name} has no names in line 1 ({', '.join(columns)}): set"
            " ratings.columns by position, such as {user: 1, item: 2,"
            " rating: 3, timestamp: 4}"
        )
    hint = ""
    if "timestamp" in missing:
        hint = "; if there is no time, set ratings.columns.timestamp: none"
    return PreparationError(
        f"{table.opened.name}: could not recognise the {' and '.join(missing)} column. Found:"
        f" {', '.join(filter(None, columns))}. Set ratings.columns{hint}"
    )
