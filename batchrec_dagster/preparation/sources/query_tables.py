"""Files as tables that DuckDB can query, with text kept as it is written.

Every column of CSV, every string of JSON and every Hive partition of a path (`day=2026-01-02/`) is
text, so that an id such as 007 or a UUID in capitals stays as it is written. A query converts the
values that it computes with. Parquet keeps its types.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchrec_dagster.preparation.csv_form import (
    names_columns,
    read_first_records,
    read_separator_line,
    recognise_delimiter,
    strip_names,
    surely_names_columns,
)
from batchrec_dagster.preparation.file_form import NO_HEADER, FileForm
from batchrec_dagster.preparation.polars.decoding import OpenedFile
from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import Limits

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_HIVE = re.compile(r"[^/=]+=[^/]*")
# The types that DuckDB guesses for strings of JSON, and its type for values of several types.
# Columns with these types become text.
_TEXTS = {
    *("date", "json", "time", "timestamp", "timestamp with time zone", "uuid", "varchar"),
    *("timestamp_s", "timestamp_ms", "timestamp_ns", "time with time zone", "time_ns"),
}
# The most fields of a JSON object that becomes a struct. An object with more fields, such as one
# with a field for each product, becomes a map.
MOST_FIELDS = 1_000
_LEAST_LINE = 16 * 1024 * 1024


@dataclass(frozen=True)
class TableFile:
    """A file of a table."""

    opened: OpenedFile

    link: Path
    """The path at which DuckDB reads the file, below the folders of the file's partitions."""


def list_partitions(path: str) -> list[str]:
    """Return the folders `key=value` of a path."""
    return [part for part in path.split("/")[:-1] if _HIVE.fullmatch(part)]


def build_select(
    connection: DuckDBPyConnection,
    files: Sequence[TableFile],
    form: FileForm,
    sql: str,
) -> str:
    """Return the SELECT of the rows of all files, with columns matched by name.

    sql: the user's query of the files.
    form: the declared form of this table.

    Raises FileError.
    """
    filled = [file for file in files if file.opened.size]
    if not filled:
        raise FileError("it is empty: check what writes it")
    forms = {file.opened.format: file.opened.name for file in reversed(filled)}
    if len(forms) > 1:
        formats = " and ".join(f"{name} is {form}" for form, name in forms.items())
        raise FileError(f"its files are of several formats ({formats}): declare a table for each")
    keys = {_list_partition_keys(file) for file in filled}
    hive = {"hive_partitioning": len(keys) == 1 and () not in keys, "hive_types_autocast": False}
    if form.header is not None and "csv" not in forms:
        raise FileError(f"header is of csv, and {filled[0].opened.name} is not: omit it")
    if "parquet" in forms:
        return f"SELECT * FROM {_build_call('read_parquet', filled, union_by_name=True, **hive)}"  # noqa: S608
    if "json" in forms:
        return _select_json(connection, filled, hive)
    return _select_csv(filled, form, sql, hive)


def _list_partition_keys(file: TableFile) -> tuple[str, ...]:
    """Return the keys of the file's partitions, which are columns too."""
    return tuple(part.partition("=")[0] for part in list_partitions(file.link.as_posix()))


@dataclass(frozen=True)
class _CsvStart:
    """The start of a CSV file, before its rows."""

    delimiter: str
    skipped: int
    """The number of lines before the header, or before the first row if there is no header."""
    columns: tuple[str, ...]
    has_header: bool


def _select_csv(
    files: Sequence[TableFile],
    form: FileForm,
    sql: str,
    hive: Mapping[str, Any],
) -> str:
    longest = max(_LEAST_LINE, Limits.from_environment().line_bytes)
    parts = []
    starts = _recognise_starts([file.opened for file in files], form, sql)
    # Consecutive files with the same start share a call, which keeps the order of the files.
    for start, group in groupby(zip(starts, files, strict=True), key=lambda pair: pair[0]):
        quote = '"' if form.quoted and start.delimiter != "::" else ""
        call = _build_call(
            "read_csv",
            [file for _, file in group],
            auto_detect=False,
            header=start.has_header,
            skip=start.skipped,
            delim=start.delimiter,
            quote=quote,
            escape=quote,
            columns=dict.fromkeys(start.columns, "VARCHAR"),
            max_line_size=longest,
            **hive,
        )
        parts.append(f"SELECT * FROM {call}")  # noqa: S608
    return " UNION ALL BY NAME ".join(parts)


