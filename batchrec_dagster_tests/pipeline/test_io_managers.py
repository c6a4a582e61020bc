"""Tests that a team's own assets get stored tables as the type of frame that they annotate."""

from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from batchrec_dagster.editions.editions import Editions
from batchrec_dagster.editions.list_file import ListWriter
from batchrec_dagster.pipeline.declared import STORAGE_KEY
from batchrec_dagster.pipeline.io_managers import (
    AttributesIOManager,
    InteractionsIOManager,
    ParquetIOManager,
    PublishedTableIOManager,
    RecordIOManager,
    StoredIOManager,
    UsersIOManager,
)
from batchrec_dagster.pipeline.storage_resource import S3ConnectionResource, StorageResource
from batchrec_dagster.steps.records import DatasetRecord
from batchrec_dagster.storage.connection import Storage
from batchrec_dagster_tests.guard.seams.editions import ALONE, make_edition

TABLE = pl.DataFrame({"USER_ID": ["007", "ü"], "ITEM_ID": ["1e5", "a,b"], "TIMESTAMP": [1, 2]})
ITEMS = pl.DataFrame({"ITEM_ID": ["007", "ü"], "GENRES": ["War|Crime", None], "YEAR": [1999.0, 7]})
FRAMES: list[Any] = [pd.DataFrame, pl.DataFrame, pl.LazyFrame, pa.Table]
DAYS = dg.StaticPartitionsDefinition(["2026-01-01", "a/b", "..", "2026-01-03"])
LENIENT = dg.AssetIn(metadata={"allow_missing_partitions": True})


def open_storage(root: Path) -> StorageResource:
    return StorageResource(root=str(root), s3=S3ConnectionResource())


def load(
    root: Path,
    upstream: dg.AssetSpec | dg.AssetsDefinition,
    input_type: Any,
    manager: type[dg.ConfigurableIOManager] = ParquetIOManager,
    given: dg.AssetIn | None = None,
) -> Any:
    """Return the input of an asset that asks for `input_type` of the upstream asset.

    given: the way the input is loaded, if the upstream asset is not made now.
    """
    inputs: list[Any] = []

    def downstream(upstream: Any) -> None:
        inputs.append(upstream)

    downstream.__annotations__["upstream"] = input_type
    asset = dg.asset(downstream, ins={"upstream": given or dg.AssetIn()})
    dg.materialize(
        [upstream, asset],
        resources={"io_manager": manager(storage=open_storage(root))},
        selection=["downstream"] if given else None,
    )
    return inputs[0]


def load_file(root: Path, key: str, manager: type[StoredIOManager], input_type: Any) -> Any:
    """Return the input of an asset that asks for `input_type` of a file that a step has stored."""
    return load(root, dg.AssetSpec("upstream", metadata={STORAGE_KEY: key}), input_type, manager)


def return_value(value: object) -> dg.AssetsDefinition:
    return dg.asset(lambda: value, name="upstream")


def to_polars(table: Any) -> pl.DataFrame:
    return pl.DataFrame(table.collect() if isinstance(table, pl.LazyFrame) else table)


@pytest.mark.slow
@pytest.mark.parametrize("input_type", FRAMES)
def test_a_stored_table_arrives_as_the_frame_that_is_asked_for(
    tmp_path: Path, input_type: Any
) -> None:
    # Letters with a meaning in patterns of file names.
    TABLE.write_csv(tmp_path / "a[b]c*.csv")
    TABLE.write_ndjson(tmp_path / "a[b]c*.json")
    ITEMS.write_csv(tmp_path / "items.csv")
    with ListWriter(tmp_path / "new.parquet") as writer:
        writer.write(TABLE.to_arrow())
        writer.finish(make_edition({"version": "a"}))
    storage, key = Storage(root=str(tmp_path)), "shop/lists/lists.parquet"
    editions = Editions(storage.store, storage.uri(key), storage.uri("editions.json"))
    editions.publish(writer.path, 1, ALONE)
    stored: list[tuple[str, type[StoredIOManager], pl.DataFrame]] = [
        ("a[b]c*.csv", InteractionsIOManager, TABLE),
        ("a[b]c*.json", UsersIOManager, TABLE),
        ("items.csv", AttributesIOManager, ITEMS),
        (key, PublishedTableIOManager, TABLE),
    ]
    for name, manager, expected in stored:
        table = load_file(tmp_path, name, manager, input_type)
        assert isinstance(table, input_type)
        assert to_polars(table).equals(expected)


