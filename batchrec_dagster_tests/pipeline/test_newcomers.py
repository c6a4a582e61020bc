"""People without interactions get what `recommendations.newcomers` says, in every storage."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from click.testing import CliRunner

from batchrec_dagster.cli import main
from batchrec_dagster.config import Pipeline
from batchrec_dagster.storage.object_store import ObjectStore
from batchrec_dagster.storage.published_table import read_about
from batchrec_dagster_tests.guard.builders import (
    Project,
    declaration,
    metadata,
    module_project,
    refresh,
    write_ratings,
)
from batchrec_dagster_tests.guard.servers.s3 import S3Server

LISTS = "shop/curated/recommendations/recommendations.parquet"
KNOWN = [str(number) for number in range(1, 31)]
NEWCOMERS = ["new 1", "new 2", "new 3"]


class Shop:
    """A pipeline with newcomers, whose storage is a folder or a bucket."""

    def __init__(self, root: Path, s3: S3Server | None) -> None:
        root.mkdir()
        self.project: Project = module_project(root)
        self.store, self.root = ObjectStore({"local": self.project.storage}), "s3://local"
        if s3 is not None:
            bucket = s3.create_bucket()
            self.store, self.root = s3.store(), f"s3://{bucket}"
            self.project.environment = {**s3.environment(), "BATCHREC_STORAGE": f"s3://{bucket}"}
        write_ratings(root / "ratings.csv")
        users = pl.DataFrame({"user": KNOWN + NEWCOMERS})
        users.write_csv(root / "audience.csv")
        # Users of one country have one taste.
        countries = ["AT" if int(user) % 2 else "DE" for user in KNOWN] + ["AT", "XX", None]
        users.with_columns(country=pl.Series(countries)).write_csv(root / "customers.csv")

    def declare(self, **attributes: Any) -> None:
        self.project.declare(
            declaration(
                "shop",
                "ratings.csv",
                batch_users={"source": "audience.csv", "column": "user"},
                users={
                    "source": "customers.csv",
                    "columns": {"user": "user", "categories": {"COUNTRY": "country"}},
                },
                **attributes,
            )
        )

    def run(self, instance: dg.DagsterInstance) -> dict[str, Any]:
        result = refresh(self.project, "shop", instance, report=True)
        assert result.success
        return metadata(result, "recommendations")

    def read_lists(self) -> pl.DataFrame:
        return pl.read_parquet(io.BytesIO(self.store.get(f"{self.root}/{LISTS}")))

    def list_items(self, user: str) -> list[str]:
        lists = self.read_lists().filter(user_id=user).sort("rank")
        items: list[str] = lists["item_id"].to_list()
        return items


def count_people(shop: Shop, users: list[str] | None = None) -> list[str]:
    """The items that at least three of the users like, those of most users first."""
    ratings = pl.read_csv(shop.project.root / "ratings.csv", infer_schema=False)
    ratings = ratings.filter(pl.col("rating").cast(pl.Float64) >= 3.5)
    if users is not None:
        ratings = ratings.filter(pl.col("userId").is_in(users))
    people = ratings.group_by("movieId").agg(pl.col("userId").n_unique())
    people = people.filter(pl.col("userId") >= (3 if users is not None else 1))
    return people.sort("userId", "movieId", descending=[True, False])["movieId"].to_list()


def test_newcomers_get_what_is_popular_where_they_are(
    tmp_path: Path, s3: S3Server, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_CONFIG_FILE", os.devnull)
    lists = []
    for shop in (Shop(tmp_path / "folder", None), Shop(tmp_path / "bucket", s3)):
        shop.declare(
            popularity={"days": 10_000}, recommendations={"newcomers": {"popular_by": "COUNTRY"}}
        )
        facts = shop.run(instance)
        assert facts["newcomers"] == 3
        of_all = count_people(shop)
        in_austria = count_people(shop, [user for user in KNOWN if int(user) % 2])
        assert in_austria[:10] != of_all[:10]
        assert shop.list_items("new 1") == (in_austria + of_all)[:25]
        assert shop.list_items("new 2") == of_all[:25]
        first = shop.read_lists().filter(pl.col("rank") == 1)
        reason_by_user = dict(first.select("user_id", "reason").iter_rows())
        assert reason_by_user["new 1"] == "popular in AT"
        # There are no people in XX, and nobody knows where the third one is.
        assert reason_by_user["new 2"] == reason_by_user["new 3"] == "popular"
        assert {reason_by_user[user] for user in KNOWN} == {None}
        lists.append(shop.read_lists())
        # Nothing is made again while nothing changes.
        assert shop.run(instance)["outcome"] == "unchanged: not inferred again"
        assert shop.read_lists().equals(lists[-1])
    assert lists[0].equals(lists[1])
    assert_shown(tmp_path / "folder")


def assert_shown(root: Path) -> None:
    environment = {"BATCHREC_HOME": str(root / ".batchrec")}
    result = CliRunner().invoke(main, ["show", "new 1", "--json"], env=environment)
    assert result.exit_code == 0, result.output
    text = CliRunner().invoke(main, ["show", "new 1"], env=environment).output
    assert "popular in AT" in text
    assert "This user has no interactions" in text
    (shown,) = json.loads(result.output)["pipelines"]
    assert {entry["reason"] for entry in shown["recommendations"]} <= {
        "popular in AT",
        "popular in the last 10000 days",
    }


def test_newcomers_can_be_left_out(tmp_path: Path, instance: dg.DagsterInstance) -> None:
    shop = Shop(tmp_path / "shop", None)
    shop.declare(recommendations={"newcomers": "leave_out"})
    facts = shop.run(instance)
    assert facts["newcomers"] == 3
    lists = shop.read_lists()
    assert lists["user_id"].unique().sort().to_list() == sorted(KNOWN)
    assert "reason" not in lists.columns
    with io.BytesIO(shop.store.get(f"{shop.root}/{LISTS}")) as file:
        about = read_about(file)
    assert about["newcomers"] == {"users": 3, "get": "leave_out"}
    report = shop.store.get(f"{shop.root}/shop/curated/report/index.html").decode()
    assert "requested users got no list" not in report
    assert "have no interactions. They get no list" in report


def test_popular_by_needs_a_category_of_users() -> None:
    def declare(column: str, **attributes: Any) -> None:
        lists = {"newcomers": {"popular_by": column}}
        Pipeline.model_validate(declaration("shop", "a.csv", recommendations=lists, **attributes))

    users = {
        "source": "b.csv",
        "columns": {"user": "a", "categories": {"COUNTRY": "b"}, "numbers": {"AGE": "c"}},
    }
    declare("COUNTRY", users=users)
    with pytest.raises(ValueError, match=r"Users.COUNTRY does not exist: no users are declared"):
        declare("COUNTRY")
    with pytest.raises(ValueError, match=r"Users.CITY does not exist: users.columns declares"):
        declare("CITY", users=users)
    with pytest.raises(ValueError, match=r"Users.AGE is not one of users.columns.categories"):
        declare("AGE", users=users)