def _recognise_starts(files: Sequence[OpenedFile], form: FileForm, sql: str) -> list[_CsvStart]:
    """Return the start of each file, before its rows.

    Whether line 1 names the columns is decided once for all files. If line 1 may be either a header
    or a row, it counts as a row if line 1 of another file is surely a row.

    Raises FileError if line 1 is surely a header in one file and a row in another, and no header is
    declared. Also raises FileError if the query uses a name that several columns have.
    """
    starts = []
    rows: dict[bool, str] = {}
    for opened in files:
        if form.header is not None and opened.shift < 0:
            raise FileError(f"{opened.name} is a table, whose columns have names: omit header")
        skipped = form.header - 1 - opened.shift if isinstance(form.header, int) else 0
        if form.header is None and read_separator_line(opened):
            skipped = 1
        delimiter = form.delimiter or recognise_delimiter(opened, {}, form.quoted, skipped)
        records = read_first_records(opened, delimiter, form.quoted, skipped)
        fields = strip_names(records)
        starts.append(_CsvStart(delimiter, skipped, tuple(fields), form.header != NO_HEADER))
        if not names_columns(fields, records[1:]):
            rows.setdefault(False, opened.name)
        elif surely_names_columns(fields, records[1:]):
            rows.setdefault(True, opened.name)
    if form.header is None and False in rows:
        if True in rows:
            raise FileError(
                f"line 1 of {rows[True]} names its columns, and that of {rows[False]} is a row:"
                " write both alike, or declare a table for each, with its header"
            )
        starts = [replace(start, has_header=False) for start in starts]
    return [
        _name_columns(start, opened.name, sql) for start, opened in zip(starts, files, strict=True)
    ]


def _name_columns(start: _CsvStart, name: str, sql: str) -> _CsvStart:
    """Return the start with the names that its columns have in SQL.

    If several columns have the same name, a number is added to each name. Raises FileError if the
    query uses the name without a number.

    name: the name of the file in messages.
    """
    names = [
        (field if start.has_header else "") or f"column_{number}"
        for number, field in enumerate(start.columns, 1)
    ]
    # Names in SQL are not case-sensitive.
    counts = Counter(name.lower() for name in names)
    taken = {*counts}
    for index, column in enumerate(names):
        if counts[column.lower()] == 1:
            continue
        if re.search(rf"(?<!\w){re.escape(column)}(?!\w)", sql, re.IGNORECASE):
            raise FileError(
                f"{name} has several columns {column!r}, and the query uses it: rename them"
            )
        number = 1
        while f"{column}_{number}".lower() in taken:
            number += 1
        names[index] = f"{column}_{number}"
        taken.add(names[index].lower())
    return replace(start, columns=tuple(names))


def _select_json(
    connection: DuckDBPyConnection, files: Sequence[TableFile], hive: Mapping[str, Any]
) -> str:
    longest = max(_LEAST_LINE, Limits.from_environment().line_bytes)
    options = {"maximum_object_size": longest, **hive}
    # DuckDB looks at the whole file. Otherwise a field that first occurs late would be missing,
    # without an error.
    sampled = _build_call(
        "read_json",
        files,
        sample_size=-1,
        map_inference_threshold=MOST_FIELDS,
        field_appearance_threshold=0,
        union_by_name=True,
        **options,
    )
    relation = connection.sql(f"SELECT * FROM {sampled}")  # noqa: S608
    keys = _list_partition_keys(files[0]) if hive["hive_partitioning"] else ()
    columns = {
        name: _format_type(kind)
        for name, kind in zip(relation.columns, relation.types, strict=True)
        if name not in keys
    }
    return f"SELECT * FROM {_build_call('read_json', files, columns=columns, **options)}"  # noqa: S608


def _format_type(kind: Any) -> str:
    """Return the type in SQL, with text in place of a type that DuckDB guessed from strings."""
    if kind.id == "list":
        return f"{_format_type(kind.children[0][1])}[]"
    if kind.id == "map":
        return f"MAP(VARCHAR, {_format_type(kind.children[1][1])})"
    if kind.id == "struct":
        fields = ", ".join(
            f"{quote_identifier(name)} {_format_type(child)}" for name, child in kind.children
        )
        return f"STRUCT({fields})" if fields else "JSON"
    return "VARCHAR" if str(kind).lower() in _TEXTS else str(kind)


def _build_call(function: str, files: Sequence[TableFile], **options: Any) -> str:
    paths = ", ".join(quote_literal(file.link) for file in files)
    texts = "".join(f", {name} = {_format_value(value)}" for name, value in options.items())
    return f"{function}([{paths}]{texts})"


def _format_value(value: Any) -> str:
    match value:
        case bool() | int():
            return str(value)
        case dict():
            pairs = (f"{quote_literal(key)}: {quote_literal(item)}" for key, item in value.items())
            return f"{{{', '.join(pairs)}}}"
    return quote_literal(value)


def quote_literal(text: object) -> str:
    """Return the text as a string literal of SQL."""
    return "'" + str(text).replace("'", "''") + "'"


def quote_identifier(name: str) -> str:
    """Return the name as a quoted identifier of SQL."""
    return '"' + name.replace('"', '""') + '"'