@pytest.mark.parametrize("input_type", [*FRAMES, Any])
@pytest.mark.parametrize(
    "value",
    [TABLE, TABLE.lazy(), TABLE.to_arrow(), TABLE.to_pandas()],
    ids=lambda v: type(v).__name__,
)
def test_any_frame_can_be_stored_and_arrives_as_any(
    tmp_path: Path, value: object, input_type: Any
) -> None:
    table = load(tmp_path, return_value(value), input_type)
    assert isinstance(table, pd.DataFrame if input_type is Any else input_type)
    assert to_polars(table).equals(TABLE)


@pytest.fixture
def upstream(tmp_path: Path) -> dg.AssetsDefinition:
    """Return an asset with two rows in each partition but the last."""

    @dg.asset(partitions_def=DAYS, backfill_policy=dg.BackfillPolicy.single_run())
    def upstream(context: dg.AssetExecutionContext) -> pl.DataFrame:
        return TABLE.with_columns(DAY=pl.lit(context.partition_keys[0]))

    resources = {"io_manager": ParquetIOManager(storage=open_storage(tmp_path))}
    for partition in DAYS.get_partition_keys()[:3]:
        dg.materialize([upstream], resources=resources, partition_key=partition)
    return upstream


def test_an_input_gets_the_rows_of_all_its_partitions_each_of_a_file_of_its_own(
    tmp_path: Path, upstream: dg.AssetsDefinition
) -> None:
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.parquet")}
    assert files == {f"upstream/{name}.parquet" for name in ("2026-01-01", "a%2Fb", "..")}
    for input_type in FRAMES:
        value = load(tmp_path, upstream, input_type, given=LENIENT)
        assert isinstance(value, input_type)
        days = to_polars(value)["DAY"].to_list()
        assert days == ["2026-01-01", "2026-01-01", "a/b", "a/b", "..", ".."]
    with pytest.raises(dg.Failure, match=r"upstream/2026-01-03\.parquet"):
        load(tmp_path, upstream, pl.DataFrame, given=dg.AssetIn())
    for file in tmp_path.rglob("*.parquet"):
        file.unlink()
    with pytest.raises(dg.Failure, match="no partition of upstream"):
        load(tmp_path, upstream, pl.DataFrame, given=LENIENT)
    with pytest.raises(dg.DagsterInvariantViolationError, match="one value for 4 partitions"):
        dg.materialize(
            [upstream],
            resources={"io_manager": ParquetIOManager(storage=open_storage(tmp_path))},
            tags={
                "dagster/asset_partition_range_start": "2026-01-01",
                "dagster/asset_partition_range_end": "2026-01-03",
            },
        )


@pytest.mark.parametrize(
    ("value", "input_type", "manager", "message"),
    [
        (TABLE, Any, PublishedTableIOManager, "only reads"),
        (TABLE, Any, RecordIOManager, "only reads"),
        (object(), pl.DataFrame, ParquetIOManager, "return a pandas DataFrame"),
        (TABLE, list, ParquetIOManager, "ask for a pandas DataFrame"),
    ],
)
def test_values_that_cannot_be_stored_or_loaded_are_refused(
    tmp_path: Path,
    value: object,
    input_type: Any,
    manager: type[dg.ConfigurableIOManager],
    message: str,
) -> None:
    with pytest.raises(dg.DagsterInvariantViolationError, match=message):
        load(tmp_path, return_value(value), input_type, manager)
    assert message.startswith("ask") or list(tmp_path.rglob("*.*")) == []


def test_a_record_arrives_as_the_record_that_is_asked_for_or_as_a_dict(tmp_path: Path) -> None:
    values = {
        "made_of": {"interactions": "1"},
        "version": "1",
        "findings": [],
        "root_run": "run",
        "cost_usd": 1.5,
        "estimated_usd": 2.5,
        "dataset_group_arn": "arn:…",
        "dataset_group_name": "shop",
        "imports": {"interactions": {"dataset_arn": "a", "import_job_arn": "b"}},
    }
    record = DatasetRecord.model_validate(values)
    (tmp_path / "record.json").write_text(record.model_dump_json(), encoding="utf-8")
    for input_type, expected in ((dict[str, Any], values), (DatasetRecord, record)):
        assert load_file(tmp_path, "record.json", RecordIOManager, input_type) == expected
    for content, asked in (
        ('{"rows": 3}', DatasetRecord),
        ("[3]", dict[str, Any]),
        ("{", dict[str, Any]),
    ):
        (tmp_path / "record.json").write_text(content)
        with pytest.raises(dg.Failure, match=r"(?s)record\.json .*delete it"):
            load_file(tmp_path, "record.json", RecordIOManager, asked)
