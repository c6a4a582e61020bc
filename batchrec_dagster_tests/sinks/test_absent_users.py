"""Somebody who is no longer among the users is in no list that comes back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from batchrec_dagster.steps.publishing import PREVIOUS, build_rollback_config
from batchrec_dagster.storage.paths import PipelineFiles, StorageKeys
from batchrec_dagster.storage.resource import S3Connection, StorageResource
from batchrec_dagster.storage.suppressed_users import SuppressionList
from batchrec_dagster.storage.table_without_users import list_users
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

pytestmark = pytest.mark.slow

URL_ENV = "SHOP_DATABASE_URL"
# Equal lists for everyone who had nothing: the fastest recipe.
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
        self.write_ratings(0)
        sinks = {
            "postgres": {"url_env": URL_ENV},
            "export": {"path": str(self.export)},
        }
        self.project.declare(
            declaration(
                "shop",
                self.project.root / "ratings.csv",
                solution=QUICK,
                sinks=sinks,
                batch_users={"source": str(self.users), "column": "user"},
            )
        )

    @property
    def export(self) -> Path:
        return self.project.root / "lists.csv"

    @property
    def users(self) -> Path:
        return self.project.root / "users.csv"

    @property
    def files(self) -> PipelineFiles:
        storage = StorageResource(root=str(self.project.storage), s3=S3Connection())
        return PipelineFiles(storage, StorageKeys("shop"))

    def write_ratings(self, seed: int) -> None:
        write_ratings(self.project.root / "ratings.csv", seed=seed)

    def refresh(self, users: Sequence[str]) -> dg.ExecuteInProcessResult:
        self.users.write_text("\n".join(["user", *users]) + "\n")
        return refresh(self.project, "shop", self.instance, report=True)

    def roll_back(self, to: str = PREVIOUS) -> dg.ExecuteInProcessResult:
        with definitions(self.project) as defs:
            job = defs.resolve_job_def("shop_rollback")
            config = build_rollback_config("shop__recommendations", to)
            return job.execute_in_process(config, instance=self.instance)

    def read_sinks(self) -> tuple[set[str], set[str]]:
        """The users in PostgreSQL and in the CSV file."""
        rows = self.postgres.query("SELECT DISTINCT user_id FROM recommendations", url=self.url)
        export = pl.read_csv(self.export, infer_schema=False)
        return {user for (user,) in rows}, {*export.get_column("user_id")}

    def read_users(self) -> set[str]:
        """The users of the published lists, who are those of the sinks too."""
        published = {*table(self.project, "shop").get_column("user_id")}
        assert self.read_sinks() == (published, published)
        return published

    def read_about(self) -> dict[str, Any]:
        edition = self.files.table.current()
        assert edition is not None
        return {**edition.about}

    def read_older_users(self, number: int) -> set[str]:
        files = self.files
        (edition,) = [old for old in files.table.history_editions() if old.number == number]
        return {*list_users(files.table.read_edition(edition))}


@pytest.fixture
def shop(
    project: Project,
    instance: dg.DagsterInstance,
    postgres: PostgresServer,
    url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> Shop:
    monkeypatch.setenv(URL_ENV, url)
    return Shop(project, instance, postgres, url)


def test_absent_users_are_dropped_by_a_rollback(shop: Shop) -> None:
    assert shop.refresh(EVERYONE).success
    assert shop.read_users() == {*EVERYONE}
    shop.write_ratings(1)
    without_7 = [user for user in EVERYONE if user != "7"]
    assert shop.refresh(without_7).success
    assert shop.read_users() == {*without_7}

    # The edition of the first night comes back, user 7 does not.
    rollback = metadata(shop.roll_back(), "recommendations")
    about = shop.read_about()
    assert (about["edition"], about["users"], about["users_dropped"]) == (1, 60, 1)
    assert shop.read_users() == {*without_7}
    assert shop.read_older_users(1) == {*EVERYONE}
    assert (rollback["users"], rollback["users_dropped"]) == (59, 1)
    assert rollback["dagster/row_count"] == table(shop.project, "shop").height
    dropped = "1 user who is not among the current users (batch_users) was dropped"
    assert str(rollback["outcome"]).endswith(f", 59 users; {dropped}")
    report = (shop.project.storage / "shop/curated/report/index.html").read_text()
    assert "1 user was dropped from these lists later: gone from the current users" in report
    assert "requested users got no list" not in report

    # Lists that a refused night leaves live keep everybody.
    without_8 = [user for user in without_7 if user != "8"]
    refused = shop.refresh(without_8)
    assert not refused.success
    assert "Nothing was inferred and the published lists stay" in why(refused)
    assert shop.read_users() == {*without_7}

    # So many are missing that the data may be bad: only those who were erased go.
    SuppressionList(shop.files).add(["60"])
    assert shop.refresh(EVERYONE[:30]).success
    rollback = metadata(shop.roll_back("1"), "recommendations")
    assert str(rollback["outcome"]).endswith(
        "30 of the 60 users are not among the current users (batch_users), which is more than a"
        " fifth. They stay, because the current data may be bad; 1 erased user was dropped"
    )
    assert shop.read_users() == {*EVERYONE} - {"60"}

    # Whoever is among the users again gets a list again.
    without_60 = {*EVERYONE} - {"60"}
    shop.write_ratings(2)
    assert shop.refresh(EVERYONE).success
    assert shop.read_sinks() == (without_60, without_60)
    assert "users_dropped" not in shop.read_about()
    # Of the lists that they replaced, the history has all that were published.
    assert shop.read_older_users(1) == {*EVERYONE}
