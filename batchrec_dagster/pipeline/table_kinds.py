"""Conversions of tables between pandas, polars and pyarrow."""

from __future__ import annotations

import sys
from typing import Any

import dagster as dg
import polars as pl


def _pandas_frame() -> Any:
    """Return the DataFrame class of pandas, or NoneType if pandas is not imported.

    Importing pandas takes half a second, and before the import no value can be a DataFrame.
    """
    return getattr(sys.modules.get("pandas"), "DataFrame", type(None))


def to_polars(table: Any) -> pl.DataFrame:
    """Convert a frame or table of any supported kind. Raises dg.DagsterInvariantViolationError."""
    import pyarrow as pa

    match table:
        case pl.DataFrame():
            return table
        case pl.LazyFrame():
            return table.collect(engine="streaming")
        case pa.Table():
            return pl.DataFrame(table)
    if table is not None and isinstance(table, _pandas_frame()):
        frame: pl.DataFrame = pl.from_pandas(table)
        return frame
    raise dg.DagsterInvariantViolationError(
        f"a {type(table).__name__} is not a table: return a pandas DataFrame, a polars frame or a"
        " pyarrow Table"
    )


def convert_table(frame: pl.LazyFrame, target_type: object) -> Any:
    """Return the table as the type `target_type`; pandas by default."""
    if target_type is pl.LazyFrame:
        return frame
    if target_type is pl.DataFrame:
        return frame.collect()
    import pyarrow as pa

    if target_type is pa.Table:
        return frame.collect().to_arrow()
    if target_type in (_pandas_frame(), Any, type(None)):
        return frame.collect().to_pandas()
    raise dg.DagsterInvariantViolationError(
        f"cannot load a table as {target_type}: ask for a pandas DataFrame, a polars DataFrame or"
        " LazyFrame, or a pyarrow Table"
    )
