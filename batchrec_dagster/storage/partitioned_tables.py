"""The tables of an asset's partitions as one table."""

from __future__ import annotations

from collections.abc import Mapping

import polars as pl


def concatenate_partitions(tables: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    """The rows of all tables, in their order.

    A column that some tables lack is empty there. If pandas made floats of a column's whole numbers
    in some tables, because values were missing, they are whole numbers again.

    tables: each by the key of its partition. There is at least one.
    Raises ValueError if a column is text in one table and not in another.
    """
    counts = pl.collect_all([table.select(pl.len()) for table in tables.values()])
    # The columns of a table without rows can have any type.
    with_rows = {
        key: table
        for (key, table), count in zip(tables.items(), counts, strict=True)
        if count.item() > 0
    }
    if not with_rows:
        return next(iter(tables.values()))
    schemas = {key: table.collect_schema() for key, table in with_rows.items()}
    mixed_columns: set[str] = set()
    for column in dict.fromkeys(name for schema in schemas.values() for name in schema):
        types = {key: schema[column] for key, schema in schemas.items() if column in schema}
        _require_same_kind(column, types)
        if {dtype.is_float() for dtype in types.values() if dtype.is_numeric()} == {True, False}:
            mixed_columns.add(column)
    return pl.concat(
        [
            _restore_whole_numbers(table, mixed_columns, schemas[key])
            for key, table in with_rows.items()
        ],
        how="diagonal_relaxed",
    )


def _require_same_kind(column: str, types: Mapping[str, pl.DataType]) -> None:
    """Raise ValueError if the column is text in one partition and not in another.

    types: of the column, by the key of the partition.
    """
    text = [key for key, dtype in types.items() if dtype in (pl.String, pl.Categorical, pl.Enum)]
    other = [key for key in types if key not in text and types[key] != pl.Null]
    if text and other:
        raise ValueError(
            f"column {column} is text in partition {text[0]} and {types[other[0]]} in {other[0]}:"
            " give it one type"
        )


def _restore_whole_numbers(
    table: pl.LazyFrame, columns: set[str], schema: pl.Schema
) -> pl.LazyFrame:
    """The table with whole numbers for floats that are whole.

    columns: those that have whole numbers in another table.
    """
    floats = [column for column in columns if column in schema and schema[column].is_float()]
    if not floats:
        return table
    is_whole = table.select(
        (pl.col(floats).is_null() | (pl.col(floats) == pl.col(floats).floor())).all()
    ).collect()
    whole = [column for column in floats if is_whole[column].item()]
    return table.with_columns(pl.col(whole).cast(pl.Int64))
