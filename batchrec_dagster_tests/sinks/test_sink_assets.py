"""Sinks as assets: what they tell, what is tried again, and what one that fails leaves alone."""

from __future__ import annotations

import csv
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import dagster as dg
import polars as pl
import pytest
from dagster._core.errors import DagsterExecutionInterruptedError
from moto import mock_aws

from batchrec_dagster.config import Pipeline
from batchrec_dagster.config.declaration_errors import DeclarationError
from batchrec_dagster.pipeline.assets import sinks
from batchrec_dagster.sinks import SinkError, SinkUnavailableError
from batchrec_dagster.sinks import postgres_table as postgres_sink
from batchrec_dagster.sinks.sink import SinkCounts, SinkResult
from batchrec_dagster.storage.io_managers import ParquetIOManager
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    metadata,
    refresh,
    table,
    why,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer
from batchrec_dagster_tests.guard.servers.processes import free_ports
from batchrec_dagster_tests.sinks.support import build_large_table

pytestmark = pytest.mark.slow

URL_ENV = "SHOP_DATABASE_URL"
QUICK = {"recipe": "aws-user-personalization"}


def declare(project: Project, sinks: dict[str, Any]) -> None:
    source = write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", source, solution=QUICK, sinks=sinks))


def write_sinks(
    project: Project, instance: dg.DagsterInstance, *names: str
) -> dg.ExecuteInProcessResult:
    """Run sinks again, of lists that are there."""
    keys = [dg.AssetKey(["shop", name]) for name in names]
    with definitions(project) as defs:
        return defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=keys, raise_on_error=False
        )


def read_run_text(instance: dg.DagsterInstance, run_id: str) -> str:
    """Everything that Dagster keeps of a run."""
    run = instance.get_run_by_id(run_id)
    return repr(run) + "".join(repr(entry) for entry in instance.all_logs(run_id))


