"""A writer of database rows to Parquet, with the types of the rows' values."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl

from batchrec_dagster.preparation.sources.errors import FileError
from batchrec_dagster.preparation.sources.limits import Limits


def write_rows(
    batches: Iterator[Sequence[Sequence[Any]]], columns: Sequence[str], folder: Path, target: Path
) -> None:
    """Write all rows to one Parquet file.

    A column with values of several types gets a type that can hold all values, such as
    floating-point numbers or text. `pl.read_database` would refuse such columns, and crash on a
    numeric NaN.

    folder: the folder for a file of each batch, because all rows together may not fit into the
    memory.

    Raises FileError if there are too many rows, if they come too slowly, or if no type can hold all
    values of a column.
    """
    limits = Limits.from_environment()
    start = time.monotonic()
    parts = [pl.LazyFrame(schema=dict.fromkeys(columns, pl.Null))]
    bytes_written = 0
    for rows in batches:
        path = folder / f"{len(parts)}.parquet"
        simple_rows = [[_simplify(value) for value in row] for row in rows]
        with _explain_types():
            frame = pl.DataFrame(
                simple_rows, columns, orient="row", strict=False, infer_schema_length=None
            )
        frame.write_parquet(path)
        parts.append(pl.scan_parquet(path))
        bytes_written += path.stat().st_size
        limits.require_query(time.monotonic() - start, bytes_written)
    rows_of_all = pl.concat(parts, how="vertical_relaxed")
    with _explain_types():
        rows_of_all.collect_schema()
    rows_of_all.sink_parquet(target)


@contextmanager
def _explain_types() -> Iterator[None]:
    """Turn Polars' error about types that do not fit into a FileError without the values."""
    try:
        yield
    except pl.exceptions.PolarsError:
        raise FileError(
            "a column has values of types that do not go together, such as dates and times: convert"
            " it to one type in the query"
        ) from None


def _simplify(value: Any) -> Any:
    """Return the value as None, a bool, a 64-bit integer, a float, a text, a date or a datetime."""
    match value:
        case int() if not -(2**63) <= value < 2**63:
            return str(value)
        case datetime() if value.tzinfo is not None:
            return value.astimezone(UTC)
        case None | bool() | int() | float() | str() | date():
            # A datetime is a date, too. A datetime without a zone gets no zone here, because
            # ratings.timezone names the zone.
            return value
        case Decimal():
            # Databases without an integer type return ids and counts as decimals of scale 0.
            is_whole = value.is_finite() and value.as_tuple().exponent >= 0  # type: ignore[operator]
            return _simplify(int(value)) if is_whole else float(value)
        case dict() | list() | tuple():
            return json.dumps(value, default=str, ensure_ascii=False)
        case bytes() | memoryview():
            return bytes(value).hex()
    return str(value)
