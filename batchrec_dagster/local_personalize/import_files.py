"""The reader of an import's CSV files, which checks each cell against the schema.

Cells are read as text first, so that an error can name the file and line.
Source of the rules: developer guide, "Preparing training data" and "Bulk import".
"""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import polars as pl

from batchrec_dagster.personalize import schemas
from batchrec_dagster.personalize.schemas import Field, Schema

from .errors import JobFailedError
from .imported_rows import STORED_TYPES

_HEADER_BYTES = 1 << 20
# A longer cell is cut in messages.
_MAX_SHOWN_LENGTH = 80
_QUOTED_CELL = re.compile(r"(?<=, line )(\d+: .+?)(: .*…|, but it is .*\.)$", re.DOTALL)


class ImportFile(NamedTuple):
    """A local CSV file, and its name in messages."""

    path: Path
    name: str


def import_files(
    sources: Sequence[ImportFile], schema: Schema, target: Path, event_types: Collection[str] = ()
) -> int:
    """Write the rows of all files to the Parquet file `target`, and return their number.

    event_types: the event types that the dataset has already.

    Raises JobFailedError if the data are not valid. The message names the file and line, or the
    missing part.
    """
    frames = [_check_rows(source, schema) for source in sources]
    rows = sum(count for _, count in frames)
    if schema.dataset_type == schemas.INTERACTIONS and rows < schemas.MIN_INTERACTIONS:
        raise JobFailedError(
            f"Create failed. The data has {rows} interactions, fewer than the minimum of"
            f" {schemas.MIN_INTERACTIONS} for an import."
        )
    pl.concat([frame for frame, _ in frames]).sink_parquet(target)
    if schema.field(schemas.EVENT_TYPE):
        _check_event_types(target, schema, event_types)
    return rows


def _check_event_types(target: Path, schema: Schema, existing: Collection[str]) -> None:
    types = unique_event_types(pl.scan_parquet(target))
    if not types:
        raise JobFailedError(
            "All values in the event_type column are either reserved keywords or null"
        )
    count = len(types | set(existing))
    columns = schemas.list_optional_columns(schema)
    if count + len(columns) > schemas.MAX_EVENT_TYPES:
        raise JobFailedError(
            f"Create failed. The data has {count} event types and the schema {len(columns)}"
            f" optional columns ({', '.join(columns)}); {schemas.MAX_EVENT_TYPES} at most are"
            " allowed together."
        )


def unique_event_types(rows: pl.LazyFrame) -> set[str]:
    """Return the distinct event types of interactions, without null."""
    return set(rows.select(pl.col(schemas.EVENT_TYPE).drop_nulls().unique()).collect().to_series())


def _check_rows(source: ImportFile, schema: Schema) -> tuple[pl.LazyFrame, int]:
    columns = _name_columns(source, schema)
    text = pl.scan_csv(
        source.path,
        has_header=False,
        skip_lines=1,
        schema=dict.fromkeys(columns, pl.String()),
        glob=False,
        raise_if_empty=False,
        # Any row may have fewer fields than the header, even the first row.
        missing_columns="insert",
    )
    wrong = [_is_invalid(field, schema).any().alias(field.name) for field in schema.fields]
    try:
        counts = text.select(pl.len().alias(" rows"), *wrong).collect(engine="streaming")
    except pl.exceptions.PolarsError as error:
        raise JobFailedError(_explain_unreadable(source, len(columns), str(error))) from None
    rows, *invalid = counts.row(0)
    if any(invalid):
        raise JobFailedError(_describe_first_invalid_cell(source, schema, text))
    return text.select(_parse(field) for field in schema.fields), rows


def _name_columns(source: ImportFile, schema: Schema) -> list[str]:
    """Return a name for each column of the file.

    The columns of the schema keep their names. All other columns get numbers. The columns may be in
    any order. AWS's own notebooks import files with additional columns, in an order of their own.

    Raises JobFailedError if the header is not valid.
    """
    with source.path.open("rb") as file:
        start = file.readline(_HEADER_BYTES)
    try:
        header = next(csv.reader([start.decode("utf-8-sig")]), [])
    except (UnicodeDecodeError, csv.Error):
        raise JobFailedError(f"{source.name}, line 1: the header is not CSV in UTF-8.") from None
    if not header:
        raise JobFailedError(f"{source.name} is empty: it needs a header and rows.")
    missing = [column for column in schema.columns if column not in header]
    if missing:
        raise JobFailedError(
            f"Input CSV is missing the following columns:[{', '.join(missing)}] ({source.name})"
        )
    for column in schema.columns:
        if header.count(column) > 1:
            raise JobFailedError(f"{source.name}, line 1: there is more than one column {column}.")
    return [name if name in schema.columns else f" {n}" for n, name in enumerate(header)]


