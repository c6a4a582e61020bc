"""Tests that lists reach their sinks independently of each other, and follow a rollback."""

from __future__ import annotations

import csv
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    definitions,
    refresh,
    table,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.postgres import PostgresServer

pytestmark = pytest.mark.slow

URL_ENV = "SHOP_DATABASE_URL"
# The fastest recipe gives the same list to all users without a history.
QUICK = {"recipe": "aws-user-personalization"}
EVERYONE = [f"{user}" for user in range(1, 61)]


@dataclass
class Shop:
    """A pipeline with a file of its users, and two sinks."""

    project: Project
    instance: dg.DagsterInstance
    postgres: PostgresServer
    url: str

    def __post_init__(self) -> None:
        self.project.declare(
            declaration(
                "shop",
                "ratings.csv",
                solution=QUICK,
                sinks={"postgres": {"url_env": URL_ENV}, "export": {"path": "out/lists.csv"}},
                batch_users={"source": "users.csv", "column": "user"},
            )
        )

    def refresh(self, users: list[str], seed: int) -> dg.ExecuteInProcessResult:
        write_ratings(self.project.root / "ratings.csv", seed=seed)
        (self.project.root / "users.csv").write_text("\n".join(["user", *users]) + "\n")
        return refresh(self.project, "shop", self.instance)

    def run_all(self, job: str) -> dg.ExecuteInProcessResult:
        with definitions(self.project) as defs:
            return defs.resolve_job_def(job).execute_in_process(
                instance=self.instance, raise_on_error=False
            )

    def read_published(self) -> set[tuple[str, str]]:
        """Return the users and items of the published lists."""
        return {*table(self.project, "shop").select("user_id", "item_id").rows()}

    def read_postgres(self) -> set[tuple[Any, ...]]:
        query = "SELECT user_id, item_id FROM recommendations"
        return {*self.postgres.query(query, url=self.url)}

    def read_export(self) -> set[tuple[str, str]]:
        """Return the users and items of the export, with a row per user and a column per item."""
        with (self.project.root / "out/lists.csv").open(newline="") as file:
            rows = [*csv.DictReader(file)]
        return {
            (row["user_id"], item)
            for row in rows
            for column, item in row.items()
            if column.startswith("item_") and item
        }

    def read_run_text(self, run_id: str) -> str:
        """Return all text that Dagster stores about a run."""
        run = self.instance.get_run_by_id(run_id)
        return repr(run) + "".join(repr(entry) for entry in self.instance.all_logs(run_id))


@pytest.fixture
def shop(
    project: Project,
    instance: dg.DagsterInstance,
    postgres: PostgresServer,
    postgres_url: str,
) -> Shop:
    return Shop(project, instance, postgres, postgres_url)


@contextmanager
def variable(value: str | None) -> Iterator[None]:
    """Set the connection's environment variable until the end of the block."""
    with pytest.MonkeyPatch.context() as patch:
        if value is None:
            patch.delenv(URL_ENV, raising=False)
        else:
            patch.setenv(URL_ENV, value)
        yield


