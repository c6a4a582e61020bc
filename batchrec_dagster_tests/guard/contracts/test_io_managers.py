"""Tests of Dagster's records of a step that cannot read or store its value."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

import batchrec_dagster

KEY = "batchrec_parquet_io"


@dg.asset(io_manager_key=KEY)
def orders() -> pl.DataFrame:
    return pl.DataFrame({"user": ["1"]})


@dg.asset
def count(orders: pl.DataFrame) -> int:
    return orders.height


@pytest.fixture
def io_manager(tmp_path: Path) -> dict[str, Any]:
    """Return the IO manager of tables in the storage of a new home, by its key."""
    return {KEY: batchrec_dagster.resources({"BATCHREC_HOME": str(tmp_path)})[KEY]}


def find_error(io_manager: dict[str, Any], asset: dg.AssetsDefinition) -> Any:
    """Run the asset, and return the error that Dagster records for its step."""
    result = dg.materialize(
        [orders, count], selection=[asset], resources=io_manager, raise_on_error=False
    )
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    return failure.step_failure_data.error


def test_a_table_that_was_deleted_is_named_without_a_stack(
    io_manager: dict[str, Any], tmp_path: Path
) -> None:
    assert dg.materialize([orders], resources=io_manager).success
    (table,) = (tmp_path / "storage").rglob("*.parquet")
    table.unlink()
    error = find_error(io_manager, count)
    assert str(table) in error.message
    assert (error.stack, error.cause) == ([], None)


def test_a_value_that_cannot_be_stored_fails_without_a_stack(
    io_manager: dict[str, Any], tmp_path: Path
) -> None:
    # A file is in the place of the storage's folder.
    (tmp_path / "storage").write_text("")
    error = find_error(io_manager, orders)
    assert error.message.startswith("Failure: ")
    assert (error.stack, error.cause) == ([], None)