def _parse(field: Field) -> pl.Expr:
    cell = pl.col(field.name)
    if field.type == "boolean":
        lower = cell.str.to_lowercase()
        value = pl.when(lower == "true").then(True).when(lower == "false").then(False)
        return value.otherwise(None).alias(field.name)
    return cell.cast(STORED_TYPES[field.type], strict=False)


def _list_cell_checks(field: Field, schema: Schema) -> Iterator[tuple[str, pl.Expr]]:
    """Yield each error that a cell of this field can have, with an expression that finds it."""
    cell, name = pl.col(field.name), field.name
    if not field.nullable:
        # Polars reads a quoted "" as an empty string, not as null.
        yield f"{name} is empty", cell.is_null() | (cell == "")
    if field.type != "string":
        parsed = _parse(field)
        good = parsed.is_not_null()
        if field.type in ("float", "double"):
            good &= parsed.is_finite()
        yield f"{name} must be of type {field.type}", cell.is_not_null() & ~good
    elif name in (schemas.USER_ID, schemas.ITEM_ID):
        too_long = f"{name} is longer than {schemas.MAX_ID_LENGTH} characters"
        yield too_long, cell.str.len_chars() > schemas.MAX_ID_LENGTH
    elif name == schemas.IMPRESSION or field.categorical:
        most = schemas.MAX_CATEGORICAL_LENGTH
        values = cell.str.split(schemas.VALUE_SEPARATOR)
        too_long = f"{name} has a value longer than {most} characters"
        yield too_long, values.list.eval(pl.element().str.len_chars() > most).list.any()
    elif schema.dataset_type == schemas.ITEMS and not field.textual:
        most = schemas.MAX_CATEGORICAL_LENGTH
        yield f"{name} is longer than {most} characters", cell.str.len_chars() > most


def _is_invalid(field: Field, schema: Schema) -> pl.Expr:
    checks = [check.fill_null(value=False) for _, check in _list_cell_checks(field, schema)]
    return pl.any_horizontal(checks or [pl.lit(value=False)])


def _describe_first_invalid_cell(source: ImportFile, schema: Schema, text: pl.LazyFrame) -> str:
    wrong = pl.any_horizontal(_is_invalid(field, schema) for field in schema.fields)
    row = text.with_row_index(" row").filter(wrong).head(1).collect()
    index: int = row.item(0, " row")
    breaks = pl.sum_horizontal(pl.all().str.count_matches("\n", literal=True).fill_null(0).sum())
    line = 2 + index + int(text.head(index).select(breaks).collect().item())
    for field in schema.fields:
        for reason, check in _list_cell_checks(field, schema):
            if row.select(check.fill_null(value=False)).item():
                value = row.item(0, field.name) or ""
                if len(value) > _MAX_SHOWN_LENGTH:
                    actual = f": {value[:_MAX_SHOWN_LENGTH]}…"
                else:
                    actual = f", but it is {value!r}." if value else "."
                return f"{source.name}, line {line}: {reason}{actual}"
    raise AssertionError("a row that failed its checks passes them")


def remove_quoted_cell(message: str) -> str:
    """Return an error message without the quoted cell, which may be personal data."""
    return _QUOTED_CELL.sub(r"\1.", message)


def _explain_unreadable(source: ImportFile, width: int, reason: str) -> str:
    """Return a message with the line that Polars cannot read.

    The search for the line is slow but exact.

    width: the number of fields in the header.
    reason: the message of Polars, in case no bad line is found.
    """
    with source.path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode()
            except UnicodeDecodeError:
                return f"{source.name}, line {number}: the file is not encoded in UTF-8."
    with source.path.open(newline="", encoding="utf-8-sig") as text:
        rows = csv.reader(text, strict=True)
        try:
            for row in rows:
                if len(row) > width:
                    return (
                        f"{source.name}, line {rows.line_num}: {len(row)} fields, but the header"
                        f" has {width}."
                    )
        except csv.Error as error:
            return f"{source.name}, line {rows.line_num}: {error}."
    return f"{source.name} cannot be read as CSV: {reason.partition(chr(10))[0]}"