def test_sinks_get_what_is_published_and_follow_a_rollback(shop: Shop) -> None:
    # A failing sink stops no other sink, and withdraws nothing.
    with variable(None):
        failed = shop.refresh(EVERYONE, seed=0)
    assert not failed.success
    assert URL_ENV in shop.read_run_text(failed.run_id)
    first = shop.read_published()
    assert {user for user, _ in first} == {*EVERYONE}
    assert shop.read_export() == first

    # The next run writes the sink again. A refused password is not stored.
    with variable(shop.url.replace("owner-secret", "sesame")):
        refused = shop.refresh(EVERYONE, seed=0)
    assert not refused.success
    assert "sesame" not in shop.read_run_text(refused.run_id)
    with variable(shop.url):
        written = shop.refresh(EVERYONE, seed=0)
        assert written.success
        assert "owner-secret" not in shop.read_run_text(written.run_id)
        assert shop.read_postgres() == shop.read_export() == first

        without_7 = [user for user in EVERYONE if user != "7"]
        assert shop.refresh(without_7, seed=1).success
        assert shop.read_postgres() == shop.read_export() == shop.read_published() != first
        # The earlier lists come back, for users who are still present.
        assert shop.run_all("shop_rollback").success
        back = {(user, item) for user, item in first if user != "7"}
        assert shop.read_postgres() == shop.read_export() == shop.read_published() == back


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        ({"url_env": "postgresql://shop:sesame@db/shop"}, "postgres.url_env"),
        ({"url_env": "{{ env.SESAME }}"}, "the name of an environment variable"),
        ({"url": "postgresql://shop:sesame@db/shop"}, "postgres.url"),
        ({"url_env": "X", "table": "a.b"}, "postgres.table"),
        ({"url_env": "X", "schema": 'a"b'}, "postgres.schema"),
    ],
)
def test_a_secret_in_the_yaml_is_refused_and_not_repeated(
    project: Project, block: dict[str, Any], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SESAME", "postgresql://shop:sesame@db/shop")
    assert reason in refuse(project, {"shop": {"sinks": {"postgres": block}}})


def refuse(project: Project, pipelines: dict[str, dict[str, Any]]) -> str:
    """Return the message that refuses to load these pipelines."""
    for name, blocks in pipelines.items():
        project.declare(declaration(name, "ratings.csv", **blocks))
    with pytest.raises(Exception, match="sinks") as error, definitions(project):
        pass
    assert "sesame" not in "".join(traceback.format_exception(error.value))
    return str(error.value)


@pytest.mark.parametrize(
    ("sinks", "setting"),
    [
        ({"export": {"path": "ftp://x/y"}}, "sinks.export.path"),
        ({"export": {"path": "s3://mailing"}}, "sinks.export.path"),
        ({"export": {"path": "out/"}}, "sinks.export.path"),
        ({"dynamodb": {"table": "a b"}}, "sinks.dynamodb.table"),
        ({"dynamodb": {"table": "abc", "ttl_days": 0}}, "sinks.dynamodb.ttl_days"),
        ({"redis": {}}, "sinks.redis"),
    ],
)
def test_a_sink_that_cannot_be_is_named_when_the_project_loads(
    project: Project, sinks: dict[str, Any], setting: str
) -> None:
    assert setting in refuse(project, {"shop": {"sinks": sinks}})


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"dynamodb": {"table": "lists"}}, {"dynamodb": {"table": "lists"}}),
        ({"postgres": {"url_env": "X"}}, {"postgres": {"url_env": "X"}}),
        ({"export": {"path": "out/a.csv"}}, {"export": {"path": "out/../out/a.csv"}}),
    ],
)
def test_two_pipelines_that_write_to_one_place_do_not_load(
    project: Project, first: dict[str, Any], second: dict[str, Any]
) -> None:
    text = refuse(project, {"shop": {"sinks": first}, "films": {"sinks": second}})
    assert "shop/defs.yaml" in text
    assert "films/defs.yaml" in text


def test_two_lists_that_write_to_one_place_do_not_load(project: Project) -> None:
    lists = {
        "home": {"sinks": {"export": {"path": "out/lists.csv"}}},
        "app": {"sinks": {"export": {"path": "out/lists.csv", "format": "jsonl"}}},
    }
    text = refuse(project, {"shop": {"lists": lists}})
    assert "shop/home" in text
    assert "shop/app" in text


def test_two_pipelines_with_sinks_of_their_own_load(project: Project) -> None:
    for name in ("shop", "films"):
        sinks = {
            "dynamodb": {"table": f"{name}-lists"},
            "postgres": {"url_env": URL_ENV, "table": name},
            "export": {},
        }
        project.declare(declaration(name, "ratings.csv", sinks=sinks))
    with definitions(project) as defs:
        assert defs.resolve_job_def("films_refresh")


def test_an_export_without_a_path_is_in_the_storage(
    project: Project, instance: dg.DagsterInstance
) -> None:
    source = write_ratings(project.root / "ratings.csv")
    project.declare(declaration("shop", source, solution=QUICK, sinks={"export": {}}))
    assert refresh(project, "shop", instance).success
    file: Path = project.storage / "shop/curated/exports/recommendations.csv"
    assert len(file.read_text().splitlines()) == 61
