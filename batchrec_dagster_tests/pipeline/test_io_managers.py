"""Inputs get what is stored, as whatever frame is asked for."""

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from batchrec_dagster.pipeline.io_managers import (
    STORAGE_KEY,
    InteractionsIOManager,
    ParquetIOManager,
    PublishedTableIOManager,
    RecordIOManager,
    StoredIOManager,
    UsersIOManager,
)
from batchrec_dagster.pipeline.storage_resource import S3ConnectionResource, StorageResource
from batchrec_dagster.steps.records import DatasetRecord
from batchrec_dagster.storage.connection import S3Connection, Storage
from batchrec_dagster.storage.editions import Editions
from batchrec_dagster.storage.list_file import ListWriter
from batchrec_dagster_tests.guard.seams.editions import ALONE, make_edition

TABLE = pl.DataFrame({"USER_ID": ["007", "ü"], "ITEM_ID": ["1e5", "a,b"], "TIMESTAMP": [1, 2]})
FRAMES: list[Any] = [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.Table]


def load_input(
    file: Path, manager: type[StoredIOManager], input_type: Any, root: Path | None = None
) -> Any:
    """What an asset gets that asks for `input_type`, if a step has stored the file.

    root: the folder of the storage, by default the file's.
    """
    inputs: list[Any] = []
    root = root or file.parent
    stored = dg.AssetSpec("stored", metadata={STORAGE_KEY: str(file.relative_to(root))})

    def downstream(stored: Any) -> None:
        inputs.append(stored)

    downstream.__annotations__["stored"] = input_type
    storage = StorageResource(root=str(root), s3=S3ConnectionResource())
    dg.materialize(
        [stored.with_io_manager_key("stored_io"), dg.asset(downstream)],
        resources={"stored_io": manager(storage=storage), "io_manager": dg.mem_io_manager},
    )
    return inputs[0]


def pass_downstream(folder: Path, value: object, input_type: Any) -> Any:
    """What an asset gets that asks for `input_type` of an own asset, which returns the value."""
    inputs: list[Any] = []

    @dg.asset
    def upstream() -> Any:
        return value

    def downstream(upstream: Any) -> None:
        inputs.append(upstream)

    downstream.__annotations__["upstream"] = input_type
    storage = StorageResource(root=str(folder), s3=S3ConnectionResource())
    dg.materialize(
        [upstream, dg.asset(downstream)],
        resources={"io_manager": ParquetIOManager(storage=storage)},
    )
    return inputs[0]


def to_polars(table: Any) -> pl.DataFrame:
    return pl.DataFrame(table.collect() if isinstance(table, pl.LazyFrame) else table)


@pytest.mark.slow
@pytest.mark.parametrize("input_type", FRAMES)
def test_a_stored_table_arrives_as_the_frame_that_is_asked_for(
    tmp_path: Path, input_type: Any
) -> None:
    # Letters that mean something in patterns of file names.
    csv, lines = tmp_path / "a[b]c*.csv", tmp_path / "a[b]c*.json"
    TABLE.write_csv(csv)
    TABLE.write_ndjson(lines)
    for file, manager in ((csv, InteractionsIOManager), (lines, UsersIOManager)):
        table = load_input(file, manager, input_type)
        assert isinstance(table, input_type)
        assert to_polars(table).equals(TABLE)


@pytest.mark.parametrize("input_type", FRAMES)
@pytest.mark.parametrize(
    "value",
    [TABLE, TABLE.lazy(), TABLE.to_arrow(), TABLE.to_pandas()],
    ids=lambda v: type(v).__name__,
)
def test_any_frame_can_be_stored_and_arrives_as_any(
    tmp_path: Path, value: object, input_type: Any
) -> None:
    table = pass_downstream(tmp_path, value, input_type)
    assert isinstance(table, input_type)
    assert to_polars(table).equals(TABLE)


@pytest.mark.parametrize("input_type", FRAMES)
def test_a_published_table_arrives_as_the_frame_that_is_asked_for(
    tmp_path: Path, input_type: Any
) -> None:
    with ListWriter(tmp_path / "lists.parquet") as writer:
        for row in range(TABLE.height):
            writer.write(TABLE[row].to_arrow())
        writer.finish(make_edition({"version": "a"}))
    key, root = "shop/lists/lists.parquet", tmp_path / "storage"
    storage = Storage(root=str(root), s3=S3Connection())
    Editions(storage.store, storage.uri(key), storage.uri("editions.json")).publish(
        writer.path, 1, ALONE
    )
    table = load_input(root / key, PublishedTableIOManager, input_type, root)
    assert isinstance(table, input_type)
    assert to_polars(table).equals(TABLE)


DAYS = dg.StaticPartitionsDefinition(["2026-01-01", "a/b", "..", "2026-01-03"])


def store_partitions(folder: Path) -> tuple[dict[str, ParquetIOManager], dg.AssetsDefinition]:
    """An asset of which each partition but the last has two rows, its resources."""

    @dg.asset(partitions_def=DAYS)
    def orders(context: dg.AssetExecutionContext) -> pl.DataFrame:
        return TABLE.with_columns(DAY=pl.lit(context.partition_key))

    storage = StorageResource(root=str(folder), s3=S3ConnectionResource())
    resources = {"io_manager": ParquetIOManager(storage=storage)}
    for partition in DAYS.get_partition_keys()[:3]:
        dg.materialize([orders], resources=resources, partition_key=partition)
    return resources, orders


