"""Sinks as assets: what they tell, what is tried again, and what one that fails leaves alone."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.postgres_server import PostgresServer
from batchrec_dagster_tests.support import (
    Project,
    declaration,
    definitions,
    metadata,
    refresh,
    table,
    why,
    write_ratings,
)

URL_ENV = "SHOP_DATABASE_URL"
QUICK = {"recipe": "aws-popularity-count", "compare_with_popularity": False}


def declare(project: Project, declared: dict[str, Any]) -> None:
    source = write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", source, solution=QUICK, sinks=declared))


def write_sinks(
    project: Project, instance: dg.DagsterInstance, *names: str
) -> dg.ExecuteInProcessResult:
    """Run sinks again, of lists that are there."""
    keys = [dg.AssetKey(["shop", name]) for name in names]
    with definitions(project) as defs:
        return defs.resolve_implicit_global_asset_job_def().execute_in_process(
            instance=instance, asset_selection=keys, raise_on_error=False
        )


def said_by(instance: dg.DagsterInstance, run_id: str) -> str:
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
    told = metadata(result, "recommendations_export")
    assert (told["dagster/row_count"], told["users"], told["lines"]) == (lists.height, 60, 60)
    assert told["file"] == str(project.storage / "shop/curated/exports/recommendations.csv")
    with Path(told["file"]).open(newline="") as file:
        first = next(csv.DictReader(file))
    (user, items), *_ = lists.group_by("user_id", maintain_order=True).agg("item_id").rows()
    assert (first["user_id"], first["item_1"], first["item_25"]) == (user, items[0], items[24])

    monkeypatch.setenv(URL_ENV, url)
    again = write_sinks(project, instance, "recommendations_in_postgres")
    assert again.success
    told = metadata(again, "recommendations_in_postgres")
    assert (told["dagster/row_count"], told["users"]) == (lists.height, 60)
    assert told["table"] == "public.lists"
    assert told["database"].endswith(" at 127.0.0.1")
    stored = postgres.query("SELECT user_id, rank, item_id FROM lists", url=url)
    assert sorted(stored) == sorted(lists.select("user_id", "rank", "item_id").rows())
    for run in (result, again):
        assert "owner-secret" not in said_by(instance, run.run_id)
