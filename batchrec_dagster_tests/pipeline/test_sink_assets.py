"""Tests of sinks as assets: which failures are retried, how often, and the messages about it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError

from batchrec_dagster.errors import Retry, UserError
from batchrec_dagster.pipeline.assets import sinks
from batchrec_dagster.pipeline.assets.table import list_assets
from batchrec_dagster.pipeline.component import BatchRecommendations
from batchrec_dagster.pipeline.io_managers import ParquetIOManager
from batchrec_dagster.pipeline.storage_resource import S3ConnectionResource, StorageResource
from batchrec_dagster.sinks.postgres_table import PostgresTarget
from batchrec_dagster.sinks.sink import SinkCounts, SinkResult
from batchrec_dagster_tests.guard.builders import declaration, why
from batchrec_dagster_tests.guard.servers.processes import free_ports
from batchrec_dagster_tests.guard.sink_tables import build_large_table

pytestmark = pytest.mark.slow

URL_ENV = "SHOP_DATABASE_URL"
BUSY = Retry("the server is starting up")


def write_lists(
    folder: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    op: Mapping[str, Any] | None = None,
) -> dg.ExecuteInProcessResult:
    """Run a pipeline's sink on a table, with two retries.

    op: the block `op` of the declaration.
    """
    monkeypatch.setattr(sinks, "RETRIES", dg.RetryPolicy(max_retries=2, delay=0))
    postgres = {"postgres": {"url_env": URL_ENV}}
    declared = declaration("shop", "ratings.csv", sinks=postgres, op=op or {})
    component = BatchRecommendations.model_validate(declared)
    assets = component.build_assets(list_assets(component.in_project(folder)))

    @dg.asset(key_prefix="shop", group_name="shop")
    def recommendations() -> pl.DataFrame:
        return build_large_table(1)

    storage = StorageResource(root=str(folder / "storage"), s3=S3ConnectionResource())
    return dg.materialize(
        [recommendations, *[asset for asset in assets if "_in_" in asset.key.path[-1]]],
        resources={"io_manager": ParquetIOManager(storage=storage), "batchrec_storage": storage},
        instance=instance,
        raise_on_error=False,
    )


@pytest.mark.parametrize(
    ("answers", "tries", "reason"),
    [
        ([BUSY, BUSY, None], 3, ""),
        ([BUSY, BUSY, BUSY], 3, "sinks.postgres: the server is starting up, 3 times in a row"),
        ([UserError("no such table")], 1, "sinks.postgres: no such table"),
        ([DagsterExecutionInterruptedError()], 1, "interrupted"),
    ],
    ids=["passes", "stays", "lasts", "cancelled"],
)
def test_only_passing_failures_are_retried(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    answers: list[BaseException | None],
    tries: int,
    reason: str,
) -> None:
    tried: list[BaseException | None] = []

    def replace(target: PostgresTarget, frame: pl.LazyFrame) -> SinkResult:
        answer = answers[len(tried)]
        tried.append(answer)
        if answer is not None:
            raise answer
        return SinkResult(SinkCounts(1, 1, 1))

    monkeypatch.setenv(URL_ENV, "postgresql://127.0.0.1/shop")
    monkeypatch.setattr(PostgresTarget, "replace_lists", replace)
    try:
        result = write_lists(tmp_path, instance, monkeypatch)
        assert result.success is not bool(reason)
        assert not reason or reason == "interrupted" or why(result) == reason
    except DagsterExecutionInterruptedError:
        assert reason == "interrupted"
    assert len(tried) == tries


def test_declared_retries_replace_the_retries_of_sinks(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    attempts: list[PostgresTarget] = []

    def replace(target: PostgresTarget, frame: pl.LazyFrame) -> SinkResult:
        attempts.append(target)
        raise BUSY

    monkeypatch.setenv(URL_ENV, "postgresql://127.0.0.1/shop")
    monkeypatch.setattr(PostgresTarget, "replace_lists", replace)
    op = {"*": {"retries": {"max_retries": 4, "delay_seconds": 0}}}
    result = write_lists(tmp_path, instance, monkeypatch, op)
    assert why(result) == "sinks.postgres: the server is starting up"
    assert len(attempts) == 5


def test_a_database_that_cannot_be_reached_is_named_without_its_password(
    tmp_path: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    (port,) = free_ports(1)
    monkeypatch.setenv(URL_ENV, f"postgresql://owner:sesame@127.0.0.1:{port}/shop")
    result = write_lists(tmp_path, instance, monkeypatch)
    assert why(result) == (
        f"sinks.postgres: connection refused at 127.0.0.1:{port}, 3 times in a row; check that"
        f" PostgreSQL runs there, and that {URL_ENV} has its host and port"
    )
    text = "".join(repr(entry) for entry in instance.all_logs(result.run_id))
    assert f"refused at 127.0.0.1:{port}, trying again in 0 s, 2 of 3" in text
    assert "sesame" not in text