def test_a_refresh_writes_them_and_one_that_fails_stops_no_other(
    project: Project,
    instance: dg.DagsterInstance,
    url: str,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(URL_ENV, raising=False)
    declare(project, {"postgres": {"url_env": URL_ENV, "table": "lists"}, "export": {}})
    result = refresh(project, "shop", instance)
    assert not result.success
    assert why(result) == (
        f"sinks.postgres: the environment variable {URL_ENV} is not set: set it to"
        " postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
    )
    lists = table(project, "shop")
    assert lists.height > 1000
    export_metadata = metadata(result, "recommendations_export")
    assert (
        export_metadata["dagster/row_count"],
        export_metadata["users"],
        export_metadata["lines"],
    ) == (lists.height, 60, 60)
    assert export_metadata["file"] == str(
        project.storage / "shop/curated/exports/recommendations.csv"
    )
    with Path(export_metadata["file"]).open(newline="") as file:
        first = next(csv.DictReader(file))
    (user, items), *_ = lists.group_by("user_id", maintain_order=True).agg("item_id").rows()
    assert (first["user_id"], first["item_1"], first["item_25"]) == (user, items[0], items[24])

    monkeypatch.setenv(URL_ENV, url)
    second_result = write_sinks(project, instance, "recommendations_in_postgres")
    assert second_result.success
    export_metadata = metadata(second_result, "recommendations_in_postgres")
    assert (export_metadata["dagster/row_count"], export_metadata["users"]) == (lists.height, 60)
    assert export_metadata["table"] == "public.lists"
    assert export_metadata["database"].endswith(" at 127.0.0.1")
    rows = postgres.query("SELECT user_id, rank, item_id FROM lists", url=url)
    assert sorted(rows) == sorted(lists.select("user_id", "rank", "item_id").rows())
    for run in (result, second_result):
        assert "owner-secret" not in read_run_text(instance, run.run_id)


def write_lists(
    folder: Path, instance: dg.DagsterInstance, sink_settings: dict[str, Any], lists: pl.DataFrame
) -> dg.ExecuteInProcessResult:
    """Run a pipeline's sinks on these lists."""
    pipeline = Pipeline.model_validate(declaration("shop", "ratings.csv", sinks=sink_settings))
    pipeline._project = folder

    @dg.asset(key_prefix="shop", group_name="shop")
    def recommendations() -> pl.DataFrame:
        return lists

    storage = StorageResource(root=str(folder / "storage"), s3=S3Connection())
    return dg.materialize(
        [recommendations, *sinks.sink_assets(pipeline)],
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
BUSY = SinkUnavailableError("the server is starting up")


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
    "lasting", [SinkError("no such table"), DagsterExecutionInterruptedError()]
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


def test_an_export_goes_where_it_is_wanted(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    sinks = {"export": {"format": "jsonl", "rows": "per_item", "path": "out/lists.jsonl"}}
    result = write_lists(tmp_path, instance, sinks, build_large_table(2))
    export_metadata = metadata(result, "recommendations_export")
    assert export_metadata["file"] == str(tmp_path / "out/lists.jsonl")
    lines = (tmp_path / "out/lists.jsonl").read_text().splitlines()
    assert [json.loads(line)["rank"] for line in lines] == [1, 2, 3, 4, 5] * 2


@pytest.mark.parametrize(
    ("sinks", "reason"),
    [
        ({"url_env": "postgresql://shop:sesame@db/shop"}, "postgres.url_env: write the name of an"),
        ({"url_env": "{{ env.SESAME }}"}, "the name of an environment variable"),
        ({"url": "postgresql://shop:sesame@db/shop"}, "postgres.url: there is no such setting"),
        ({"url_env": "X", "table": "a.b"}, "postgres.table: write letters, digits and _"),
        ({"url_env": "X", "schema": 'a"b'}, "postgres.schema: write letters, digits and _"),
    ],
)
def test_a_secret_in_the_yaml_is_refused_and_not_repeated(
    project: Project, sinks: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESAME", "postgresql://shop:sesame@db/shop")
    project.declare(declaration("shop", "ratings.csv", sinks={"postgres": sinks}))
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    assert reason in str(error.value)
    assert "sesame" not in "".join(traceback.format_exception(error.value))


@pytest.mark.parametrize(
    ("sinks", "reason"),
    [
        ({"export": {"path": "ftp://x/y"}}, "sinks.export.path: write a path or s3"),
        ({"export": {"path": "s3://mailing"}}, "s3://mailing is a folder: add the file's name"),
        ({"export": {"path": "out/"}}, "out/ is a folder"),
        ({"dynamodb": {"table": "a b"}}, "sinks.dynamodb.table: write 3 to 255"),
        ({"dynamodb": {"table": "abc", "ttl_days": 0}}, "sinks.dynamodb.ttl_days: write a whole"),
        ({"redis": {}}, "sinks.redis: there is no such setting"),
    ],
)
def test_sinks_that_cannot_be_are_reported_when_loaded(
    project: Project, sinks: dict[str, Any], reason: str
) -> None:
    project.declare(declaration("shop", "ratings.csv", sinks=sinks))
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    assert reason in str(error.value)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ({"dynamodb": {"table": "lists"}}, {}, "sinks.dynamodb.table: lists"),
        (
            {"postgres": {"url_env": "SHOP_DATABASE_URL"}},
            {},
            "sinks.postgres.table: recommendations at SHOP_DATABASE_URL",
        ),
        (
            {"export": {"path": "out/lists.csv"}},
            {"export": {"path": "out/../out/lists.csv"}},
            "/out/lists.csv: change one",
        ),
    ],
)
def test_two_pipelines_that_write_to_one_place_are_refused_when_loaded(
    project: Project, first: dict[str, Any], second: dict[str, Any], reason: str
) -> None:
    project.declare(declaration("shop", "ratings.csv", sinks=first))
    project.declare(declaration("shop_2", "ratings.csv", sinks={**first, **second}))
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    lines = str(error.value).splitlines()
    for line, name in zip(lines, ("shop", "shop_2"), strict=True):
        assert f"/{name}/defs.yaml, line " in line
        assert ": shop and shop_2 write to the same place, sinks." in line
        assert reason in line


def test_two_lists_that_write_to_one_place_are_refused_when_loaded(project: Project) -> None:
    lists = {
        "home": {"sinks": {"export": {"path": "out/lists.csv"}}},
        "app": {"sinks": {"export": {"path": "out/lists.csv", "format": "jsonl"}}},
    }
    file = project.declare(declaration("shop", "ratings.csv", lists=lists))
    with pytest.raises(DeclarationError) as error, definitions(project):
        pass
    numbers = [
        number
        for number, line in enumerate(file.read_text().splitlines(), start=1)
        if "path: out/lists.csv" in line
    ]
    lines = str(error.value).splitlines()
    for line, number in zip(lines, numbers, strict=True):
        assert f"/shop/defs.yaml, line {number}: " in line
        assert "shop/home and shop/app write to the same place, sinks.export.path: " in line


def test_two_pipelines_with_sinks_of_their_own_load(project: Project) -> None:
    for name in ("shop", "shop_2"):
        sinks = {
            "dynamodb": {"table": f"{name}-lists"},
            "postgres": {"url_env": "SHOP_DATABASE_URL", "table": name},
            "export": {},
        }
        project.declare(declaration(name, "ratings.csv", sinks=sinks))
    with definitions(project) as defs:
        assert defs.resolve_job_def("shop_2_refresh")


def test_a_password_that_is_refused_is_not_kept(
    tmp_path: Path,
    instance: dg.DagsterInstance,
    postgres: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(URL_ENV, postgres.url(password="sesame"))
    result = write_lists(tmp_path, instance, POSTGRES, build_large_table(1))
    assert why(result) == (
        'sinks.postgres: password authentication failed for user "owner" at'
        f" 127.0.0.1:{postgres.port}; correct the user or the password in {URL_ENV}"
    )
    text = read_run_text(instance, result.run_id)
    assert "sesame" not in text
    assert "trying again" not in text


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