def test_each_partition_is_a_file_of_its_own(tmp_path: Path) -> None:
    store_partitions(tmp_path)
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.parquet")}
    assert files == {"orders/2026-01-01.parquet", "orders/a%2Fb.parquet", "orders/...parquet"}
    assert (
        pl.read_parquet(tmp_path / "orders/2026-01-01.parquet")["DAY"].to_list()
        == ["2026-01-01"] * 2
    )


@pytest.mark.parametrize("input_type", FRAMES)
def test_an_input_gets_the_rows_of_all_its_partitions(tmp_path: Path, input_type: Any) -> None:
    resources, orders = store_partitions(tmp_path)
    inputs: list[Any] = []

    def downstream(orders: Any) -> None:
        inputs.append(orders)

    downstream.__annotations__["orders"] = input_type
    lenient = dg.AssetIn(metadata={"allow_missing_partitions": True})
    dg.materialize(
        [orders, dg.asset(downstream, ins={"orders": lenient})],
        resources=resources,
        selection=["downstream"],
    )
    (value,) = inputs
    assert isinstance(value, input_type)
    days = to_polars(value)["DAY"].to_list()
    assert days == ["2026-01-01", "2026-01-01", "a/b", "a/b", "..", ".."]


def test_a_partition_that_is_missing_is_an_error(tmp_path: Path) -> None:
    resources, orders = store_partitions(tmp_path)

    @dg.asset
    def downstream(orders: pl.DataFrame) -> None: ...

    with pytest.raises(dg.Failure, match=r"orders/2026-01-03\.parquet"):
        dg.materialize([orders, downstream], resources=resources, selection=["downstream"])


def test_without_a_stored_partition_there_is_no_table(tmp_path: Path) -> None:
    resources, orders = store_partitions(tmp_path)
    for file in tmp_path.rglob("*.parquet"):
        file.unlink()

    @dg.asset(ins={"orders": dg.AssetIn(metadata={"allow_missing_partitions": True})})
    def downstream(orders: pl.DataFrame) -> None: ...

    with pytest.raises(dg.Failure, match="no partition of orders"):
        dg.materialize([orders, downstream], resources=resources, selection=["downstream"])


def test_one_value_of_several_partitions_is_refused(tmp_path: Path) -> None:
    @dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def orders() -> pl.DataFrame:
        return TABLE

    storage = StorageResource(root=str(tmp_path), s3=S3ConnectionResource())
    with pytest.raises(dg.DagsterInvariantViolationError, match="one value for 4 partitions"):
        dg.materialize(
            [orders],
            resources={"io_manager": ParquetIOManager(storage=storage)},
            tags={
                "dagster/asset_partition_range_start": "2026-01-01",
                "dagster/asset_partition_range_end": "2026-01-03",
            },
        )


def test_without_a_type_it_is_pandas(tmp_path: Path) -> None:
    assert isinstance(pass_downstream(tmp_path, TABLE, Any), pd.DataFrame)


@pytest.mark.parametrize("manager", [PublishedTableIOManager, RecordIOManager])
def test_what_steps_store_is_not_written_by_an_io_manager(
    tmp_path: Path, manager: type[StoredIOManager]
) -> None:
    @dg.asset
    def own() -> pl.DataFrame:
        return TABLE

    storage = StorageResource(root=str(tmp_path), s3=S3ConnectionResource())
    with pytest.raises(dg.DagsterInvariantViolationError, match="only reads"):
        dg.materialize([own], resources={"io_manager": manager(storage=storage)})
    assert list(tmp_path.rglob("*.*")) == []


def test_a_record_arrives_as_the_record_that_is_asked_for_or_as_a_dict(tmp_path: Path) -> None:
    values = {
        "made_of": {"interactions": "1"},
        "version": "1",
        "findings": [],
        "root_run": "run",
        "cost_usd": 1.5,
        "dataset_group_arn": "arn:…",
        "dataset_group_name": "shop",
        "imports": {"interactions": {"dataset_arn": "a", "import_job_arn": "b"}},
    }
    record = DatasetRecord.model_validate(values)
    file = tmp_path / "record.json"
    file.write_text(record.model_dump_json(), encoding="utf-8")
    assert load_input(file, RecordIOManager, dict[str, Any]) == values
    assert load_input(file, RecordIOManager, DatasetRecord) == record


@pytest.mark.parametrize(
    ("content", "input_type"),
    [('{"rows": 3}', DatasetRecord), ("[3]", dict[str, Any]), ("{", dict[str, Any])],
)
def test_another_records_file_is_reported_as_damaged(
    tmp_path: Path, content: str, input_type: Any
) -> None:
    file = tmp_path / "record.json"
    file.write_text(content)
    with pytest.raises(dg.Failure, match=r"(?s)record\.json .*delete it"):
        load_input(file, RecordIOManager, input_type)


def test_what_is_no_table_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(dg.DagsterInvariantViolationError, match="return a pandas DataFrame"):
        pass_downstream(tmp_path, object(), pl.DataFrame)
    assert list(tmp_path.rglob("*.*")) == []


def test_a_type_that_cannot_be_had_is_refused(tmp_path: Path) -> None:
    with pytest.raises(dg.DagsterInvariantViolationError, match="ask for a pandas DataFrame"):
        pass_downstream(tmp_path, TABLE, list)
