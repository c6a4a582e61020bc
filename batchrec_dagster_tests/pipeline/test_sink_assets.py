"""Sinks as assets: what they tell, what is tried again, and what one that fails leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import polars as pl
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError
from moto import mock_aws

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.pipeline.assets import sinks
from batchrec_dagster.pipeline.assets.table import list_assets
from batchrec_dagster.pipeline.component import BatchRecommendations
from batchrec_dagster.pipeline.io_managers import ParquetIOManager
from batchrec_dagster.pipeline.storage_resource import S3ConnectionResource, StorageResource
from batchrec_dagster.sinks import postgres_table as postgres_sink
from batchrec_dagster.sinks.sink import SinkCounts, SinkResult
from batchrec_dagster_tests.guard.builders import (
    declaration,
    metadata,
    why,
)
from batchrec_dagster_tests.guard.servers.processes import free_ports
from batchrec_dagster_tests.guard.sink_tables import build_large_table

pytestmark = pytest.mark.slow

URL_ENV = "SHOP_DATABASE_URL"


def read_run_text(instance: dg.DagsterInstance, run_id: str) -> str:
    """Everything that Dagster keeps of a run."""
    run = instance.get_run_by_id(run_id)
    return repr(run) + "".join(repr(entry) for entry in instance.all_logs(run_id))


def write_lists(
    folder: Path, instance: dg.DagsterInstance, sink_settings: dict[str, Any], lists: pl.DataFrame
) -> dg.ExecuteInProcessResult:
    """Run a pipeline's sinks on these lists."""
    declared = declaration("shop", "ratings.csv", sinks=sink_settings)
    component = BatchRecommendations.model_validate(declared)
    assets = component.build_assets(list_assets(component.in_project(folder)))

    @dg.asset(key_prefix="shop", group_name="shop")
    def recommendations() -> pl.DataFrame:
        return lists

    storage = StorageResource(root=str(folder / "storage"), s3=S3ConnectionResource())
    return dg.materialize(
        [recommendations, *[asset for asset in assets if "_in_" in asset.key.path[-1]]],
        resources={"io_manager": ParquetIOManager(storage=storage), "batchrec_storage": storage},
        instance=instance,
        raise_on_error=False,
    )


def patch_attempts(
    monkeypatch: pytest.MonkeyPatch, *outcomes: BaseException | None
) -> Callable[[], list[BaseException | None]]:
    """Makes PostgreSQL answer with one outcome after another.

    The function that it returns gives the outcomes for which no attempt was made.
    """
    monkeypatch.setenv(URL_ENV, "postgresql://127.0.0.1/shop")
    monkeypatch.setattr(sinks, "RETRIES", dg.RetryPolicy(max_retries=2, delay=0))
    outcomes_left = list(outcomes)

    def replace(frame: pl.LazyFrame, target: postgres_sink.PostgresTarget) -> SinkResult:
        outcome = outcomes_left.pop(0)
        if outcome is not None:
            raise outcome
        return SinkResult(SinkCounts(1, 1, 1))

    monkeypatch.setattr(postgres_sink, "replace_lists", replace)
    return lambda: outcomes_left


POSTGRES = {"postgres": {"url_env": URL_ENV}}
BUSY = Retry("the server is starting up")


def test_what_may_pass_is_tried_again(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes_left = patch_attempts(monkeypatch, BUSY, BUSY, None)
    assert write_lists(tmp_path, instance, POSTGRES, build_large_table(1)).success
    assert outcomes_left() == []


def test_what_does_not_pass_is_a_failure_in_the_end(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes_left = patch_attempts(monkeypatch, BUSY, BUSY, BUSY, None)
    result = write_lists(tmp_path, instance, POSTGRES, build_large_table(1))
    assert why(result) == "sinks.postgres: the server is starting up, 3 times in a row"
    assert outcomes_left() == [None]


@pytest.mark.parametrize(
    "lasting", [UserError("no such table"), DagsterExecutionInterruptedError()]
)
def test_what_lasts_and_what_somebody_cancels_is_not_tried_again(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    lasting: BaseException,
) -> None:
    outcomes_left = patch_attempts(monkeypatch, lasting, None)
    try:
        assert not write_lists(tmp_path, instance, POSTGRES, build_large_table(1)).success
    except DagsterExecutionInterruptedError:
        assert isinstance(lasting, DagsterExecutionInterruptedError)
    assert outcomes_left() == [None]


def test_dynamodb_gets_the_lists_and_keeps_whose_they_are(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in (
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
        ("AWS_DEFAULT_REGION", "eu-central-1"),
    ):
        monkeypatch.setenv(name, value)
    sinks = {"dynamodb": {"table": "shop-lists", "ttl_days": 7}}
    with mock_aws():
        missing = write_lists(tmp_path, instance, sinks, build_large_table(3))
        assert why(missing).startswith("sinks.dynamodb: there is no DynamoDB table shop-lists")
        client: Any = boto3.Session().client("dynamodb")
        client.create_table(
            TableName="shop-lists",
            BillingMode="PAY_PER_REQUEST",
            AttributeDefinitions=[{"AttributeName": "user_id", "AttributeType": "S"}],
            KeySchema=[{"AttributeName": "user_id", "KeyType": "HASH"}],
        )
        assert write_lists(tmp_path, instance, sinks, build_large_table(3)).success
        result = write_lists(tmp_path, instance, sinks, build_large_table(2))
        dynamodb_metadata = metadata(result, "recommendations_in_dynamodb")
        assert (
            dynamodb_metadata["dagster/row_count"],
            dynamodb_metadata["users"],
            dynamodb_metadata["users_removed"],
        ) == (10, 2, 1)
        assert client.scan(TableName="shop-lists")["Count"] == 2
    assert (tmp_path / "storage/shop/records/users_in_dynamodb/shop-lists.parquet").exists()
    assert "the time to live of shop-lists is off" in read_run_text(instance, result.run_id)


def test_a_database_that_cannot_be_reached_is_tried_again_and_named(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv(URL_ENV, f"postgresql://owner:sesame@127.0.0.1:{port}/shop")
    monkeypatch.setattr(sinks, "RETRIES", dg.RetryPolicy(max_retries=2, delay=0))
    result = write_lists(tmp_path, instance, POSTGRES, build_large_table(1))
    assert why(result) == (
        f"sinks.postgres: connection refused at 127.0.0.1:{port}, 3 times in a row; check that"
        f" PostgreSQL runs there, and that {URL_ENV} has its host and port"
    )
    text = read_run_text(instance, result.run_id)
    for attempt in (2, 3):
        assert f"refused at 127.0.0.1:{port}, trying again in 0 s, {attempt} of 3" in text
    assert "sesame" not in text
