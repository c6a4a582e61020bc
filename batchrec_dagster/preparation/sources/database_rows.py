"""Writes the rows that a database returns to Parquet, with the types that their values have."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import MAX_FILE_GB, QUERY_MINUTES, Limits

_COLUMN_TYPES = {
    bool: pl.Boolean(),
    int: pl.Int64(),
    float: pl.Float64(),
    str: pl.String(),
    date: pl.Date(),
    datetime: pl.Datetime("us", "UTC"),
}


def write_parts(
    batches: Iterator[Sequence[Sequence[Any]]], columns: Sequence[str], folder: Path
) -> list[Path]:
    """Write a Parquet file for each batch, with the types that the values in it have."""
    limits = Limits.from_environment()
    parts: list[Path] = []
    bytes_written = 0
    end = time.monotonic() + limits.query_seconds
    for number, rows in enumerate(batches):
        parts.append(folder / f"{number:06}.parquet")
        values = zip(*rows, strict=True)
        frame = pl.DataFrame(
            [_build_series(name, column) for name, column in zip(columns, values, strict=True)]
        )
        frame.write_parquet(parts[-1])
        bytes_written += parts[-1].stat().st_size
        if bytes_written > limits.download_bytes:
            raise FileError(f"it has more than the {limits.download_bytes} bytes of {MAX_FILE_GB}")
        if time.monotonic() > end:
            raise FileError(
                f"it took longer than the {limits.query_seconds / 60:g} minutes of {QUERY_MINUTES}"
            )
    return parts


def join_parts(parts: Sequence[Path], columns: Sequence[str], path: Path) -> None:
    """Write all parts to one file.

    A column with integers and floating-point numbers becomes floating-point. A column with other
    combinations of types becomes text.
    """
    schemas = [pl.read_parquet_schema(part) for part in parts]
    schema = pl.Schema(
        {name: _find_common_type({part[name] for part in schemas}) for name in columns}
    )
    if parts:
        pl.concat(pl.scan_parquet(part).cast(schema) for part in parts).sink_parquet(path)
    else:
        pl.DataFrame(schema=schema).write_parquet(path)


def _build_series(name: str, values: Sequence[Any]) -> pl.Series:
    """The values as a column of the type that all of them have, or else of text."""
    simple_values = [_simplify(value) for value in values]
    types = {type(value) for value in simple_values if value is not None}
    if types == {int} and not all(map(_is_64_bit, simple_values)):
        types = {int, str}
    column_type = _find_common_type({_COLUMN_TYPES[kind] for kind in types}) if types else pl.Null()
    if column_type == pl.String:
        simple_values = [None if value is None else _format_value(value) for value in simple_values]
    return pl.Series(name, simple_values, column_type, strict=False)


def _is_64_bit(value: int | None) -> bool:
    return value is None or -(2**63) <= value < 2**63


def _find_common_type(types: set[pl.DataType]) -> pl.DataType:
    """The type that can hold values of all these types."""
    not_null = types - {pl.Null()}
    if len(not_null) == 1:
        return not_null.pop()
    return pl.Float64() if not_null == {pl.Int64(), pl.Float64()} else pl.String()


def _simplify(value: Any) -> Any:
    """The value as one of the types in _COLUMN_TYPES."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case Decimal():
            # Databases without an integer type return ids and counts as decimals of scale 0.
            is_whole = value.is_finite() and value.as_tuple().exponent >= 0  # type: ignore[operator]
            return int(value) if is_whole else float(value)
        case datetime():
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        case date():
            return value
        case dict() | list() | tuple():
            return json.dumps(value, default=str, ensure_ascii=False)
        case bytes() | memoryview():
            return bytes(value).hex()
    return str(value)


def _format_value(value: Any) -> str:
    """The value as text, for a column of several types."""
    if isinstance(value, bool):
        return str(value).lower()
    return value.isoformat() if isinstance(value, date) else str(value)
