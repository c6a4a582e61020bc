"""The tables of partitions become one table, and what cannot is refused by name."""

from __future__ import annotations

import polars as pl
import pytest

from batchrec_dagster.storage.partitioned_tables import concatenate_partitions


def test_a_column_of_some_partitions_is_empty_in_the_others() -> None:
    tables = {"a": pl.LazyFrame({"id": [1]}), "b": pl.LazyFrame({"note": ["x"], "id": [2]})}
    assert concatenate_partitions(tables).collect().rows() == [(1, None), (2, "x")]


def test_a_partition_without_rows_decides_no_type() -> None:
    tables = {"a": pl.LazyFrame({"id": []}, {"id": pl.String}), "b": pl.LazyFrame({"id": [2]})}
    assert concatenate_partitions(tables).collect().rows() == [(2,)]
    assert concatenate_partitions({"a": tables["a"]}).collect().height == 0


def test_ids_that_pandas_made_floats_are_whole_numbers_again() -> None:
    tables = {
        "a": pl.LazyFrame({"id": [1, 2], "rating": [4, 5]}),
        "b": pl.LazyFrame({"id": [3.0, None], "rating": [4.5, 5.0]}),
    }
    table = concatenate_partitions(tables).collect()
    assert table.schema == {"id": pl.Int64, "rating": pl.Float64}
    assert table["id"].to_list() == [1, 2, 3, None]


def test_a_column_that_is_text_in_one_partition_alone_is_refused() -> None:
    tables = {"a": pl.LazyFrame({"id": [None]}), "b": pl.LazyFrame({"id": ["x"]})}
    assert concatenate_partitions(tables).collect()["id"].to_list() == [None, "x"]
    with pytest.raises(ValueError, match="column id is text in partition b and Int64 in c"):
        concatenate_partitions(tables | {"c": pl.LazyFrame({"id": [1]})})
